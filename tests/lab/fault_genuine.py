"""Faults of what the TPM is: not genuine, not by a maker that is trusted, without its IDevID."""

import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from agent.tpm import Tpm
from tests.lab import factory, pki, states, swtpm
from tests.lab.factory import Board
from tests.lab.fault import Case, Fault
from tests.lab.maker import Ca
from tests.lab.tools import Tools

Steps = Generator[None, None, None]


# --- is it genuine? ---


def without_certificates(case: Case) -> Steps:
    kept = {index: states.read(case.tools, index) for index in (states.EK_NV, states.EK_NV_ECC)}
    states.no_ek_certificate(case.tools)
    yield
    for index, data in kept.items():
        states.write(case.tools, index, data)


def certificate(other: Callable[[Case], bytes]) -> Fault:
    """Something else in its place, until the maker gives the right one."""

    def fault(case: Case) -> Steps:
        kept = states.read(case.tools, states.EK_NV)
        states.undefine(states.EK_NV)(case.tools)
        states.write(case.tools, states.EK_NV, other(case))
        yield
        states.undefine(states.EK_NV)(case.tools)
        states.write(case.tools, states.EK_NV, kept)

    return fault


def of_another(case: Case) -> bytes:
    """By the same maker, for another TPM."""
    state = case.watched / "other"
    case.world.solder(Board(id="another", virgin=True), state)
    directory = case.watched / "tools-of-the-other"
    directory.mkdir()
    with swtpm.running(state) as tcti:
        return states.read(Tools(tcti, directory), states.EK_NV)


def for_a_server(case: Case) -> bytes:
    """The maker vouches, but for something else."""
    ca = pki.root("Maker")
    (case.device.etc / "tpm-roots.d" / "maker.pem").write_bytes(pki.pem(ca.root))
    return pki.der(ca.issue(ek(case), "a web server"))


def no_more_valid(case: Case) -> bytes:
    ca = Ca(pki.name("Maker of old"))
    (case.device.etc / "tpm-roots.d" / "old.pem").write_bytes(pki.pem(ca.own(lasts=pki.YEAR)))
    return pki.der(ca.ek(ek(case), starts=-9 * factory.DAY, lasts=factory.DAY))


def ek(case: Case) -> CertificatePublicKeyTypes:
    with Tpm(case.device.tcti) as tpm:
        found = tpm.public(int(states.EK, 16))
    assert found is not None
    assert found.key is not None
    return found.key


def unknown_maker(case: Case) -> Steps:
    """Its root is imported by the fingerprint that it publishes, and what is between."""
    roots = case.device.etc / "tpm-roots.d"
    kept = case.watched / "of-the-maker"
    shutil.move(roots, kept)
    roots.mkdir()
    yield
    root = kept / swtpm.roots(case.world.maker).name
    [found] = x509.load_pem_x509_certificates(root.read_bytes())
    imported(case, root, "--sha256", pki.fingerprint(found))
    imported(case, kept / "issuercert.pem")


def no_intermediate(case: Case) -> Steps:
    issuer = case.device.etc / "tpm-roots.d" / "issuercert.pem"
    kept = case.watched / issuer.name
    issuer.rename(kept)
    yield
    imported(case, kept)


def imported(case: Case, file: Path, *how: str) -> None:
    into = case.device.etc / "tpm-roots.d"
    done = case.agent("import-root", str(file), *how, "--into", str(into))
    assert done.status == 0, done.text


# --- its IDevID ---


def reissued(case: Case) -> None:
    """The factory issues it anew, for the key that is there."""
    with tempfile.TemporaryDirectory() as directory:
        tools = factory.Tools(case.device.tcti, directory)
        key = factory.read_public(tools, directory)
        new = factory.idevid_certificate(case.world.oem, key, Board())
    case.tools.ask("nvundefine", "-Q", "-C", "p", states.IDEVID_NV)  # if it is there
    states.write(case.tools, states.IDEVID_NV, pki.der(new))


def back_to_the_factory(case: Case) -> None:
    with tempfile.TemporaryDirectory() as directory:
        factory.create_idevid(factory.Tools(case.device.tcti, directory), Board())
    reissued(case)


def without_idevid(case: Case) -> Steps:
    yield
    case.configure(idevid={"require": False})


def delivered(case: Case) -> Steps:
    """By the factory with a flaw; back there, it is issued anew."""
    yield
    reissued(case)


def foreign_ca(case: Case) -> Steps:
    trust = case.device.etc / "idevid-ca.pem"
    kept = trust.read_bytes()
    trust.write_bytes(pki.pem(pki.root("Another OEM").root))
    yield
    trust.write_bytes(kept)


def cut(tools: Tools) -> None:
    data = states.read(tools, states.IDEVID_NV)
    states.undefine(states.IDEVID_NV)(tools)
    states.write(tools, states.IDEVID_NV, data[:300])
