"""troubleshooting.md: what can go wrong, and what to do, from the errors and the image's checks
themselves. `docs/generate` writes it; a test keeps it equal."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent import events, lint
from agent.errors import AgentError, every_error, operator

PAGE = Path(__file__).with_name("troubleshooting.md")
# Where the trouble is, by the first word of its code, or words of it; the longest one counts.
PLACES = {
    "Configuration, files, and this machine": (
        "config", "certificate-file", "certificate-of", "secret", "credential", "trust", "ca",
        "root", "device-id", "hostname", "path", "payload", "user", "unit", "disk", "export",
        "product", "no-permission", "read-only", "busy", "stopped", "systemctl", "network-process",
        "proxy-unusable", "issuer", "internal", "key-of", "device-software",
    ),
    "The clock": ("clock", "dps-clock", "tls-dates", "tls-expired"),
    "The TPM": (
        "tpm", "nv", "handle", "srk", "csr", "attestation", "authorization", "escrow", "sealed",
        "pcr", "pcrs", "host-key", "password", "passwords", "owner",
    ),
    "Is the TPM genuine: the EK": ("ek",),
    "Who made this device: the IDevID": ("idevid", "policy", "approval", "approvals", "boot-state"),
    "Who owns it: the LDevID, and EST": (
        "ldevid", "est", "issued", "renewal", "renewed", "never-renewed", "certificate",
    ),
    "Names, connections, proxies, TLS": (
        "dns", "unreachable", "timed", "tls", "proxy", "http", "reply", "captive", "server",
        "later", "refused", "data",
    ),
    "DPS": ("dps", "reregisters", "challenge"),
    "The hub, and telemetry": ("hub", "telemetry", "message"),
    "IoT Edge, and its token": (
        "iotedge", "aziot", "edge", "token", "pkcs11", "tpmd", "not-provisioned", "not-yet",
        "never-provisioned",
    ),
    "At the factory": ("factory", "subject", "tcg"),
    "The receipt, and the end": ("receipt", "reset"),
    "The operator's tool": ("operator", "azure", "destroy", "operational", "enrol", "enrolment"),
}  # fmt: skip
ELSE = "Whatever else"
WHO = {
    os.EX_SOFTWARE: "whoever maintains this",
    os.EX_UNAVAILABLE: "a person",
    os.EX_TEMPFAIL: "nobody: tried again",
    os.EX_PROTOCOL: "a server's owner; tried again",
    os.EX_NOPERM: "a person",
    os.EX_CONFIG: "a person",
}
# Who sits before the operator's tool.
YOU = {os.EX_TEMPFAIL: "you: run it again", os.EX_PROTOCOL: "you, then run it again"}
HEAD = """\
# Troubleshooting

<!-- Made by docs/generate, of what the program itself says: change it there. -->

On the device, in this order:

```sh
tpm2cloud check                         # one verdict: what is to be done first, and why
tpm2cloud status                        # where it stands, step by step
tpm2cloud health --dry-run              # how its certificates are
journalctl -x -u tpm2cloud-firstboot    # what happened, with these explanations
```

Every failure is one sentence with a code in brackets, and a remedy; this page has all of them, by
where the trouble is. Words in capitals stand for what the message itself names. "Who acts" is what
the exit status says: 75 and 76 are tried again by themselves, for as long as it takes (by the
operator's tool they are not); 69, 77 and 78 wait for a person, who then says
`systemctl restart tpm2cloud-firstboot`. What many of these faults look like on a whole device, and
that their remedies help, is in `faults.md`.

A device that works needs none of this: `tpm2cloud check` says "Nothing is wrong with this device."
"""
IMAGE = """\
## A golden image (`tpm2cloud lint-image`)

*ROOT* is the image's root directory, *AT* what the finding is about. With an error the image is not
to be flashed.
"""


def page() -> str:
    """The whole of it, Markdown."""
    parts = [HEAD]
    every = sorted(every_error(), key=lambda kind: kind.code)
    for place in (*PLACES, ELSE):
        if rows := [_row(kind) for kind in every if where(kind.code) == place]:
            parts.append(f"## {place}\n\n{_table('Code', 'Means', 'Who acts', rows)}")
    found = [[rule.code, rule.meaning, rule.severity, rule.remedy] for rule in lint.every_code()]
    parts.append(f"{IMAGE}\n{_table('Code', 'Means', 'It is', found)}")
    return "\n".join(parts)


def where(code: str) -> str:
    """The place of a code."""
    words = {word: place for place, every in PLACES.items() for word in every}
    fits = [word for word in words if f"{code}-".startswith(f"{word}-")]
    return words[max(fits, key=len)] if fits else ELSE


def _row(kind: type[AgentError]) -> list[str]:
    who = WHO | (YOU if kind.__module__ == operator.__name__ else {})
    return [kind.code, events.meaning(kind), f"{who[kind.status]} ({kind.status})", kind.remedy]


def _table(code: str, means: str, third: str, rows: Iterable[list[str]]) -> str:
    return "".join(f"{line}\n" for line in _lines(code, means, third, rows))


def _lines(code: str, means: str, third: str, rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {code} | {means} | {third} | Remedy |"
    yield "|---|---|---|---|"
    for name, meaning, who, remedy in rows:
        yield f"| `{name}` | {_cell(meaning)} | {who} | {_cell(remedy)} |"


def _cell(text: str) -> str:
    """What Markdown would take for markup is none; fields are emphasised."""
    plain = re.sub(r"([\\|*<>`])", r"\\\1", text)
    return re.sub(r"{(\w+)}", lambda field: f"*{field[1].upper()}*", plain)
