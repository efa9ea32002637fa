"""Where passwords of the TPM are kept: the escrow, and the credentials of the host."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.authorization import escrow
from agent.authorization.kept import directory
from agent.errors import (
    EscrowUnusable,
    HostKeyMissing,
    PathUnusable,
    SealedToAnotherTpm,
)
from tests.lab import pki
from tests.lab.owner import Key
from tests.lab.passwords_home import ALL, NAMES, Home, at_home


@pytest.fixture
def home(tcti: str, tmp_path: Path) -> Iterator[Home]:
    with at_home(tcti, tmp_path) as home:
        yield home


def rsa_key() -> Key:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "key", [rsa_key(), *(ec.generate_private_key(c()) for c in (ec.SECP384R1, ec.SECP521R1))]
)
def test_openssl_opens_the_escrow_of_each_kind_of_key(home: Home, key: Key) -> None:
    home.run(home.wanting("owner"))
    before = home.escrowed()
    home.owner.have(key)
    assert home.run(home.wanting("owner")) == "done"  # another owner's key: written anew
    assert home.escrowed() == before


def test_an_escrow_that_is_gone_or_damaged_is_written_anew(home: Home) -> None:
    home.run()
    before = home.escrowed()
    for damage in (
        lambda: escrow.file(home.state).unlink(),
        lambda: escrow.file(home.state).write_bytes(b""),
    ):
        damage()
        assert home.run() == "done"
        assert home.escrowed() == before


SM2 = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoEcz1UBgi0DQgAEUviR6M9g/hPHZLlFv7i/EOxeof2O
vg3xD6jWQAAa6TIiJEaMqxvoQE4d/sV47MN3bYc/9rhEtRtdkhsFIAN9sg==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize(
    "text", [None, "", "-----BEGIN CERTIFICATE-----\n", "weak", "ed25519", SM2, "private", "pipe"]
)
def test_without_an_escrow_nothing_is_set(home: Home, text: str | None) -> None:
    if text is None:
        home.owner.public.unlink()
    elif text == "pipe":  # nobody waits for it
        home.owner.public.unlink()
        os.mkfifo(home.owner.public)
    elif text == "weak":
        home.owner.have(rsa.generate_private_key(65537, 1024))  # noqa: S505
    elif text == "private":
        authority = pki.authority("Owner's escrow")
        both = pki.pem(authority.certificate) + pki.private_pem(authority.key)
        home.owner.public.write_bytes(both)
    else:
        home.owner.public.write_text(text)
    error = home.refused(PathUnusable if text == "pipe" else EscrowUnusable)
    assert str(home.owner.public) in error.remedy
    assert home.set() == set()
    assert not directory(home.state).exists()


def test_a_certificate_is_as_good_as_a_key(home: Home) -> None:
    authority = pki.authority("Owner's escrow")
    home.owner.have(authority.key)
    home.owner.public.write_bytes(pki.pem(authority.certificate))
    home.run()
    assert [*home.escrowed()] == NAMES


# --- credentials of the host ---


def test_a_credential_is_one_that_systemd_takes(home: Home) -> None:
    home.run(home.wanting("owner", keep="credential"))
    file = directory(home.state) / "tpm-owner-auth"
    done = subprocess.run(["systemd-creds", "decrypt", file, "-"], capture_output=True, check=True)
    assert done.stdout.decode() == home.escrowed()["tpm-owner-auth"]


def test_a_host_key_that_is_lost_or_cannot_be_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = home.wanting("owner", keep="credential")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", "/proc/no/such/place")
    error = home.refused(HostKeyMissing, conf)
    assert "systemd-creds setup" in error.remedy
    assert home.set() == set()
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(home.base / "host.secret"))
    home.run(conf)
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(home.base / "another.secret"))
    home.refused(SealedToAnotherTpm, conf)
    home.give(home.escrowed())
    assert home.run(conf) == "done"


def test_what_is_kept_moves_with_the_configuration(home: Home) -> None:
    home.run()
    before = home.escrowed()
    for settings in ({"keep": "credential"}, {"pcrs": "sha256:0,7"}, {}):
        conf = home.wanting(*ALL, **settings)
        assert home.run(conf) == "done"
        assert home.run(conf) == "already done"
        assert home.escrowed() == before
        assert len([*directory(home.state).iterdir()]) == 5
