"""Files: the configuration and IoT Edge's, what we keep, and the PKCS#11 store."""

import tomllib
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from agent import (
    aziot_config,
    clock,
    config,
    config_factory,
    inputs,
    pkcs11,
    pkcs11_objects,
    telemetry_message,
    turn,
)
from agent.backoff import Backoff
from agent.errors import AgentError, ConfigError, Later, Refused
from agent.health import memory
from agent.moment import Moment
from agent.receipt import attest, lines, proof, shown
from agent.state import State, read_json
from agent.steps import assigned, ldevid_key, pending
from agent.tpm.approved import Maker
from agent.tpm.approved import State as BootState
from tests.fuzz.readers import NOW, directory, file, refused

HERE = Moment("8a5c8a78-1c46-4d28-a402-cdca8a650d13", 1000.0)
DESIRED = aziot_config.Desired(
    registration_id="device-0001",
    id_scope="0ne00LAB000",
    global_endpoint="https://dps.example",
    identity=aziot_config.TpmAttestation(tcti="device:/dev/tpmrm0"),
)


def configuration(data: bytes) -> None:
    for load in (config.load, config_factory.load):
        with refused(ConfigError):
            load(file(data, "config.toml"))


def payload(data: bytes) -> None:
    with refused(ConfigError):
        inputs.payload_in(data, Path("payload.json"))


def iot_edges_configuration(data: bytes) -> None:
    """Its owner's words stay, ours are there, and it is TOML; or nothing is written."""
    aziot_config.secrets_in(data)
    with refused(ConfigError):
        made = aziot_config.render(data, DESIRED, Path("config.toml"))
        found = tomllib.loads(made.decode())
        assert found["provisioning"]["id_scope"] == "0ne00LAB000"
        assert aziot_config.render(made, DESIRED, Path("config.toml")) == made


def state_files(data: bytes) -> None:
    """The same nonsense in all of them."""
    state = State(directory())
    for path in (state.assignment, state.health, state.pending, state.ldevid_slot, state.turn):
        path.write_bytes(data)
    _judged(state)
    _waits(read_json(state.turn) or {})
    assert state.slot in ("ldevid", "ldevid-2")


def _judged(state: State) -> None:
    assigned.load(state)
    pending._told(state.pending)
    found = memory.load(state)
    for trouble in found.trouble.values():
        error = memory.as_error(trouble)
        assert error is None or isinstance(error, AgentError)
    memory.save(state, found)


def _waits(kept: dict[str, object]) -> None:
    Backoff.of(kept).waits(NOW)
    there = turn.arrived(turn.Turn.of(kept), 60.0, HERE, NOW)
    assert turn.left(there, "device-0001", 60.0, HERE) >= 0
    later = turn.failed(there, turn.Failure("no", 5), "device-0001", 60.0, HERE, NOW)
    assert turn.left(later, "device-0001", 60.0, HERE) <= timedelta(days=8).total_seconds()


def saved_time(data: bytes) -> None:
    """What is damaged is nothing; never a time of the future that nobody has vouched for."""
    assert clock.Times(file(data, "clock.json")).floor is None or b'"sum"' in data


def unsent_line(data: bytes) -> None:
    telemetry_message._parsed(file(data, "telemetry.json"))


def wrapped_key(data: bytes) -> None:
    ldevid_key.read(file(data, "ldevid-key.pem"))


def pkcs11_store(data: bytes) -> None:
    """Its database; none is changed by being looked at."""
    place = file(data, pkcs11.DATABASE)
    with refused(ConfigError, Later):
        pkcs11.look(directory(), "edge")
    assert place.read_bytes() == data


def pkcs11_attributes(data: bytes) -> None:
    """What is in a row of the store, as libtpm2_pkcs11 writes it."""
    with refused(ValueError):
        pkcs11_objects.parse(data.decode("utf-8", "replace"))


def receipt(data: bytes) -> None:
    """Anybody's, on a machine that is to judge it; signed or not, its parts are read."""
    with refused(Refused, ConfigError):
        found = lines.parse(data)
        list(shown.as_text(shown.as_json(found)))
        lines.without_ek(data)
    with refused(Refused, ConfigError):
        proof.ek_path(lines.parse(data), file(b"", "roots.pem"))
    _parts_of_a_receipt(data)


def _parts_of_a_receipt(data: bytes) -> None:
    """What is behind the signature, though there is none."""
    with refused(ValueError):
        attest.parse(data)
    with refused(ValueError):
        lines._opened(sha256(data).hexdigest(), lines.text(data))


def boot_state(data: bytes) -> None:
    with refused(ValueError):
        state = BootState.of_json(data)
        assert BootState.of_json(state.as_json().encode()) == state
        assert len(state.to_sign) == 52


def policy_key(data: bytes) -> None:
    with refused(ValueError):
        assert len(Maker.of_pem(data).policy) == 32
