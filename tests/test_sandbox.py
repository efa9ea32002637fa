"""The process with the TPM has no network, the one with the network no TPM: a whole first boot so,
and what a worker gets that is in a stranger's hands."""

import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import deviceid, network, sas, traffic
from agent.errors import AgentError, NetworkProcess
from agent.fetch import NotThere
from agent.network import guard
from tests.lab import pki
from tests.lab.device import Wish
from tests.lab.process import free_port
from tests.lab.split import Apart, workers
from tests.lab.world import World


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("town") / "world", hub=True) as town:
        yield town


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process asks workers."""
    at = tmp_path / "network.sock"
    with workers(at):
        monkeypatch.setenv(network.PLACE, str(at))
        yield


def apart(town: World, at: Path, name: str = "split", attestation: Any = "x509") -> Apart:
    return Apart(town, at, Wish(id=name, target="device", attestation=attestation))


# --- all goes well ---


@pytest.mark.parametrize("attestation", ["x509", "tpm"])
def test_a_device_gets_to_its_hub_and_sends_without_a_network_of_its_own(
    town: World, tmp_path: Path, attestation: str
) -> None:
    """EST and DPS by a key that TLS 1.3 asks for, the hub by TLS 1.2; DPS and the hub by tokens."""
    name = f"split-{attestation}"
    with (
        apart(town, tmp_path / "device", name, attestation) as device,
        workers(device.network) as said,
    ):
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr + said.read_text()
        lines = tmp_path / "lines"
        lines.write_text("one\ntwo\n")
        sent = device.agent("telemetry", str(lines))
        assert sent.returncode == 0, sent.stderr + said.read_text()
        assert [each["text"] for each in town.hub.messages(name)] == ["one", "two"]
        assert said.read_text() == ""


def test_what_a_worker_has_sent_and_received_counts_here(town: World, far: None) -> None:
    before = traffic.traffic()
    with network.https(town.tls.trust) as https:
        reply = https.request("GET", f"{town.owner_est.url('basic')}/cacerts")
    assert reply.status == 200
    assert traffic.traffic().sent > before.sent
    assert traffic.traffic().received > before.received + len(reply.body)


@pytest.mark.usefixtures("far")
def test_who_sees_no_network_card_is_told_of_it() -> None:
    assert network.card(Path("/")) == deviceid.mac(Path("/"))
    assert deviceid.resolve("{mac}", card=lambda root: "02:00:00:00:00:01") == "02:00:00:00:00:01"
    one = deviceid.resolve("{hash}", card=lambda root: "02:00:00:00:00:01")
    assert one != deviceid.resolve("{hash}", card=lambda root: "02:00:00:00:00:02")


# --- what goes wrong there is told here, in the same words ---


def ways(town: World, at: Path) -> dict[str, tuple[Any, ...]]:
    """Trust, and what is asked."""
    foreign, nothing = at / "foreign.pem", at / "nothing.pem"
    foreign.write_bytes(pki.pem(pki.authority("Foreign CA").root))
    nothing.write_text("nothing")
    good, url = town.tls.trust, town.owner_est.url("basic")
    away = f"https://localhost:{free_port()}/"
    return {
        "nobody listens": (good, away),
        "a name that is none": (good, "https://nobody.invalid/"),
        "not trusted": (foreign, url),
        "another name": (good, url.replace("localhost", "127.0.0.2")),
        "no certificates": (nothing, url),
        "no file": (at / "away.pem", url),
        "not for a proxy": (good, url, {"HTTPS_PROXY": "ftp://proxy:1", "NO_PROXY": ""}),
        "a proxy that is away": (good, url, {"HTTPS_PROXY": away.replace("https", "http")}),
    }


def test_what_fails_there_is_told_in_the_same_words(
    town: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tmp_path / "network.sock"
    with workers(at):
        for name, (trust, url, *environment) in ways(town, tmp_path).items():
            with monkeypatch.context() as changed:
                for key, value in (environment or [{}])[0].items():
                    changed.setenv(key, value)
                here = failure(trust, url)
                changed.setenv(network.PLACE, str(at))
                there = failure(trust, url)
            assert (type(here), here.fields, here.remedy) == (
                type(there),
                there.fields,
                there.remedy,
            ), name
            assert str(here) == str(there), name


def failure(trust: Path, url: str) -> AgentError:
    with pytest.raises(AgentError) as caught, network.https(trust, timeout=10) as https:
        https.request("GET", url)
    return caught.value


@pytest.mark.usefixtures("far")
def test_a_file_that_is_not_there_is_no_failure_of_ours(town: World) -> None:
    host = town.owner_est.url("basic").split("/")[2]
    with pytest.raises(NotThere, match="answers 4"):
        network.get(f"https://{host}/none", [host])


# --- a worker that is no good ---


@pytest.mark.parametrize("command", ["true", "cat", "yes"])
def test_a_worker_that_ends_or_talks_nonsense_is_told_and_tried_again(
    town: World, tmp_path: Path, command: str
) -> None:
    with pytest.raises(NetworkProcess), workers(tmp_path / "n.sock", command=[command]):
        asked(town, tmp_path / "n.sock")


# In the place of a worker: it ends in the middle of a request.
DIES = """
import socket
from agent.network.frames import Frames
frames = Frames(socket.socket(fileno=0))
frames.receive()
frames.send({"result": None, "traffic": [0, 0]})
frames.receive()
"""


def test_a_worker_that_ends_in_a_request_counts_as_one_that_has_asked(
    town: World, tmp_path: Path
) -> None:
    """So that nobody is asked again and again without a pause."""
    before, command = traffic.traffic(), [sys.executable, "-c", DIES]
    with workers(tmp_path / "n.sock", command=command), pytest.raises(NetworkProcess):
        asked(town, tmp_path / "n.sock")
    assert traffic.traffic() != before


def test_where_nobody_listens_it_says_whom_to_start(town: World, tmp_path: Path) -> None:
    with pytest.raises(NetworkProcess, match=r"none\.sock.: No such file") as caught:
        asked(town, tmp_path / "none.sock")
    assert "systemctl restart tpm2cloud_network.socket" in caught.value.remedy


def asked(town: World, at: Path) -> None:
    from agent.network.far import FarHttps

    with FarHttps(at, town.tls.trust) as https:
        https.request("GET", "https://localhost/")


# In the place of a worker: it is asked to open a connection, and wants something signed.
CAPTURED = """
import socket, sys
from agent.network.frames import Frames
frames = Frames(socket.socket(fileno=0))
frames.receive()
frames.send({"sign": bytes.fromhex(sys.argv[1]), "hash": "sha256", "pss": False})
frames.send({"result": None, "traffic": [0, 0]} if frames.receive()["signed"] else {})
"""
REQUEST = b"\x30\x82\x01\x0a\x02\x01\x00\x30\x00"  # as a PKCS#10 begins
QUOTE = b"\xffTCG\x80\x18" + bytes(80)  # TPMS_ATTEST


@pytest.mark.parametrize("wanted", [REQUEST, QUOTE], ids=["csr", "quote"])
def test_a_captured_worker_gets_no_signature_but_a_login(
    town: World, tmp_path: Path, wanted: bytes
) -> None:
    command = [sys.executable, "-c", CAPTURED, wanted.hex()]
    with apart(town, tmp_path / "device") as device, workers(device.network, command=command):
        done = device.agent("provision")
        assert done.returncode == NetworkProcess.status, done.stderr
        assert "it wants a signature that it may not have: that is no handshake" in done.stderr
        assert town.dps.requests("split") == []


# --- what is a login ---


class Key:
    """Remembers what it has signed."""

    public_key = pki.authority("some key").key.public_key()

    def __init__(self) -> None:
        self.signed: list[bytes] = []

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        self.signed.append(digest)
        return b"signature"


def handshake(*kinds: int, length: int = 20) -> bytes:
    return b"".join(bytes([kind]) + length.to_bytes(3, "big") + bytes(length) for kind in kinds)


TLS_1_2 = (1, 2, 11, 12, 13, 14, 11, 16)
SERVERS = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
LOGINS = {
    "TLS 1.3, SHA-256": guard.TLS_1_3 + bytes(32),
    "TLS 1.3, SHA-384": guard.TLS_1_3 + bytes(48),
    "TLS 1.2": handshake(*TLS_1_2),
    "TLS 1.2, RSA key exchange": handshake(1, 2, 11, 13, 14, 11, 16),
    "TLS 1.2, OCSP stapled": handshake(1, 2, 11, 22, 12, 13, 14, 11, 16),
}
OTHERS = {
    "nothing": b"",
    "a request": REQUEST,
    "a quote": QUOTE,
    "a digest": hashlib.sha256(b"").digest(),
    "a token": b"scope%2Fregistrations%2Fname\n2000000000",
    "a server's": SERVERS,
    "a client's, too long": guard.TLS_1_3 + bytes(33),
    "spaces": b" " * 200,
    "a handshake, cut off": handshake(*TLS_1_2)[:-1],
    "a handshake, and more": handshake(*TLS_1_2) + b"\0",
    "a handshake in another order": handshake(2, 1, 11, 12, 13, 14, 11, 16),
    "a ClientHello": handshake(1),
    "a ClientHello with a request in it": handshake(1)[:4] + REQUEST,
}


UNHASHABLE = {"sign": guard.TLS_1_3 + bytes(32), "hash": ["sha256"]}


def test_only_a_handshake_is_signed_for_tls() -> None:
    key = Key()
    for name, message in LOGINS.items():
        guard.Tls(key).sign({"sign": message, "hash": "sha256"})
        assert key.signed.pop() == hashlib.sha256(message).digest(), name
    for name, message in OTHERS.items():
        with pytest.raises(guard.Denied):
            guard.Tls(key).sign({"sign": message, "hash": "sha256"})
        assert key.signed == [], name
    for odd in (
        {},
        {"sign": "text", "hash": "sha256"},
        {"sign": SERVERS, "hash": "sha1"},
        UNHASHABLE,
    ):
        with pytest.raises(guard.Denied):
            guard.Tls(key).sign(dict(odd))


def test_a_token_is_signed_for_this_device_at_this_hub_and_not_for_long() -> None:
    made: list[bytes] = []

    def make(text: bytes) -> bytes:
        made.append(text)
        return b"mac"

    judge = guard.Token("hub.example/devices/name", 3600, make)
    soon, late = int(time.time()) + 3600, int(time.time()) + 7200
    resource = "hub.example/devices/name"
    sas.token(resource, lambda text: judge.sign({"sign": text}), soon)
    assert len(made) == 1
    for other, expires in ((resource, late), ("hub.example/devices/other", soon)):
        with pytest.raises(guard.Denied):
            sas.token(other, lambda text: judge.sign({"sign": text}), expires)
    for text in (b"", b"hub.example%2Fdevices%2Fname\n", b"hub.example%2Fdevices%2Fname\n-1"):
        with pytest.raises(guard.Denied):
            judge.sign({"sign": text})
    assert len(made) == 1
