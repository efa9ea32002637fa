"""The words of IoT Edge's identity service."""

import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import aziot_identity
from agent.errors import NotProvisioned

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
    assert aziot_identity.provisioning(service.path) == aziot_identity.Provisioning(
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
    said = aziot_identity.provisioning(service.path)
    assert isinstance(said, aziot_identity.Unknown)
    assert reason in said.reason


def test_no_socket_and_a_socket_nobody_listens_at(tmp_path: Path) -> None:
    missing = aziot_identity.provisioning(tmp_path / "no.sock")
    assert str(
        missing
    ) == f"no identity service can be asked at '{tmp_path}/no.sock': " + os.strerror(2)
    with Service(tmp_path / "dead.sock"):
        pass
    assert "Connection refused" in str(aziot_identity.provisioning(tmp_path / "dead.sock"))


def test_one_that_is_busy_with_dps_is_not_waited_for_for_ever(service: Service) -> None:
    service.free.clear()
    assert "still talking to DPS" in str(aziot_identity.provisioning(service.path, timeout=0.2))


# --- patience ------------------------------------------------------------------------------------


def test_only_one_that_knows_of_nobody_is_nobody(service: Service) -> None:
    """The others may be somebody, and only be unable to say so."""
    silent = {"nobody": False, "listens": True}
    for reply, expected in [
        (NOT_FOUND, {"nobody": True, "listens": True}),
        ((404, {"message": "Key client error"}), silent),
        ((500, {"message": "internal error"}), silent),
        ((401, {"message": "authorization error"}), silent),
    ]:
        service.replies["/identities/device"] = reply
        said = aziot_identity.answer(service.path, wait=0.1)
        assert isinstance(said, aziot_identity.Unknown)
        assert {"nobody": said.nobody, "listens": said.listens} == expected


def test_one_that_is_slow_is_waited_for(service: Service) -> None:
    """As at a boot: systemd takes connections for a service that still starts."""
    service.free.clear()
    later = threading.Timer(0.5, service.free.set)
    later.start()
    found = aziot_identity.answer(service.path, wait=20)
    later.join()
    assert isinstance(found, aziot_identity.Provisioning)


def test_one_whose_key_is_not_there_yet_is_waited_for(service: Service) -> None:
    service.replies["/identities/device"] = (404, {"message": "Key client error"})
    later = threading.Timer(0.3, service.replies.__setitem__, ("/identities/device", (200, DEVICE)))
    later.start()
    found = aziot_identity.answer(service.path, wait=20)
    later.join()
    assert isinstance(found, aziot_identity.Provisioning)


def test_where_nobody_listens_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    said = aziot_identity.answer(tmp_path / "no.sock", wait=3600)
    assert isinstance(said, aziot_identity.Unknown)
    assert not said.listens


# --- confirmation --------------------------------------------------------------------------------


def test_it_is_confirmed_as_soon_as_the_service_says_so(service: Service) -> None:
    service.replies["/identities/device"] = NOT_FOUND
    later = threading.Timer(0.3, service.replies.__setitem__, ("/identities/device", (200, DEVICE)))
    later.start()
    found = aziot_identity.confirm("dev-1", "0ne00000001", service.path, wait=10)
    later.join()
    assert found.device_id == "dev-one"


def test_a_device_that_stays_unprovisioned_is_reported_with_the_reason(service: Service) -> None:
    service.replies["/identities/device"] = NOT_FOUND
    with pytest.raises(NotProvisioned, match="'dev-1' is provisioned: the identity") as failed:
        aziot_identity.confirm("dev-1", "0ne00000001", service.path, wait=0.1)
    assert "device identity not found" in str(failed.value)
    assert "'dev-1'" in failed.value.remedy


def test_one_provisioned_as_somebody_else_is_not_confirmed(service: Service) -> None:
    with pytest.raises(NotProvisioned, match="as 'dev-1' in the scope '0ne00000001', not in '0neB"):
        aziot_identity.confirm("dev-1", "0neB", service.path, wait=0.1)
