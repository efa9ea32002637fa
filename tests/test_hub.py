"""A device and its IoT hub: tokens and certificates that the hub judges, and what is said when it
does not let the device in, is away, or is not what it should be."""

import base64
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import (
    HubRefused,
    ServerBusy,
    TimedOut,
    TlsCertificateUnusable,
    TlsUntrusted,
    TpmUnavailable,
    TrustUnreadable,
    Unreachable,
)
from agent.hub import ByCertificate, Hub, Route, Where
from agent.tpm import Tpm
from tests.lab import pki
from tests.lab.hub import Hub as LabHub
from tests.lab.hub_device import DEVICE, SECRET, Open, by_token, healthy, knows, last, opening

SRK, KEY = 0x81000001, 0x81000002


@pytest.fixture(scope="module")
def owner() -> pki.Authority:
    return pki.authority("Owner")


@pytest.fixture(scope="module")
def running(
    ca: pki.Authority, owner: pki.Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabHub]:
    at = tmp_path_factory.mktemp("hub")
    enrolled = [owner.save(at / "owner").root]
    with LabHub(at / "hub", ca, at / "hubs.json", enrolled=enrolled).running() as hub:
        yield hub


@pytest.fixture
def lab(running: LabHub) -> LabHub:
    return healthy(running)


@pytest.fixture
def ours(lab: LabHub) -> Iterator[Open]:
    """`ours()`: this device's side, not connected yet."""
    with opening(lab) as make:
        yield make


# --- who is let in ---


def test_a_token_lets_the_device_in_and_its_messages_are_acknowledged(
    lab: LabHub, ours: Open
) -> None:
    hub, before = ours(), len(lab.messages())
    hub.connect()
    hub.send(b'{"n": 1}', "one")
    hub.send("grüß Gott".encode(), "two", "text/plain")
    assert [(m["text"], m["mid"]) for m in lab.messages()[before:]] == [
        ('{"n": 1}', "one"),
        ("grüß Gott", "two"),
    ]
    assert (last(lab)["by"], last(lab)["accepted"], last(lab)["tls"]) == ("token", True, "TLSv1.2")


def test_a_key_that_the_hub_does_not_know_any_more_is_refused(lab: LabHub, ours: Open) -> None:
    hub = ours()
    hub.connect()
    knows(lab, key=base64.b64encode(b"another").decode())
    hub.send(b"{}", "one")  # who is inside stays inside
    with pytest.raises(HubRefused, match=r"cannot log in to .* as 'device-0001': ") as refused:
        hub.connect()
    assert lab.host in refused.value.remedy
    knows(lab, key=base64.b64encode(SECRET).decode(), enabled=False)
    with pytest.raises(HubRefused):
        hub.connect()


@pytest.fixture
def key(tpm: Tpm) -> Tpm:
    """With an LDevID key."""
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    with tpm.load(SRK, *tpm.create_key(SRK, "ecc256")) as made:
        tpm.persist(made, KEY)
    return tpm


def test_a_certificate_with_its_key_in_the_tpm_lets_it_in_if_the_hub_knows_it(
    lab: LabHub, ours: Open, key: Tpm, owner: pki.Authority, tmp_path: Path
) -> None:
    signer, chain = key.signer(KEY), tmp_path / "ldevid.pem"
    certificate = owner.issue(signer.public_key, DEVICE)
    chain.write_bytes(pki.pem(certificate, *owner.chain[:-1]))
    knows(lab, thumbprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest())
    hub = ours(ByCertificate(signer, chain))
    hub.connect()
    hub.send(b"{}", "one")
    assert hub.due() == float("inf"), "nothing to renew"
    assert (last(lab)["by"], last(lab)["accepted"]) == ("certificate", True)
    assert last(lab)["tls"] == "TLSv1.2"
    knows(lab, thumbprint="00" * 32)
    with pytest.raises(HubRefused):
        hub.connect()
    assert key.loaded() == set()


class Broken:
    """The TPM is gone when it is asked to sign."""

    def __init__(self, key: Tpm) -> None:
        self.public_key = key.signer(KEY).public_key

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        raise TpmUnavailable("cannot talk to the TPM: it is gone", tcti="x", path="x")


def test_what_the_tpm_said_is_told_and_not_the_handshake_that_failed_of_it(
    ours: Open, key: Tpm, owner: pki.Authority, tmp_path: Path
) -> None:
    chain = tmp_path / "ldevid.pem"
    chain.write_bytes(pki.pem(owner.issue(key.signer(KEY).public_key, DEVICE)))
    with pytest.raises(TpmUnavailable, match="it is gone"):
        ours(ByCertificate(Broken(key), chain)).connect()
    chain.write_bytes(pki.pem(owner.issue(pki.new_key().public_key(), DEVICE)))
    with pytest.raises(TlsCertificateUnusable, match="another key"):
        ours(ByCertificate(key.signer(KEY), chain)).connect()


# --- a connection that does not last ---


def test_a_token_is_renewed_when_the_library_asks_and_nothing_is_lost(
    lab: LabHub, ours: Open
) -> None:
    """It asks 120 s before the end."""
    woken = threading.Event()
    hub, before = ours(by_token(122), wake=woken.set), len(lab.connections())
    hub.connect()
    first = last(lab)["expires"]
    while last(lab)["expires"] == first:
        assert woken.wait(30)
        woken.clear()
        hub.keep()
    hub.send(b"{}", "after")
    assert lab.messages()[-1]["mid"] == "after"
    assert len(lab.connections()) == before + 2
    assert all(c["accepted"] for c in lab.connections()[before:])


def keep(hub: Hub, woken: threading.Event) -> None:
    """Until it fails."""
    while woken.wait(30):
        woken.clear()
        hub.keep()


def test_a_renewed_token_that_is_refused_is_told(lab: LabHub, ours: Open) -> None:
    woken = threading.Event()
    hub = ours(by_token(122), wake=woken.set)
    hub.connect()
    knows(lab, key=base64.b64encode(b"another").decode())
    with pytest.raises(HubRefused):
        keep(hub, woken)
    with pytest.raises(Unreachable, match="the connection was lost"):
        hub.send(b"{}", "one")


def test_a_dropped_connection_is_told_and_what_was_not_acknowledged_is_not_sent_by_itself(
    lab: LabHub, ours: Open
) -> None:
    hub, before = ours(), len(lab.messages())
    hub.connect()
    lab.behave(drop_at=[1], stored=False)
    with pytest.raises((Unreachable, TimedOut)):
        hub.send(b"{}", "one")
    hub.connect()
    hub.send(b"{}", "two")
    assert [m["mid"] for m in lab.messages()[before:]] == ["two"]


def test_an_acknowledgement_that_never_comes_is_not_waited_for_for_ever(
    lab: LabHub, ours: Open
) -> None:
    hub = ours(patience=0.3)
    hub.connect()
    lab.behave(silent=True)
    with pytest.raises(TimedOut, match="no answer in time"):
        hub.send(b"{}", "one")
    lab.behave()
    hub.connect()
    hub.send(b"{}", "one")


def test_a_second_connection_of_the_same_device_ends_the_first(lab: LabHub, ours: Open) -> None:
    woken = threading.Event()
    first, second = ours(wake=woken.set), ours()
    first.connect()
    second.connect()
    with pytest.raises(Unreachable, match="the connection was lost"):
        keep(first, woken)


# --- a hub that is away, or is none ---


def test_a_hub_that_is_busy_or_closes_is_tried_later(lab: LabHub, ours: Open) -> None:
    lab.behave(refuse=3)
    with pytest.raises(ServerBusy, match="not available"):
        ours().connect()
    lab.behave(close=True)
    with pytest.raises(Unreachable):
        ours().connect()


def test_a_hub_that_nobody_trusts_is_refused_and_so_is_a_trust_file_that_is_none(
    ours: Open, tmp_path: Path
) -> None:
    other = pki.authority("Interceptor").save(tmp_path / "other").root
    with pytest.raises(TlsUntrusted):
        ours(route=Route(other)).connect()
    with pytest.raises(TrustUnreadable):
        ours(route=Route(tmp_path / "absent.pem")).connect()
    (tmp_path / "odd.pem").write_text("no certificate")
    with pytest.raises(TrustUnreadable):
        ours(route=Route(tmp_path / "odd.pem")).connect()


def test_a_name_that_nobody_knows_is_unreachable(lab: LabHub) -> None:
    where = Where("hub.invalid", DEVICE)
    with Hub(where, by_token(), Route(lab.tls.trust)) as hub, pytest.raises(Unreachable):
        hub.connect()
