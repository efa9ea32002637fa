"""Faults of the TPM: not there, not genuine, not whole, used by others, locked, full, exchanged."""

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
Act = Callable[[Case], object]


def made(*makers: states.Maker, heal: Act) -> Fault:
    """What was done to the TPM, and what a person does then."""

    def fault(case: Case) -> Steps:
        for make in makers:
            make(case.tools)
        yield
        heal(case)

    return fault


def by_tools(*commands: str) -> Act:
    def act(case: Case) -> None:
        for command in commands:
            case.tools(*command.split())

    return act


def evicted(handle: str) -> Act:
    return by_tools(f"evictcontrol -Q -C o -c {handle}")


# --- is it there? ---


def tcti(text: str) -> Fault:
    def fault(case: Case) -> Steps:
        case.configure(tpm={"tcti": text, "wait": "0s"})
        yield
        case.configure(tpm={"tcti": case.device.tcti})

    return fault


def off(case: Case) -> Steps:
    case.configure(tpm={"wait": "0s"})
    case.device.power_cut()
    yield
    case.device.power_on()


def powerless(case: Case) -> None:
    """From now on by a user to whom the modes of files apply."""
    case.prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def not_for_us(case: Case) -> Steps:
    powerless(case)
    socket = case.device.tpm / "tpm.sock"
    socket.chmod(0)
    yield
    socket.chmod(0o600)


def config_not_for_us(case: Case) -> Steps:
    powerless(case)
    case.device.config.chmod(0)
    yield
    case.device.config.chmod(0o644)


def state_not_for_us(case: Case) -> Steps:
    powerless(case)
    case.device.state.chmod(0o555)
    yield
    case.device.state.chmod(0o755)


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


# --- who may, and how often ---


def password(hierarchy: str, given: str = "") -> Fault:
    """Of a hierarchy, that we are told wrong or not at all."""

    def fault(case: Case) -> Steps:
        states.password(hierarchy)(case.tools)
        if given:
            case.credential(f"tpm-{hierarchy}-auth", given)
        yield
        case.credential(f"tpm-{hierarchy}-auth", states.PASSWORD)

    return fault


def locked_out(case: Case) -> Steps:
    """IoT Edge's keys have passwords that count; ours do not."""
    states.lockout(case.tools)
    case.configure(aziot={"timeout": "4s"})
    yield
    case.tools("dictionarylockout", "--clear-lockout")
    case.configure(aziot={"timeout": None})


def powered_anew(case: Case) -> None:
    """With the hierarchies enabled, as the firmware leaves them."""
    case.device.power_cut()
    case.device.power_on()


# --- what was there before, and what is another's ---


def one_leaves(case: Case) -> None:
    """Of those that fill the TPM."""
    for handle in ("0x81000200", "0x81000201", "0x81000202", "0x81000203"):
        case.tools.ask("evictcontrol", "-Q", "-C", "o", "-c", handle)


def indices_leave(case: Case) -> None:
    """Of the owner's."""
    for index in range(0x01800100, 0x01800200):
        if case.tools.ask("nvundefine", "-Q", "-C", "o", hex(index)).returncode:
            break


def readable(case: Case) -> None:
    case.tools("changeauth", "-c", "p", "-p", states.PASSWORD, "")


def rsa_srk_with_a_password(tools: Tools) -> None:
    template = ["-G", "rsa2048:aes128cfb", "-a", f"{states.STORAGE}|noda", "-p", states.PASSWORD]
    states.keep(tools, states.SRK, *template)


def ek_of_high_range(case: Case) -> Steps:
    states.no_ek(case.tools)
    with Tpm(case.device.tcti) as tpm, tpm.ek("EK-HIGH-RSA2048") as other:
        tpm.persist(other, int(states.EK, 16))
    yield
    evicted(states.EK)(case)


def lived(case: Case, **tables: object) -> None:
    """It is provisioned."""
    case.configure(**tables)
    done = case.provision()
    assert done.status == 0, done.text


def cleared(case: Case) -> Steps:
    lived(case, device={"moved": "stop"})
    case.tools("clear", "-c", "p")
    yield
    case.configure(device={"moved": "start-over"})


def another_tcti(case: Case) -> Steps:
    lived(case, device={"moved": "stop"})
    state = case.watched / "other"
    case.world.solder(Board(id="another"), state)
    case.configure(tpm={"tcti": case.stack.enter_context(swtpm.running(state))})
    yield
    case.configure(tpm={"tcti": case.device.tcti})


def no_pins(case: Case) -> Steps:
    lived(case)
    (case.device.state / "pins.json").unlink()
    yield
    case.device.pkcs11.rename(case.device.pkcs11.with_name("moved-away"))


def key_of_another(case: Case) -> Steps:
    """Nobody knows any more which TPM it was."""
    lived(case)
    (case.device.state / "tpm.json").write_text("damaged")
    case.tools("clear", "-c", "p")
    yield
    case.device.state.rename(case.device.state.with_name("moved-away"))
    case.device.state.mkdir(mode=0o755)
