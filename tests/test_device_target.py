"""A device without IoT Edge: `target = "device"`, from a virgin TPM to a hub that lets it in.

Each story is the life of one device, in the order it is told; all of it by the installed command.
"""

import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import store
from agent.state import State
from agent.steps import assigned
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.tools import Tools
from tests.lab.world import World
from tests.test_journal import told
from tests.test_patience import running

WELL = {"polls": 0, "retry_after": 0}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    at = tmp_path_factory.mktemp("town")
    with World(at / "world", hub=True, renewing=True, clock=Clock(at / "clock")) as town:
        yield town


@pytest.fixture
def make(town: World, tmp_path: Path) -> Iterator[Any]:
    """`make("name", attestation="tpm")`; DPS and the hub are well."""
    town.dps.behave(**WELL)
    town.hub.behave()
    with ExitStack() as stack:

        def made(name: str, **wish: Any) -> Device:
            asked = Wish(id=name, target="device", **wish)
            return stack.enter_context(Device(town, tmp_path / name, asked))

        yield made


def provisioned(device: Device, *arguments: str) -> list[str]:
    """The names of the steps, and for each whether it was done already."""
    done = device.agent("provision", *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert not any("IoT Edge" in line for line in lines)
    return [f"{line.split()[0]}{'' if ' already done: ' in line else '!'}" for line in lines]


def stopped(device: Device, status: int, code: str, *arguments: str) -> str:
    done = device.agent("provision", *arguments)
    assert done.returncode == status, done.stderr
    assert f"[{code}]" in done.stderr
    return done.stderr


def asked(device: Device) -> list[str]:
    """What DPS was asked for by this device."""
    return [each["step"] for each in device.world.dps.requests(device.wish.id)]


def logins(device: Device) -> list[tuple[str, bool]]:
    """Where it was let in, and where not."""
    found = device.world.hub.connections(device.wish.id)
    return [(each["by"] or each["reason"], each["accepted"]) for each in found]


def assignment(device: Device) -> assigned.Assignment:
    found = assigned.load(State(device.state))
    assert found.proven is not None
    assert found.candidate is None
    return found.proven


def hub_key(device: Device) -> bytes | None:
    with Tpm(device.tcti) as tpm:
        found = tpm.public(HUB_KEY)
    return found.blob if found else None


BY_TPM = ["tpm", "clock", "device-id", "ek", "srk", "same-tpm", "registration"]
ONCE = ["challenge", "register", "operation"]


def turned_away(device: Device) -> None:
    """Nobody knows the EK before it is there. It stays a refusal while DPS is left alone."""
    said = stopped(device, 76, "dps-not-enrolled")
    assert "registration: cannot" in said
    said = stopped(device, 76, "dps-not-enrolled")
    assert "or at once by: tpm2cloud provision --reregister" in said
    status = device.agent("status")
    assert status.returncode == 4
    assert f"registration  failed   cannot register '{device.wish.id}'" in status.stdout
    assert "[dps-not-enrolled]" in status.stdout
    written = State(device.state).failure.stat().st_mtime_ns
    with running(device, "EXTEND_TIMEOUT_USEC=") as run:  # a service waits before it ends,
        with store.lock(device.state), Tpm(device.tcti) as tpm:  # and is in nobody's way
            assert not tpm.loaded()
        run.terminate()
        assert run.wait() == -signal.SIGTERM
    assert State(device.state).failure.stat().st_mtime_ns == written  # it says the same


def test_by_tpm_from_a_virgin_chip_to_a_hub_that_lets_it_in_and_no_question_after_that(
    make: Any,
) -> None:
    device: Device = make("virgin", attestation="tpm", board=Board(virgin=True), enrolled=False)
    dry = device.agent("provision", "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == BY_TPM
    assert dry.stdout.splitlines()[-1].split()[1:] == ["would", "be", "done"]

    turned_away(device)
    device.enrol()
    stopped(device, 76, "dps-not-enrolled")
    assert asked(device) == ["challenge"]
    assert provisioned(device, "--reregister") == [*BY_TPM[:-1], "registration!"]
    assert asked(device) == ["challenge", *ONCE]
    assert logins(device) == [("token", True)]
    now = assignment(device)
    assert (now.hub, now.device_id) == (device.world.hub.host, "virgin")
    assert now.key is not None
    assert hub_key(device) == now.key.public
    with Tpm(device.tcti) as tpm:
        assert not tpm.loaded()
    assert stat.S_IMODE(State(device.state).assignment.stat().st_mode) == 0o600

    assert provisioned(device) == BY_TPM
    status = device.agent("status")
    assert status.returncode == 0
    line = f"registration  done     device 'virgin' at hub '{now.hub}', with the key at 0x81000100"
    assert line in status.stdout
    assert (asked(device), logins(device)) == (["challenge", *ONCE], [("token", True)])


BY_CERTIFICATE = [
    *("tpm", "clock", "device-id", "ek", "idevid", "srk", "same-tpm"),
    *("ldevid-key", "token", "ldevid-cert", "registration"),
]


def test_by_certificate_dps_and_the_hub_see_the_ldevid_and_a_renewed_one_is_registered(
    make: Any,
) -> None:
    device: Device = make("by-certificate")
    before = told(device)
    assert before.count("READY=1") == 1
    assert before[-2:] == ["READY=1", "STATUS=provisioned"]  # whoever comes after us finds a hub
    assert provisioned(device) == BY_CERTIFICATE
    assert asked(device) == ["register", "operation"]
    [seen] = device.world.hub.connections("by-certificate")
    assert (seen["accepted"], seen["by"], seen["tls"]) == (True, "certificate", "TLSv1.2")
    assert len(seen["chain"]) > 1
    assert assignment(device).key is None

    first, clock = assignment(device).asked["shown"], device.world.clock
    assert clock is not None
    clock.advance(timedelta(days=80))
    device.configure({"dps": {"fleet": 1_000_000}})  # its turn in that would be after hours
    health = device.agent("health")
    assert health.returncode == 0, health.stdout + health.stderr
    assert "LDevID: renewed" in health.stdout
    assert "IoT Edge" not in health.stdout
    assert assignment(device).asked["shown"] != first
    # the renewed one before it took the place of the other, and in it
    assert logins(device) == [("certificate", True)] * 3
    known = device.world.dps.devices()["by-certificate"]
    assert known["thumbprint"] == assignment(device).asked["shown"]


def test_what_it_is_registered_with_changes_and_only_then_it_is_registered_anew(make: Any) -> None:
    device: Device = make("changes", attestation="tpm")
    payload = device.etc / "payload.json"
    payload.write_text('{"site": "east"}')
    device.configure({"dps": {"payload": str(payload)}})
    provisioned(device)
    Tools(device.tcti, device.directory)("evictcontrol", "-C", "o", "-c", hex(HUB_KEY))
    assert hub_key(device) is None
    world = device.world
    world.dps.behave(odd={"challenge": "503"})  # the key is on the disk: nobody is asked for it
    assert provisioned(device)[-1] == "registration!"
    assert hub_key(device) is not None
    world.dps.behave(**WELL)
    assert (asked(device), logins(device)) == (ONCE, [("token", True)])

    payload.write_text('{ "site":\t"east" }')  # says the same
    assert provisioned(device) == BY_TPM
    payload.write_text('{"site": "west"}')
    assert provisioned(device)[-1] == "registration!"
    told_dps = [each["payload"] for each in world.dps.requests("changes") if "payload" in each]
    assert {"site": "west"} in told_dps
    assert asked(device) == ONCE * 2

    device.configure({"dps": {"id_scope": "0ne00OTHER0"}})
    before, key = assignment(device), hub_key(device)
    stopped(device, 76, "dps-scope")
    assert (assignment(device), hub_key(device)) == (before, key)
    said = device.agent("status").stdout  # what is in use is not what is asked for
    assert "registration  failed" in said


def not_forgotten(device: Device) -> None:
    """DPS is busy when it is told to register anew: that is a matter of the next run, then."""
    device.configure({"dps": {"fleet": 1_000_000}})  # its turn in that would be after hours
    before, key = assignment(device), hub_key(device)
    device.world.dps.behave(throttle=1, retry_after=3600)
    stopped(device, 75, "dps-throttled", "--reregister")
    device.world.dps.behave(**WELL)
    stopped(device, 75, "dps-waits")
    assert "registration  waiting" in device.agent("status").stdout
    assert (assignment(device), hub_key(device)) == (before, key)
    State(device.state).turn.unlink()


def test_moved_to_another_hub_it_goes_there_when_it_is_told_to_and_the_old_one_stays_till_then(
    make: Any,
) -> None:
    device: Device = make("moves", attestation="tpm")
    provisioned(device)
    world, before, key = device.world, assignment(device), hub_key(device)
    with world.another_hub() as other:
        world.dps.move("moves", other.host, stays=True)
        assert provisioned(device) == BY_TPM  # a boot asks nobody
        not_forgotten(device)

        other.behave(refuse=3)
        said = stopped(device, 75, "server-busy", "--reregister")
        assert other.host in said
        kept = assigned.load(State(device.state))
        assert (kept.proven, hub_key(device)) == (before, key)
        assert kept.candidate is not None
        assert kept.candidate.hub == other.host
        questions = asked(device)

        other.behave(refuse=5)
        stopped(device, 76, "hub-refused")
        assert (assignment(device), hub_key(device)) == (before, key)
        assert asked(device) == questions
        assert device.agent("status").returncode == 4

        other.behave()
        assert provisioned(device)[-1] == "registration!"  # a boot goes on with what was told
        assert asked(device) == [*questions, *ONCE]
        assert provisioned(device) == BY_TPM
        assert assignment(device).hub == other.host
        assert [each["accepted"] for each in other.connections()] == [False, False, True]
        assert hub_key(device) != key


def test_a_hub_that_is_away_costs_no_second_question_at_dps_and_a_cleared_tpm_starts_over(
    make: Any,
) -> None:
    device: Device = make("patient", attestation="tpm")
    device.world.hub.behave(close=True)
    said = stopped(device, 75, "hub-unreachable")
    assert "registration: cannot" in said
    assert hub_key(device) is None
    status = device.agent("status")
    assert status.returncode == 3
    assert "it is tried again" in status.stdout
    device.world.hub.behave()
    assert provisioned(device)[-1] == "registration!"
    assert asked(device) == ONCE

    before = assignment(device)
    Tools(device.tcti, device.directory)("clear", "-c", "p")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert "starting over" in done.stderr
    assert assignment(device) != before
    assert asked(device) == ONCE * 2


def test_reregister_is_for_devices_without_iot_edge(town: World, tmp_path: Path) -> None:
    device = Device(town, tmp_path / "edge", Wish())
    said = stopped(device, 78, "reregisters-itself", "--reregister")
    assert "iotedge system reprovision" in said
