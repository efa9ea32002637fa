"""A broker that nobody here wrote stands in the place of the hub: mosquitto. It cannot judge
tokens; what it can is MQTT, and TLS with client certificates."""

import hmac
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import TlsClientRefused, TlsUntrusted, Unreachable
from agent.hub import ByCertificate, ByToken, Hub, Route, Where
from agent.tpm import Tpm
from tests.lab import pki
from tests.lab.mosquitto import Mosquitto

SRK, KEY = 0x81000001, 0x81000002
DEVICE = "device-0001"
BY_TOKEN = ByToken(lambda data: hmac.digest(b"secret", data, "sha256"), 3600)
Start = Callable[..., Mosquitto]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(tmp_path: Path, ca: pki.Authority, stack: ExitStack) -> Start:
    """`start(clients)`: a broker; `stack.close()` ends it."""
    return lambda clients=None: stack.enter_context(
        Mosquitto(tmp_path / "broker", ca, clients).running()
    )


def hub(broker: Mosquitto, credential: ByToken | ByCertificate, trust: Path | None = None) -> Hub:
    return Hub(Where(broker.host, DEVICE), credential, Route(trust or broker.tls.trust))


def test_messages_go_to_the_hubs_topic_with_their_properties_and_are_acknowledged(
    start: Start,
) -> None:
    broker = start()
    with hub(broker, BY_TOKEN) as ours:
        ours.connect()
        ours.send(b'{"booted": true}', "one")
        ours.send("grüß Gott".encode(), "two", "text/plain")
    first, second = broker.received(2)
    assert (first["payload"], second["payload"]) == ('{"booted": true}', "grüß Gott")
    assert (first["qos"], first["retain"]) == (1, 0)
    assert first["topic"].startswith(f"devices/{DEVICE}/messages/events/")
    for part in ("%24.mid=one", "%24.ct=application%2Fjson", "%24.ce=utf-8"):
        assert part in first["topic"]
    assert "%24.ct=text%2Fplain" in second["topic"]
    assert f"u'{broker.host}/{DEVICE}/?api-version=" in broker.log()
    assert f"Received DISCONNECT from {DEVICE}" in broker.log(), "it says good-bye"


@pytest.fixture
def key(tpm: Tpm) -> Tpm:
    """With an LDevID key."""
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    with tpm.load(SRK, *tpm.create_key(SRK, "ecc256")) as made:
        tpm.persist(made, KEY)
    return tpm


def certified(tpm: Tpm, by: pki.Authority, file: Path) -> ByCertificate:
    signer = tpm.signer(KEY)
    file.write_bytes(pki.pem(by.issue(signer.public_key, DEVICE), *by.chain[:-1]))
    return ByCertificate(signer, file)


def test_a_certificate_whose_key_is_in_the_tpm_logs_in(
    key: Tpm, tmp_path: Path, start: Start
) -> None:
    owner = pki.authority("Owner")
    broker = start(owner)
    with hub(broker, certified(key, owner, tmp_path / "ldevid.pem")) as ours:
        ours.connect()
        ours.send(b"{}", "one")
        ours.connect()  # as after a lost connection: signs again
        ours.send(b"{}", "two")
    assert len(broker.received(2)) == 2
    assert key.loaded() == set()

    stranger = certified(key, pki.authority("Stranger"), tmp_path / "strange.pem")
    with hub(broker, stranger) as ours, pytest.raises(TlsClientRefused, match="cannot log in"):
        ours.connect()


def test_who_is_not_trusted_and_who_is_away_are_told_apart(
    start: Start, tmp_path: Path, stack: ExitStack
) -> None:
    broker, other = start(), pki.authority("Other").save(tmp_path / "other").root
    with hub(broker, BY_TOKEN, trust=other) as ours, pytest.raises(TlsUntrusted):
        ours.connect()
    with hub(broker, BY_TOKEN) as ours:
        ours.connect()
        stack.close()  # the broker goes
        with pytest.raises(Unreachable, match="lost"):
            ours.send(b"{}", "one")
        with pytest.raises(Unreachable, match="refused"):
            ours.connect()
