"""What the owner has to revoke once a device is let go: certificates at their CAs, the enrolment at
DPS, the device at its hub. Read before anything is removed. Nothing in it is a secret."""

import shlex
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate

from agent import store, x509
from agent.config import Config
from agent.errors import ReceiptInvalid
from agent.receipt import lines
from agent.state import State, read_json
from agent.steps import assigned, aziot, forgetting

HandOver = dict[str, Any]
Who = Callable[[], str]
GROUP = "--dps-name DPS --resource-group GROUP"


def gather(conf: Config, state: State, who: Who, idevid: Certificate | None = None) -> HandOver:
    """`certificates`, each with `what`, `subject`, `issuer`, `serial` (hex), `sha256`, `not_after`;
    `registration` at DPS and the hub, as far as it is known here, or None. `who`: the registration
    id by the configuration. `idevid`: only if that goes, too."""
    found = [*_certificates(conf, state), *([("IDevID", idevid)] if idevid else [])]
    shown = list(map(_shown, _issued_by_others(found)))
    return {
        "certificates": [*shown, *_earlier(state, {each["sha256"] for each in shown})],
        "registration": _registration(conf, state, who),
    }


def merged(before: HandOver, now: HandOver) -> HandOver:
    """Of one reset and of another that came after it."""
    each = {shown["sha256"]: shown for shown in (*before["certificates"], *now["certificates"])}
    registration = now["registration"] or before["registration"]
    return {"certificates": list(each.values()), "registration": registration}


# --- certificates ---

Named = tuple[str, Certificate]


def _certificates(conf: Config, state: State) -> Iterator[Named]:
    for slot in (state, state.other):
        for path in (slot.ldevid_cert, slot.ldevid_next, slot.ldevid_issued):
            yield from (("LDevID", leaf) for leaf in x509.kept(store.read(path))[:1])
    if forgetting.has_edge(conf, state):
        directory = conf.aziot.state / "certd/certs"
        with store.permitted(directory):
            files = sorted(directory.glob("*.cer")) if directory.is_dir() else []
        for path in files:
            what = f"IoT Edge, {path.stem}"
            yield from ((what, leaf) for leaf in x509.kept(store.read(path))[:1])


def _issued_by_others(found: Iterable[Named]) -> Iterator[Named]:
    """Each once; not those that the device made for itself, or for its modules."""
    each = {x509.fingerprint(leaf): (what, leaf) for what, leaf in found}
    own = {leaf.subject for _, leaf in each.values()}
    yield from ((what, leaf) for what, leaf in each.values() if leaf.issuer not in own)


def _earlier(state: State, known: Collection[str]) -> Iterator[dict[str, str]]:
    """LDevID certificates of this owner that others came after: as the receipt has them. Who has a
    copy of a key has these, too, as long as they are valid."""
    for event in reversed(_events(state)):
        if (facts := event["facts"]) is None:  # another owner's, from here on
            return
        found = facts.get("ldevid") or {}
        if found.get("sha256") not in (None, *known) and _is_valid(found["not_after"]):
            known = {*known, found["sha256"]}
            told = {name: found[name] for name in ("subject", "issuer", "sha256", "not_after")}
            yield {"what": "LDevID, an earlier one", **told, "serial": _even(found["serial"])}


def _events(state: State) -> Sequence[Mapping[str, Any]]:
    try:
        return lines.parse(store.read(state.receipt) or b"").events
    except ReceiptInvalid:
        return ()


def _is_valid(not_after: str) -> bool:
    return datetime.fromisoformat(not_after) > datetime.now(UTC)


def _even(digits: str) -> str:
    """As OpenSSL names files."""
    return digits.upper().zfill(len(digits) + len(digits) % 2)


def _shown(named: Named) -> dict[str, str]:
    what, leaf = named
    return {
        "what": what,
        "subject": x509.written(leaf.subject),
        "issuer": x509.written(leaf.issuer),
        "serial": _even(f"{leaf.serial_number:x}"),
        "sha256": x509.fingerprint(leaf),
        "not_after": leaf.not_valid_after_utc.isoformat(),
    }


# --- DPS and the hub ---


def _registration(conf: Config, state: State, who: Who) -> dict[str, Any] | None:
    asked, hub, device_id = _of_edge(conf, state) if conf.for_edge else _of_device(state)
    if not asked and forgetting.has_edge(conf, state):
        asked, hub, device_id = _of_edge(conf, state)
    if not asked:
        return None
    return {
        "id": asked.get("registration_id") or who(),
        "id_scope": asked.get("id_scope"),
        "attestation": asked.get("attestation"),
        "individual": _individual(conf, asked.get("attestation")),
        "hub": hub,
        "device_id": device_id,
    }


def _individual(conf: Config, attestation: str | None) -> bool | None:
    """None: not known."""
    if attestation == "tpm":
        return True
    return None if conf.dps.enrolment is None else conf.dps.enrolment == "individual"


def asked(conf: Config, state: State) -> Iterator[dict[str, Any]]:
    """What DPS was asked with, each time that is known of; whichever way the device was meant to be
    then."""
    kept = assigned.load(state)
    yield from (dict(each.asked) for each in (kept.proven, kept.candidate) if each)
    if forgetting.has_edge(conf, state):
        yield _of_edge(conf, state)[0]


def _of_device(state: State) -> tuple[dict[str, Any], str | None, str | None]:
    kept = assigned.load(state)
    found = kept.proven or kept.candidate
    return (dict(found.asked), found.hub, found.device_id) if found else ({}, None, None)


def _of_edge(conf: Config, state: State) -> tuple[dict[str, Any], str | None, str | None]:
    """Whom DPS made of it, aziot-identityd keeps (its DeviceInfo): TOML."""
    asked = (read_json(state.registration) or {}).get("dps") or _told(conf)
    info = _toml(conf.aziot.state / "identityd/device_info")
    return asked, info.get("hub_name"), info.get("device_id")


def _told(conf: Config) -> dict[str, Any]:
    """What IoT Edge was to register with: it may have, before we came to know."""
    if not forgetting.was_told(conf):
        return {}
    found = _below(_toml(aziot.file(conf)), "provisioning")
    how = _below(found, "attestation")
    return {
        "registration_id": how.get("registration_id"),
        "id_scope": found.get("id_scope"),
        "endpoint": found.get("global_endpoint"),
        "attestation": how.get("method"),
    }


def _below(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A table; empty if its owner has made something else of it."""
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((store.read(path) or b"").decode())
    except ValueError:
        return {}


# --- in words ---


def as_text(found: HandOver) -> Iterator[str]:
    """For a person; lines that begin with four blanks are commands."""
    if not found["certificates"] and not found["registration"]:
        yield "Nothing is known here that is to be revoked, but for what it was enrolled with."
        return
    yield "To be revoked, by who let the device go:"
    for each in found["certificates"]:
        yield _in_line(f"  {each['what']}: '{each['subject']}', of '{each['issuer']}'")
        yield f"    serial {each['serial']}, sha256 {each['sha256']}, valid to {each['not_after']}"
    if found["registration"] and found["registration"]["individual"] is None:
        yield "  (at DPS the first, if it was enrolled individually; the second, if in a group)"
    yield from commands(found)


def commands(found: HandOver) -> Iterator[str]:
    """For CAs that OpenSSL's `ca` keeps (others take the serial number, too), for DPS and hub."""
    for each in found["certificates"]:
        file = f"newcerts/{each['serial']}.pem"
        yield f"    openssl ca -config CA.cnf -revoke {file} -crl_reason cessationOfOperation"
    if registration := found["registration"]:
        yield from _at_dps(registration)
        yield from _at_hub(registration)


def _at_dps(registration: dict[str, Any]) -> Iterator[str]:
    name = quoted(registration["id"])
    if registration["individual"] is not False:
        yield f"    az iot dps enrollment delete {GROUP} --enrollment-id {name}"
    if not registration["individual"]:
        verb = "az iot dps enrollment-group registration delete"
        yield f"    {verb} {GROUP} --registration-id {name}"


def _at_hub(registration: dict[str, Any]) -> Iterator[str]:
    hub = quoted(str(registration["hub"] or "HUB").partition(".")[0])
    device = quoted(registration["device_id"] or registration["id"])
    yield f"    az iot hub device-identity delete --hub-name {hub} --device-id {device}"


def quoted(name: object) -> str:
    """For a shell: a server said it."""
    return shlex.quote(_in_line(str(name)))


def _in_line(text: str) -> str:
    """What others have written makes no line of its own: commands are pasted."""
    return "".join(c if c.isprintable() else "?" for c in text)
