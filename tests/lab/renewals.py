"""The companion's way with the LDevID, on a device of the lab; and what must be true of it.

This file is also a program: what `tpm2cloud health` does about the LDevID, and no more.
"""

import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.clock import Clock
    from tests.lab.device import Device
    from tests.lab.nginx import Request
    from tests.lab.world import World


@dataclass(frozen=True)
class Told:
    """`code` of the error, `until` as in Backoff.as_json; `status` if it was none of a server's."""

    what: str
    words: str = ""
    code: str = ""
    backoff: dict[str, Any] | None = None
    status: int = 0


def renew(
    device: "Device", *, overdue: bool = False, due: bool = True, after: Told | None = None
) -> Told:
    """One run; `after`: what the one before has told, whose pause it keeps."""
    wish = {"overdue": overdue, "due": due, "backoff": after.backoff if after else {}}
    done = device.run([sys.executable, "-P", __file__, str(device.config), json.dumps(wish)])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return Told(**json.loads(done.stdout))


def asked(world: "World") -> list["Request"]:
    """What the owner's EST server was asked for."""
    return world.requests(world.owner_est)


def operations(requests: "list[Request]") -> list[str]:
    return [each.uri.rpartition("/")[2] for each in requests]


def waits(told: Told, clock: "Clock") -> timedelta:
    assert told.backoff is not None
    return timedelta(seconds=told.backoff["not_before"] - clock.now().timestamp())


@dataclass(frozen=True)
class Held:
    """The LDevID as a device has it. `key`: SubjectPublicKeyInfo, DER."""

    slot: str
    chain: bytes
    key: bytes
    serial: int


def agree(device: "Device", url: str = "") -> Held:
    """Certificate, key file, token, TPM and IoT Edge's configuration are of one LDevID, and the
    owner's EST server lets it in, or the one at `url`."""
    from agent import pkcs11, x509
    from agent.state import State
    from agent.steps import ldevid_key, srk
    from agent.tpm import Tpm

    state = State(device.state)
    chain = x509.parse(state.ldevid_cert.read_bytes())
    key, config = ldevid_key.read(state.ldevid_key), (device.aziot / "config.toml").read_text()
    assert key is not None
    assert state.ldevid_cert.as_uri() in config or "bootstrap_identity_cert" not in config
    with Tpm(device.tcti) as tpm:
        there = tpm.public(ldevid_key.HANDLE)
        token = pkcs11.look(device.pkcs11, "edge", below=tpm.serialized(srk.HANDLE))
        assert there is not None
        assert token is not None
        assert there.blob == key.public
        assert there.key == chain[0].public_key()
        assert token.holds(state.slot, key.public)
        _log_in(device, tpm, chain, url or device.world.owner_est.url("mtls"))
    if not url:
        last = device.world.requests(device.world.owner_est)[-1]
        assert (last.status, last.verify) == (200, "SUCCESS")
        assert int(last.serial, 16) == chain[0].serial_number
    spki = x509.spki(chain[0].public_key())
    return Held(state.slot, state.ldevid_cert.read_bytes(), spki, chain[0].serial_number)


def _log_in(device: "Device", tpm: Any, chain: Any, url: str) -> None:
    from agent.http import Https
    from agent.steps import enrol, ldevid_key

    with (
        enrol.by_key(tpm.signer(ldevid_key.HANDLE, known=True), chain) as client,
        Https(device.world.tls.trust, **client) as https,
    ):
        assert https.request("GET", f"{url}/cacerts").status == 200


def main(file: Path, wish: dict[str, Any]) -> dict[str, Any]:
    from agent import config
    from agent.errors import AgentError
    from agent.health.renewal import Backoff, renew
    from agent.state import State
    from agent.steps import preflight
    from agent.tpm import Tpm

    conf, state = config.load(file), State(Path(os.environ["STATE_DIRECTORY"]))
    with Tpm(conf.tpm.tcti, {}, state.loaded) as tpm:
        try:
            found = renew(
                tpm,
                conf,
                state,
                lambda: preflight.who(conf, tpm),
                Backoff.of(wish["backoff"]),
                datetime.now(UTC),
                wish["overdue"],
                due=wish["due"],
            )
        except AgentError as e:
            return {"what": "raised", "words": str(e), "code": e.code, "status": e.status}
    code = found.error.code if found.error else ""
    backoff = found.backoff.as_json()
    return {"what": found.what, "words": found.words, "code": code, "backoff": backoff}


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), json.loads(sys.argv[2])), sys.stdout)
