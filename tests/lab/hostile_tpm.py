"""Ways to misbehave of a DPS that is asked by a TPM: challenges, and keys, that are none."""

import base64
import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from tests.lab import dps_tpm
from tests.lab.hostile import Hostile, Talk, Way, http, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_dps_ways import BEGUN, OPERATION, REGISTER, VERSION, replied, reply
from tests.lab.hostile_http import How

CHALLENGE = "DPS REST, TpmAttestation"
IMPORT = "TPM 2.0, 3, 13.3"
ACTIVATE = "TPM 2.0, 3, 12.5"
KEY = os.urandom(32)


def asks(talk: Talk, how: str = "right", **changes: Any) -> bytes:
    """The challenge: for the TPM that asks, or spoilt (tests/lab/dps_tpm.py)."""
    keys = json.loads(talk.request.body)["tpm"]
    ek, srk = (base64.b64decode(keys[name]) for name in ("endorsementKey", "storageRootKey"))
    said = {"authenticationKey": dps_tpm.blob(dps_tpm.Parents(ek, srk), KEY, how)}
    said |= {"keyName": "registration", "unencryptedAuthenticationKey": None, **changes}
    return reply(401, json.dumps(said).encode())


def challenged(how: str = "right", then: Way | None = None, **changes: Any) -> How:
    """... and when the answer to it comes, this."""

    def register(talk: Talk) -> None:
        if "authorization" in talk.request.headers:
            (then or whole(http(500)))(talk)
        else:
            talk.line.sendall(asks(talk, how, **changes))

    return at_once(register)


def at_once(register: Way, operation: Callable[[Bench], Way] | None = None) -> How:
    @contextmanager
    def how(bench: Bench) -> Any:
        polled = operation(bench) if operation else replied(202, BEGUN)
        ways = {f"register{VERSION}": register, f"{OPERATION}{VERSION}": polled}
        with Hostile(bench.tls, ways) as there:
            yield there.port

    return how


def assigned(how: str | None, state: Callable[[Bench], dict[str, Any]] = lambda _: {}) -> How:
    """It lets the TPM in, and then the hub key is so; None: there is none."""

    @contextmanager
    def made(bench: Bench) -> Any:
        asked: dict[str, bytes] = {}

        def register(talk: Talk) -> None:
            if "authorization" in talk.request.headers:
                replied(202, BEGUN)(talk)
            else:
                asked["body"] = talk.request.body
                talk.line.sendall(asks(talk))

        def operation(talk: Talk) -> None:
            replied(200, result(bench, asked["body"], how) | state(bench))(talk)

        with at_once(register, lambda _: operation)(bench) as port:
            yield port

    return made


def result(bench: Bench, body: bytes, how: str | None) -> dict[str, Any]:
    keys = json.loads(body)["tpm"]
    parents = dps_tpm.Parents(
        *(base64.b64decode(keys[n]) for n in ("endorsementKey", "storageRootKey"))
    )
    name = bench.device("tpm").wish.id
    tpm = {} if how is None else {"authenticationKey": dps_tpm.blob(parents, KEY, how)}
    state = {
        "registrationId": name,
        "assignedHub": bench.world.hub.host,
        "deviceId": name,
        "status": "assigned",
        "tpm": tpm,
    }
    return {"operationId": OPERATION, "status": "assigned", "registrationState": state}


def bare(**content: Any) -> How:
    """A 401 with this in it."""
    return at_once(replied(401, content))


def again(talk: Talk) -> None:
    talk.line.sendall(reply(401, b'{"message": "Out of date"}'))


REFUSED = "dps-key-of-another-tpm"
CHALLENGES = [
    Row("401 without a challenge", CHALLENGE, "dps-unauthorized", bare(message="No"), at="tpm"),
    Row(
        "A challenge, as 200", REGISTER, "dps-garbled", at_once(whole(reply(200, b"{}"))), at="tpm"
    ),
    Row(
        "authenticationKey: a number", CHALLENGE, "dps-garbled", bare(authenticationKey=5), at="tpm"
    ),
    Row(
        "authenticationKey: not base64",
        CHALLENGE,
        "dps-garbled",
        challenged("not-base64"),
        at="tpm",
    ),
    Row(
        "authenticationKey of 100 KB",
        CHALLENGE,
        "dps-garbled",
        bare(authenticationKey="A" * 100000),
        at="tpm",
    ),
    Row("authenticationKey: nothing", CHALLENGE, "dps-garbled", challenged("empty"), at="tpm"),
    Row(
        "authenticationKey: three bytes",
        CHALLENGE,
        "dps-key-invalid",
        bare(authenticationKey="AAAA"),
        at="tpm",
    ),
    Row(
        "authenticationKey: sizes beyond its end",
        "TPM 2.0, 2, 10.4.1",
        "dps-key-invalid",
        bare(authenticationKey=base64.b64encode(b"\xff" * 900).decode()),
        at="tpm",
    ),
    Row(
        "authenticationKey: half of it",
        CHALLENGE,
        "dps-key-invalid",
        challenged("truncated"),
        at="tpm",
    ),
    Row(
        "authenticationKey: 64 KB behind it",
        CHALLENGE,
        "dps-garbled",
        challenged("oversized"),
        at="tpm",
    ),
    Row("For another EK", ACTIVATE, REFUSED, challenged("other-ek"), at="tpm"),
    Row("For another SRK", ACTIVATE, REFUSED, challenged("other-srk"), at="tpm"),
    *(
        Row(f"A bit of its {part}", of, code, challenged(f"flipped-{part}"), at="tpm")
        for part, of, code in [
            ("credential", ACTIVATE, REFUSED),
            ("secret", ACTIVATE, REFUSED),
            ("private", IMPORT, "dps-key-not-taken"),
            ("seed", IMPORT, "dps-key-not-taken"),
            ("public", IMPORT, "dps-key-not-taken"),
        ]
    ),
    Row(
        "A bit of its trailer",
        CHALLENGE,
        "dps-trouble",
        challenged("flipped-trailer"),
        "nobody reads that",
        at="tpm",
    ),
    Row(
        "keyName with line ends",
        "RFC 9110, 5.5",
        "dps-garbled",
        challenged(keyName="x\r\nCookie: a"),
        at="tpm",
    ),
    Row(
        "keyName: a list", CHALLENGE, "dps-garbled", challenged(keyName=["registration"]), at="tpm"
    ),
    Row(
        "keyName: null",
        CHALLENGE,
        "dps-trouble",
        challenged(keyName=None),
        "it is 'registration'",
        at="tpm",
    ),
    Row(
        "unencryptedAuthenticationKey: a key in the clear",
        CHALLENGE,
        "dps-trouble",
        challenged(unencryptedAuthenticationKey="AAAA"),
        "it is not used",
        at="tpm",
    ),
    Row("Challenges for ever", CHALLENGE, "dps-unauthorized", challenged(then=again), at="tpm"),
    Row(
        "Every answer to it gets another challenge",
        CHALLENGE,
        "dps-unauthorized",
        challenged(then=replied(401, {"authenticationKey": "AAAA"})),
        at="tpm",
    ),
]

KEYS = [
    Row("Assigned, without a hub key", REGISTER, "dps-no-hub-key", assigned(None), at="tpm"),
    Row(
        "Assigned, the hub key is for another EK", ACTIVATE, REFUSED, assigned("other-ek"), at="tpm"
    ),
    Row(
        "Assigned, half of a hub key",
        CHALLENGE,
        "dps-key-invalid",
        assigned("truncated"),
        at="tpm",
    ),
    Row(
        "Assigned, the hub key is not base64",
        CHALLENGE,
        "dps-garbled",
        assigned("not-base64"),
        at="tpm",
    ),
    Row(
        "Assigned, a hub key with a bit of it changed",
        IMPORT,
        "dps-key-not-taken",
        assigned("flipped-private"),
        at="tpm",
    ),
    Row(
        "Assigned, with a hub key that the hub does not know",
        REGISTER,
        "hub-refused",
        assigned("right"),
        "it is tried there, and given up",
        at="tpm",
    ),
]

ROWS = [*CHALLENGES, *KEYS]
