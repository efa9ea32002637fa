"""`tpm2cloud telemetry`: what is sent arrives, through whatever comes in between; and how it ends
where nothing can be done."""

import json
import os
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.hub import Hub
from tests.lab.proxy import Proxy
from tests.lab.telemetry import FOREVER, Day, Start, kept, reading, send, starting, write
from tests.lab.world import World

ID, DAY = "device-0001", "device-of-a-day"
RENEWALS = 50


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """Of all but the last tests it is ours."""
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("cloud") / "world", hub=True, clock=clock) as world:
        yield world


@pytest.fixture(scope="module", autouse=True)
def day(cloud: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """While the other tests do what they do."""
    wish = Wish(id=DAY, target="device", attestation="tpm", enrolled=False)
    with (
        cloud.another_hub() as hub,
        Device(cloud, tmp_path_factory.mktemp("day") / "device", wish) as device,
    ):
        day = Day(device, hub)
        yield day
        day.end()


@pytest.fixture(scope="module")
def provisioned(cloud: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """By its EK."""
    wish = Wish(id=ID, target="device", attestation="tpm")
    with Device(cloud, tmp_path_factory.mktemp("device") / "device", wish) as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        yield device


@pytest.fixture
def device(provisioned: Device, cloud: World) -> Device:
    """All is well, and it is registered."""
    cloud.hub.behave()
    cloud.dps.behave(retry_after=0)
    cloud.dps.at_hub(ID, enabled=True)
    provisioned.configure({})
    for each in ("turn.json", "telemetry.json"):
        provisioned.state.joinpath(each).unlink(missing_ok=True)
    return provisioned


@pytest.fixture
def hub(cloud: World) -> Hub:
    return cloud.hub


def arrived(hub: Hub, since: int = 0) -> list[str]:
    return [m["text"] for m in hub.messages(ID)[since:]]


# --- what is sent ---


def test_each_line_is_a_message_and_all_are_acknowledged(device: Device, hub: Hub) -> None:
    before = len(hub.messages(ID))
    lines = b'{"temperature": 21.5}\n\n  \nplain text\r\n\xff\xfe raw\nno line end'
    done = send(device, text=lines)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().splitlines() == [f"connected to {hub.host}", "4 acknowledged"]
    messages = hub.messages(ID)[before:]
    assert [m["text"] for m in messages[:2]] == ['{"temperature": 21.5}', "plain text"]
    assert messages[3]["text"] == "no line end"
    assert [m["properties"].get("$.ct") for m in messages] == [
        "application/json",
        "text/plain",
        "application/octet-stream",
        "text/plain",
    ]
    assert len({m["mid"] for m in messages}) == 4


def test_a_file_is_sent_and_what_is_too_large_is_left_out_and_told(
    device: Device, hub: Hub, tmp_path: Path
) -> None:
    before, file = len(hub.messages(ID)), tmp_path / "lines"
    file.write_text("first\n" + "x" * 262144 + "\nlast\n")
    done = send(device, str(file))
    assert done.returncode == 76
    assert b"[message-too-large]" in done.stderr
    assert b"2 acknowledged, 1 too large" in done.stderr
    assert arrived(hub, before) == ["first", "last"]


def test_a_number_of_test_messages(device: Device, hub: Hub) -> None:
    before = len(hub.messages(ID))
    assert send(device, "--count", "3", "--interval", "0s").returncode == 0
    sent = [json.loads(text) for text in arrived(hub, before)]
    assert [(each["message"], each["of"]) for each in sent] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "wrong", [["--count", "0"], ["--interval", "soon"], ["--count", "1", "file"], ["--patience"]]
)
def test_what_is_asked_for_wrongly_is_said_at_once(device: Device, wrong: list[str]) -> None:
    assert send(device, *wrong).returncode == 2


def test_by_websockets_through_the_proxy_of_the_configuration(device: Device, hub: Hub) -> None:
    with Proxy(hub.routes) as proxy:
        device.configure({"hub": {"transport": "websockets"}, "proxy": {"url": proxy.url}})
        assert send(device, "--count", "1").returncode == 0
    assert hub.connections(ID)[-1]["transport"] == "websockets"


def test_by_certificate_with_the_key_in_the_tpm(cloud: World, tmp_path: Path) -> None:
    wish = Wish(id="by-certificate", target="device", attestation="x509")
    with Device(cloud, tmp_path / "device", wish) as device:
        assert device.agent("provision").returncode == 0
        assert send(device, "--count", "2", "--interval", "0s").returncode == 0
        cloud.dps.at_hub("by-certificate", thumbprint="00" * 32)
        done = send(device, "--count", "1")
        assert done.returncode == 0, done.stderr
        assert b"DPS is asked anew" in done.stderr
    last = cloud.hub.connections("by-certificate")[-1]
    assert (last["by"], last["tls"]) == ("certificate", "TLSv1.2")
    assert len(cloud.hub.messages("by-certificate")) == 3


# --- what comes in between ---


def test_dropped_connections_cost_no_message_and_the_same_one_keeps_its_id(
    device: Device, hub: Hub
) -> None:
    """Two of them were stored, though that was not acknowledged any more."""
    before = len(hub.messages(ID))
    hub.behave(drop_at=[2])
    text = "".join(f"{n}\n" for n in range(5))
    done = send(device, text=text.encode())
    assert done.returncode == 0, done.stderr
    messages = hub.messages(ID)[before:]
    assert [m["text"] for m in messages] == ["0", "1", "1", "2", "3", "4"]
    assert len({m["mid"] for m in messages}) == 5
    assert b"5 acknowledged" in done.stderr


def test_a_rotated_key_makes_it_register_again(device: Device, hub: Hub, cloud: World) -> None:
    asked, before = len(cloud.dps.assigned(ID)), len(hub.messages(ID))
    cloud.dps.rotate(ID)
    done = send(device, text=b"one\n")
    assert done.returncode == 0, done.stderr
    assert b"DPS is asked anew" in done.stderr
    assert arrived(hub, before) == ["one"]
    assert len(cloud.dps.assigned(ID)) == asked + 1
    done = send(device, text=b"two\n")
    assert b"anew" not in done.stderr, "the new key is kept"


# --- what it does not get through ---


def test_a_device_that_is_disabled_is_told_what_dps_says(device: Device, cloud: World) -> None:
    cloud.dps.at_hub(ID, enabled=False)
    cloud.dps.enrolment(ID, enabled=False)
    try:
        done = send(device, "--count", "1")
    finally:
        cloud.dps.enrolment(ID, enabled=True)
    assert done.returncode == 76
    assert b"[dps-disabled]" in done.stderr
    assert b"0 acknowledged" in done.stderr


def test_a_hub_that_is_away_is_given_up_after_a_while(device: Device, hub: Hub) -> None:
    hub.behave(close=True)
    done = send(device, "--patience", "0s", text=b"one\n")
    assert done.returncode == 75
    assert b"unreachable]" in done.stderr


def test_a_stranger_in_the_hubs_place_is_not_waited_for(device: Device, tmp_path: Path) -> None:
    device.configure({"dps": {"trust": str(device.etc / "owner-ca.pem")}})
    done = send(device, text=b"one\n")
    assert done.returncode == 76
    assert b"[tls-untrusted]" in done.stderr


def test_before_it_is_registered_and_where_iot_edge_is(cloud: World, tmp_path: Path) -> None:
    wish = Wish(id="new", target="device", attestation="tpm", enrolled=False)
    with Device(cloud, tmp_path / "new", wish) as device:
        done = send(device, "--count", "1")
        assert (done.returncode, b"[never-provisioned]" in done.stderr) == (75, True)
    with Device(cloud, tmp_path / "edge") as device:
        done = send(device, "--count", "1")
        assert (done.returncode, b"[telemetry-elsewhere]" in done.stderr) == (78, True)


# --- as a service ---


@pytest.fixture
def start(device: Device) -> Iterator[Start]:
    """`start()`: with a pipe to it."""
    with starting(device) as begin:
        yield begin


def test_a_service_never_gives_up_and_says_at_its_end_what_was_sent(
    start: Start, hub: Hub, cloud: World
) -> None:
    before, connected = len(hub.messages(ID)), len(hub.connections(ID))
    cloud.dps.at_hub(ID, enabled=False)
    cloud.dps.enrolment(ID, enabled=False)
    service = start(*FOREVER)
    write(service, b"one\n")
    hub.wait(lambda: len(hub.connections(ID)) >= connected + 3)
    assert service.poll() is None
    cloud.dps.at_hub(ID, enabled=True)
    cloud.dps.enrolment(ID, enabled=True)
    hub.wait(lambda: arrived(hub, before) == ["one"])
    write(service, b"two\n")
    hub.wait(lambda: arrived(hub, before) == ["one", "two"])
    service.send_signal(signal.SIGTERM)
    assert service.stderr is not None
    said = service.stderr.read().decode()
    assert service.wait(30) == 0
    assert "2 acknowledged" in said
    assert said.count("[dps-disabled]") <= 1, "told once"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[int]:
    """As systemd gives it: it has no end, and is there between two runs."""
    os.mkfifo(tmp_path / "telemetry")
    fd = os.open(tmp_path / "telemetry", os.O_RDWR | os.O_NONBLOCK)
    yield fd
    os.close(fd)


def test_a_line_in_hand_when_it_is_stopped_is_sent_first_by_the_next_and_under_the_same_id(
    device: Device, hub: Hub, pipe: int
) -> None:
    """The lines after it stay in the pipe."""
    hub.behave(drop_at=list(range(1, 99)))  # stored, but never acknowledged
    before = len(hub.messages(ID))
    os.write(pipe, b"one\ntwo\n")
    with reading(device, pipe):
        hub.wait(lambda: len(hub.messages(ID)) > before)
    assert kept(device).stat().st_mode & 0o777 == 0o600
    hub.behave()
    met = len(hub.messages(ID))
    with reading(device, pipe):
        hub.wait(lambda: len(hub.messages(ID)) == met + 2)
        hub.wait(lambda: not kept(device).exists())
    assert [m["text"] for m in hub.messages(ID)[met:]] == ["one", "two"]
    assert hub.messages(ID)[met]["mid"] == hub.messages(ID)[before]["mid"]


def test_half_a_line_is_sent_whole_and_with_no_line_of_another_pipe(
    device: Device, hub: Hub, pipe: int
) -> None:
    before, met = len(hub.messages(ID)), len(hub.connections(ID))
    os.write(pipe, b'{"temperature": 2')
    with reading(device, pipe):
        hub.wait(lambda: len(hub.connections(ID)) > met)
        hub.wait(lambda: not select.select([pipe], [], [], 0)[0])
    assert kept(device).exists()
    assert send(device, text=b"by hand\n").returncode == 0
    os.write(pipe, b"1.5}\n")
    with reading(device, pipe):
        hub.wait(lambda: len(hub.messages(ID)) == before + 2)
    assert arrived(hub, before) == ["by hand", '{"temperature": 21.5}']
    assert not kept(device).exists()


def test_it_stops_at_once_while_it_registers_again_and_holds_nobody_up(
    device: Device, hub: Hub, cloud: World, pipe: int
) -> None:
    asked = len(cloud.dps.requests(ID))
    cloud.dps.rotate(ID)
    cloud.dps.behave(retry_after=200, polls=50)
    os.write(pipe, b"one\n")
    began = time.monotonic()
    with reading(device, pipe):
        hub.wait(lambda: len(cloud.dps.requests(ID)) >= asked + 2)
    assert time.monotonic() - began < 200
    turn = device.state / "turn.json"
    assert not turn.exists() or "stopped" not in turn.read_text()
    cloud.dps.behave(retry_after=0)
    before = len(hub.messages(ID))
    with reading(device, pipe):
        hub.wait(lambda: arrived(hub, before) == ["one"])


def test_a_tpm_that_is_away_for_a_moment_is_waited_for(device: Device, hub: Hub, pipe: int) -> None:
    """Its driver is reset, or its resource manager restarted, while the connection is lost."""
    before = len(hub.messages(ID))
    os.write(pipe, b"one\n")
    with reading(device, pipe) as service:
        hub.wait(lambda: arrived(hub, before) == ["one"])
        device.power_cut()
        try:
            hub.behave(drop_at=[1], stored=False)
            os.write(pipe, b"two\n")
            assert service.stderr is not None
            assert any("[tpm-unavailable]; trying again" in line for line in service.stderr)
        finally:
            device.power_on()
        hub.wait(lambda: arrived(hub, before) == ["one", "two"])


def test_where_nothing_can_be_kept_it_says_so(device: Device, hub: Hub, pipe: int) -> None:
    hub.behave(drop_at=list(range(1, 99)), stored=False)
    ended = len(hub.closed(ID))
    in_the_way = device.state / f".{kept(device).name}.new"
    in_the_way.mkdir()
    try:
        os.write(pipe, b"one\n")
        command, env = device.agent_command("telemetry", *FOREVER), device.environment()
        service = subprocess.Popen(command, env=env, stdin=pipe, stderr=subprocess.PIPE)
        hub.wait(lambda: len(hub.closed(ID)) >= ended + 2)
        service.terminate()
        said = service.communicate(timeout=60)[1]
    finally:
        in_the_way.rmdir()
    assert service.returncode == 75
    assert b"0 acknowledged, 1 not acknowledged (not kept)" in said


# --- time ---


def test_a_clock_that_is_wrong_costs_nothing_but_the_wait(
    start: Start, device: Device, hub: Hub, tmp_path: Path
) -> None:
    """Half an hour behind that of all others, until it is set."""
    device.configure({"hub": {"token_lifetime": "121s"}})
    own, before, met = Clock(tmp_path), len(hub.messages(ID)), len(hub.connections(ID))
    own.jump(-timedelta(minutes=30))
    service = start(*FOREVER, **own.environment())
    write(service, b"one\n")
    hub.wait(lambda: len(hub.connections(ID)) >= met + 2)
    assert not any(c["accepted"] for c in hub.connections(ID)[met:])
    own.jump(timedelta(minutes=30))
    hub.wait(lambda: arrived(hub, before) == ["one"])


def test_a_day_of_tokens_loses_no_message_and_doubles_none_and_then_it_moves(
    day: Day, cloud: World
) -> None:
    """To another hub, where it follows when the next token is refused."""
    hub = day.hub
    hub.wait(lambda: len(hub.connections(DAY)) > RENEWALS)
    assert all(c["accepted"] for c in hub.connections(DAY))
    assert len({c["expires"] for c in hub.connections(DAY)}) > RENEWALS // 2, "seconds are coarse"
    cloud.dps.move(DAY, cloud.hub.host)
    cloud.hub.wait(lambda: len(cloud.hub.messages(DAY)) > 0)
    day.end()
    assert (day.provisioned.returncode, day.status) == (0, 0), day.said
    got = Counter(m["text"] for h in (hub, cloud.hub) for m in h.messages(DAY))
    assert got == Counter(str(n) for n in range(day.lines))
    assert f"{day.lines} acknowledged" in day.said
    assert "Traceback" not in day.said


def test_a_token_that_ended_while_the_device_was_suspended_is_made_anew(
    start: Start, hub: Hub, cloud: World, clock: Clock
) -> None:
    service, before, asked = start(*FOREVER), len(hub.messages(ID)), len(cloud.dps.requests(ID))
    write(service, b"one\n")
    hub.wait(lambda: arrived(hub, before) == ["one"])
    clock.advance(timedelta(hours=2))
    write(service, b"two\n")
    hub.wait(lambda: arrived(hub, before) == ["one", "two"])
    assert len(cloud.dps.requests(ID)) == asked
