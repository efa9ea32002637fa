"""TLS with a client key in the TPM: every kind of key, both protocols, failures, and the exit."""

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from requests.adapters import HTTPAdapter

from agent.errors import TlsCertificateUnusable, TlsProvider, TpmPssSalt, TpmUnavailable
from agent.tpm import TlsKey, Tpm, openssl
from agent.tpm.libcrypto import Libcrypto, function
from tests.lab import pki, process, swtpm
from tests.lab.mtls import KEYS, TLS_1_2, TLS_1_3, Lab, ask, fill, server

VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=lambda v: v.name)


@pytest.fixture(scope="module")
def state(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TPM's state with all keys in it."""
    state = tmp_path_factory.mktemp("keys") / "tpm"
    shutil.copytree(factory_fresh / "state", state)
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        fill(tpm)
    return state


@pytest.fixture(scope="module")
def lab(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        yield Lab(tpm, pki.root("Test CA"), tmp_path_factory.mktemp("lab"))


# --- it works -------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("name", KEYS)
def test_a_client_proves_itself_with_a_key_in_the_tpm(
    lab: Lab, name: str, version: ssl.TLSVersion
) -> None:
    context = lab.client(name, version)
    with server(lab) as port:
        assert ask(context, port) == f"{name} by {version.name.replace('_', '.')}"


def test_requests_uses_it_through_an_adapter(lab: Lab) -> None:
    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=lab.client("ecc256"), **kwargs)

    with server(lab) as port, requests.Session() as session:
        session.mount("https://", Adapter())
        reply = session.get(f"https://localhost:{port}/", timeout=10, verify=str(lab.tls.trust))
    assert reply.text == "ecc256 by TLSv1.3"


def test_an_ordinary_key_still_loads_beside_it(lab: Lab, tmp_path: Path) -> None:
    lab.key("ecc256")
    with server(lab) as port:
        for kind in ("rsa2048", "ecc256"):
            own = pki.new_key(kind)
            chain, key = tmp_path / f"{kind}.pem", tmp_path / f"{kind}.key"
            chain.write_bytes(pki.pem(lab.ca.issue(own.public_key(), f"{kind} in a file")))
            pki.write_private(key, pki.private_pem(own))
            context = lab.trusting()
            context.load_cert_chain(chain, key)
            assert ask(context, port) == f"{kind} in a file by TLSv1.3"


def test_several_threads_and_several_keys_at_once(lab: Lab) -> None:
    contexts = {name: lab.client(name) for name in KEYS}

    def one(name: str) -> str:
        hashlib.sha256(name.encode())  # OpenSSL in the same breath, under Python's own lock
        return ask(contexts[name], port)

    names = list(KEYS) * 8
    with server(lab) as port, ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(one, names))
    assert replies == [f"{name} by TLSv1.3" for name in names]


# --- it fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "certificate"), [("rsa2048", "ecc256"), ("ecc256", "ecc384")])
def test_the_certificate_of_another_key_is_refused(lab: Lab, key: str, certificate: str) -> None:
    with pytest.raises(TlsCertificateUnusable, match="belongs to another key") as e:
        lab.key(key).load_into(lab.trusting(), lab.chain(certificate))
    assert str(lab.chain(certificate)) in e.value.remedy


def test_a_certificate_of_the_same_kind_of_key_is_refused_too(lab: Lab, tmp_path: Path) -> None:
    other = lab.ca.issue(pki.new_key("ecc256").public_key(), "other")
    (tmp_path / "other.pem").write_bytes(pki.pem(other))
    with pytest.raises(TlsCertificateUnusable, match="belongs to another key"):
        lab.key("ecc256").load_into(lab.trusting(), tmp_path / "other.pem")


def test_a_certificate_that_is_not_there_is_said_so(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(TlsCertificateUnusable, match="No such file"):
        lab.key("ecc256").load_into(lab.trusting(), tmp_path / "absent.pem")


@VERSIONS
@pytest.mark.parametrize("name", ["ecc256", "rsa2048"])
def test_a_tpm_gone_in_the_middle_of_a_handshake_is_what_the_caller_learns(
    lab: Lab, state: Path, tmp_path: Path, name: str, version: ssl.TLSVersion
) -> None:
    shutil.copytree(state, tmp_path / "tpm", ignore=shutil.ignore_patterns("*.sock*"))
    power = swtpm.start(tmp_path / "tpm")
    with Tpm(swtpm.tcti(tmp_path / "tpm")) as tpm:
        key, context = TlsKey(tpm.signer(KEYS[name])), lab.trusting(version)
        key.load_into(context, lab.chain(name))
        with server(lab, before=lambda: process.stop(power)) as port, pytest.raises(ssl.SSLError):
            ask(context, port)
    assert isinstance(key.error, TpmUnavailable)
    with pytest.raises(TpmUnavailable, match="sign with 0x810000"):
        key.raise_if_failed()
    key.raise_if_failed()  # said once


def test_one_key_does_not_learn_what_befell_another_nor_another_thread(lab: Lab) -> None:
    class Broken:
        public_key = lab.tpm.signer(KEYS["ecc256"]).public_key

        def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
            raise TpmUnavailable(f"cannot sign {len(digest)} bytes with {hash_name}, pss={pss}")

    key, other, context = TlsKey(Broken()), lab.key("ecc256"), lab.trusting()
    key.load_into(context, lab.chain("ecc256"))
    with server(lab) as port, pytest.raises(ssl.SSLError):
        ask(context, port)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(lambda: key.error).result() is None
    assert other.error is None
    assert isinstance(key.error, TpmUnavailable)


def test_a_tpm_that_salts_otherwise_is_refused_with_its_reason(lab: Lab, tmp_path: Path) -> None:
    """As TPMs of older revisions sign: with the longest salt that fits."""

    class Old:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public_key = private.public_key()

        def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
            assert (hash_name, pss) == ("sha256", True)
            salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            return self.private.sign(digest, salted, Prehashed(hashes.SHA256()))

    chain = tmp_path / "old.pem"
    chain.write_bytes(pki.pem(lab.ca.issue(Old.public_key, "old")))
    key, context = TlsKey(Old()), lab.trusting()
    key.load_into(context, chain)
    with server(lab) as port, pytest.raises(ssl.SSLError):
        ask(context, port)
    with pytest.raises(TpmPssSalt, match="salt"):
        key.raise_if_failed()


def test_a_python_without_openssl_3_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (1, 1, 1, 23, 15))
    with pytest.raises(TlsProvider, match="not OpenSSL 3"):
        Libcrypto()


def test_another_openssl_than_that_of_python_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", 0x30500000)
    with pytest.raises(TlsProvider, match="beside Python's"):
        Libcrypto()


def test_an_openssl_that_hides_what_we_need_is_said_so() -> None:
    with pytest.raises(TlsProvider, match="does not show 'OSSL_PROVIDER_future'"):
        Libcrypto().address("OSSL_PROVIDER_future")


def test_a_provider_that_does_not_start_is_said_so_in_the_words_of_openssl() -> None:
    refuse = function(openssl.INT, lambda *arguments: openssl.FAILED)
    with pytest.raises(TlsProvider, match=r"'refusing' into OpenSSL: error:.*init fail"):
        Libcrypto().load_provider("refusing", refuse)


# --- it ends --------------------------------------------------------------------------------------

PROGRAM = """
import os, socket, ssl, sys, threading, time
from pathlib import Path
from agent.tpm import TlsKey, Tpm

tcti, handle, chain, trust, port = sys.argv[1:6]
tpm = Tpm(tcti)
key = TlsKey(tpm.signer(int(handle)))
context = ssl.create_default_context(cafile=trust)
key.load_into(context, Path(chain))

def connect(**options):
    plain = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost", **options)
"""
ENDINGS = {
    "with everything closed": ("connect().close(); tpm.__exit__()", 0),
    "with all open": ("a, b = connect(), connect(do_handshake_on_connect=False)", 0),
    "with all open and hidden": ("import builtins; builtins.a = (connect(), key, context, tpm)", 0),
    "with its own status": ("a = connect(); sys.exit(75)", 75),
    "by an exception": ("a = connect(); raise RuntimeError('die')", 1),
    "while a thread shakes hands": (
        "def go():\n"
        "    while True:\n"
        "        connect().close()\n"
        "for _ in range(3): threading.Thread(target=go, daemon=True).start()\n"
        "time.sleep(0.1)",
        0,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_in_order(lab: Lab, ending: str) -> None:
    """OpenSSL cleans up when the interpreter is gone: it must not call into it."""
    code, status = ENDINGS[ending]
    with server(lab) as port:
        values = (lab.tpm.tcti, KEYS["ecc256"], lab.chain("ecc256"), lab.tls.trust, port)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM + code, *map(str, values)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == status, done.stderr
