"""IoT Edge's commands, and the words of its identity service."""

import http.server
import json
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import aziot
from agent.errors import IotedgeFailed, IotedgeMissing, NotProvisioned

# As aziot-identityd 1.6 answers; the compact form is its own.
DPS = {
    "source": "dps",
    "auth": "x509",
    "endpoint": "https://global.azure-devices-provisioning.net/",
    "scope_id": "0ne00000001",
    "registration_id": "dev-1",
    "payload": None,
}
DEVICE = {
    "type": "aziot",
    "spec": {
        "hubName": "hub.azure-devices.net",
        "gatewayHost": "hub.azure-devices.net",
        "deviceId": "dev-one",
        "auth": {"type": "x509", "keyHandle": "sr=device-id&sig=eA==", "certId": "device-id"},
    },
}
NOT_FOUND = (400, {"message": "device identity not found"})


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the head of $PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def iotedge(path: Path, script: str) -> None:
    """An `iotedge` that does this."""
    program = path / "iotedge"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_apply_and_reprovision_are_the_verbs_of_iotedge(path: Path) -> None:
    iotedge(path, f'echo "$@" >> {path}/calls')
    aziot.apply()
    aziot.reprovision()
    assert (path / "calls").read_text() == "config apply\nsystem reprovision\n"


def test_it_gets_no_secrets_from_our_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    iotedge(path, f"/usr/bin/env > {path}/env; pwd > {path}/pwd; cat > {path}/stdin")
    aziot.apply()
    names = {line.split("=")[0] for line in (path / "env").read_text().splitlines()}
    assert names - {"_", "PWD", "OLDPWD", "SHLVL"} == {"PATH", "LC_ALL"}
    assert (path / "pwd").read_text() == "/\n"
    assert (path / "stdin").read_text() == ""


def test_no_iotedge_on_the_path(path: Path) -> None:
    with pytest.raises(IotedgeMissing, match="cannot run 'iotedge config apply': there is no"):
        aziot.apply()


def test_an_iotedge_that_cannot_be_started(path: Path) -> None:
    iotedge(path, "")
    (path / "iotedge").write_bytes(b"\x7fELF, but no program")
    with pytest.raises(IotedgeFailed, match="cannot run 'iotedge system reprovision': Exec format"):
        aziot.reprovision()


def test_what_it_said_before_it_failed_is_quoted_in_one_line(path: Path) -> None:
    iotedge(path, r'echo out; printf "\033[31mred\033[0m\a\r\n" >&2; exit 3')
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply()
    assert str(failed.value) == (
        "cannot run 'iotedge config apply': it ended with status 3, and said: 'out | red'"
    )


def test_silence_is_called_silence_and_a_signal_a_signal(path: Path) -> None:
    iotedge(path, "kill -SEGV $$")
    with pytest.raises(IotedgeFailed, match="was killed by signal 11, and said nothing"):
        aziot.apply()


def test_a_secret_it_repeats_is_made_unreadable_in_every_spelling(path: Path) -> None:
    iotedge(path, r"""echo 'bad: pin-value=a%20b, pin "a b", password = "x\"y"' ; exit 1""")
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply(secrets={"a b", "a%20b", 'x"y'})
    assert '\'bad: pin-value=***, pin "***", password = "***"\'' in str(failed.value)


def test_only_the_end_of_a_long_speech_is_quoted(path: Path) -> None:
    iotedge(path, "seq 1 100000; printf 'äöü%.0s' $(seq 200); echo; echo the end; exit 1")
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply()
    said = str(failed.value).partition("and said: ")[2]
    assert len(said.encode()) <= 502
    assert said.startswith("'...")
    assert said.endswith("äöü | the end'")


def gone(pid: int) -> bool:
    """Dead within two seconds: SIGKILL takes a moment."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.02)
    return False


def test_one_that_hangs_is_killed_with_its_children_and_its_words_are_kept(path: Path) -> None:
    iotedge(path, f"echo waiting for systemd; sleep 60 & echo $! > {path}/pid; wait")
    started = time.monotonic()
    with pytest.raises(IotedgeFailed, match=r"not finish within 0.5 seconds, and said: 'waiting"):
        aziot.apply(timeout=0.5)
    assert time.monotonic() - started < 5
    assert gone(int((path / "pid").read_text()))


def test_a_child_left_behind_neither_holds_us_up_nor_stays(path: Path) -> None:
    iotedge(path, f"sleep 60 & echo $! > {path}/pid")
    started = time.monotonic()
    aziot.apply(timeout=20)
    assert time.monotonic() - started < 5
    assert gone(int((path / "pid").read_text()))


def test_one_that_closes_its_output_first_is_waited_for(path: Path) -> None:
    iotedge(path, f"exec >/dev/null 2>&1; sleep 0.3; touch {path}/done; exit 4")
    with pytest.raises(IotedgeFailed, match="status 4"):
        aziot.apply()
    assert (path / "done").exists()


def test_nothing_of_ours_is_left_open(path: Path) -> None:
    iotedge(path, "exit 0")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    aziot.apply()
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


# --- the identity service ------------------------------------------------------------------------


class Service(socketserver.ThreadingUnixStreamServer):
    """Answers on a Unix socket what `replies` says: a target's status and JSON, or raw bytes."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.path = path
        self.replies: dict[str, Any] = {}
        self.requests: list[str] = []
        self.free = threading.Event()  # clear: it is busy, and answers nobody
        self.free.set()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.server.requests.append(
            f"{self.command} {self.path} {self.rfile.read(length).decode()}"
        )
        self.server.free.wait(20)
        reply = self.server.replies[self.path.partition("?")[0]]
        if isinstance(reply, bytes):
            self.wfile.write(reply)
            return
        status, answer = reply
        body = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """An identity service whose device is provisioned."""
    with Service(tmp_path / "identityd.sock") as server:
        server.replies = {
            "/identities/provisioning": (200, DPS),
            "/identities/device": (200, DEVICE),
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.free.set()
        server.shutdown()
        thread.join()


def test_a_provisioned_device_knows_its_hub_and_its_name_there(service: Service) -> None:
    assert aziot.provisioning(service.path) == aziot.Provisioning(
        endpoint="https://global.azure-devices-provisioning.net/",
        id_scope="0ne00000001",
        registration_id="dev-1",
        hub="hub.azure-devices.net",
        device_id="dev-one",
    )
    assert service.requests == [
        "GET /identities/provisioning?api-version=2021-12-01 ",
        'POST /identities/device?api-version=2021-12-01 {"type": "aziot"}',
    ]


@pytest.mark.parametrize(
    ("target", "reply", "reason"),
    [
        ("device", NOT_FOUND, "says: 'device identity not found' (400)"),
        ("device", (401, {"message": "authorization error"}), "says: 'authorization error' (401)"),
        (
            "device",
            (404, {"message": "Key client error\ncaused by: internal error"}),
            "says: 'Key client error | caused by: internal error' (404)",
        ),
        ("device", (200, {"type": "local"}), "was not understood"),
        ("device", (200, []), "was not understood"),
        ("provisioning", (200, {"source": "manual", "auth": "sas"}), "is set to 'manual', not"),
        ("provisioning", (200, {"source": "none"}), "is set to 'none', not to DPS"),
        ("provisioning", (500, "x"), "says: '\"x\"' (500)"),
        ("provisioning", b"HTTP/1.1 200 OK\r\n\r\n<html>", "says: '<html>' (200)"),
        ("provisioning", b"220 mail\r\n", "talks no HTTP, or hung up"),
        ("provisioning", b"", "talks no HTTP, or hung up"),
    ],
)
def test_why_it_is_not_provisioned_is_said_in_the_services_own_words(
    service: Service, target: str, reply: object, reason: str
) -> None:
    service.replies[f"/identities/{target}"] = reply
    said = aziot.provisioning(service.path)
    assert isinstance(said, str)
    assert reason in said


def test_no_socket_and_a_socket_nobody_listens_at(tmp_path: Path) -> None:
    missing = aziot.provisioning(tmp_path / "no.sock")
    assert missing == f"no identity service can be asked at '{tmp_path}/no.sock': " + os.strerror(2)
    with Service(tmp_path / "dead.sock"):
        pass
    assert "Connection refused" in str(aziot.provisioning(tmp_path / "dead.sock"))


def test_one_that_is_busy_with_dps_is_not_waited_for_for_ever(service: Service) -> None:
    service.free.clear()
    assert "still talking to DPS" in str(aziot.provisioning(service.path, timeout=0.2))


# --- confirmation --------------------------------------------------------------------------------


def test_it_is_confirmed_as_soon_as_the_service_says_so(service: Service) -> None:
    service.replies["/identities/device"] = NOT_FOUND
    later = threading.Timer(0.3, service.replies.__setitem__, ("/identities/device", (200, DEVICE)))
    later.start()
    found = aziot.confirm("dev-1", "0ne00000001", service.path, wait=10)
    later.join()
    assert found.device_id == "dev-one"


def test_a_device_that_stays_unprovisioned_is_reported_with_the_reason(service: Service) -> None:
    service.replies["/identities/device"] = NOT_FOUND
    with pytest.raises(NotProvisioned, match="'dev-1' is provisioned: the identity") as failed:
        aziot.confirm("dev-1", "0ne00000001", service.path, wait=0.1)
    assert "device identity not found" in str(failed.value)
    assert "'dev-1'" in failed.value.remedy


def test_one_provisioned_as_somebody_else_is_not_confirmed(service: Service) -> None:
    with pytest.raises(NotProvisioned, match="as 'dev-1' in the scope '0ne00000001', not in '0neB"):
        aziot.confirm("dev-1", "0neB", service.path, wait=0.1)
