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
from tests.lab.fault import Case, Fault, Row
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


SRK_EVICTED = "tpm2_evictcontrol -C o -c 0x81000001"
TPM, DEVICE_TPM = "edge, TPM", "device, TPM"
ROWS = [
    # there?
    Row("No TPM where tpm.tcti says", "edge", "tpm-unavailable", tcti("swtpm:path=/nowhere"),
        r"tpm\.tcti", "it is set right"),
    Row("A TCTI that there is not", "edge", "tpm-unavailable", tcti("nonsense:x"),
        r"tpm\.tcti", "it is set right"),
    Row("A device file that is no TPM", DEVICE_TPM, "tpm-unavailable", tcti("device:/dev/null"),
        r"tpm\.tcti", "it is set right"),
    Row("The TPM is off", "edge", "tpm-unavailable", off, "Check that the TPM is enabled",
        "it is switched on"),
    Row("The TPM is not for this user", "edge", "no-permission", not_for_us,
        "let this user open", "the user may open it"),
    Row("The configuration is not for this user", "edge", "no-permission", config_not_for_us,
        "let this user open", "the user may open it"),
    Row("The state directory is not for this user", "edge", "no-permission", state_not_for_us,
        "let this user open", "the user may write there"),
    # genuine?
    Row("No EK certificate", "edge", "ek-cert-absent", without_certificates, "ask its maker",
        "the maker's is written into the TPM"),
    Row("The EK certificate of another TPM", "edge", "ek-cert-mismatch", certificate(of_another),
        "ask its maker", "the maker's is written into the TPM"),
    Row("An EK certificate that is garbage", "edge", "ek-cert-invalid",
        certificate(lambda case: b"\xff" * 64), "ask the TPM's maker",
        "the maker's is written into the TPM"),
    Row("A certificate of the maker's, for a web server", "edge", "ek-cert-purpose",
        certificate(for_a_server), "ask the TPM's maker", "the maker's is written into the TPM"),
    Row("An EK certificate that is no longer valid", "edge", "ek-cert-expired",
        certificate(no_more_valid), "ask the TPM's maker for a new one",
        "the maker's is written into the TPM"),
    Row("A TPM maker that nobody trusts", "edge", "ek-cert-untrusted", unknown_maker,
        "tpm2cloud import-root FILE --sha256", "its root is imported so, and what is between"),
    Row("A gap in the TPM maker's chain", "edge", "ek-cert-untrusted", no_intermediate,
        "import-root for what is between", "the certificate is imported so"),
    # whole?
    Row("No IDevID", "edge, password", "idevid-absent", without_idevid,
        r"idevid\.require = false", "it is set so",
        wish={"board": Board(virgin=True)}),
    Row("An IDevID key without a certificate", "edge", "idevid-absent", delivered,
        "factory step", "the factory issues it", wish={"board": Board(certificate="none")}),
    Row("An IDevID certificate without its key", "edge", "idevid-absent",
        made(states.idevid_without_key, heal=back_to_the_factory), "factory step",
        "the factory makes both"),
    Row("An IDevID certificate for another key", "edge", "idevid-mismatch", delivered,
        "back to the factory", "the factory issues it anew",
        wish={"board": Board(certificate="other-key")}),
    Row("An IDevID certificate that has expired", "edge", "idevid-expired", delivered,
        "issued anew at the factory", "it is issued anew",
        wish={"board": Board(certificate="expired")}),
    Row("Half an IDevID certificate", "edge", "idevid-invalid", made(cut, heal=reissued),
        "Look at it", "the factory issues it anew"),
    Row("An IDevID of an OEM whose CA is not here", "edge", "idevid-untrusted", foreign_ca,
        "put its CA into the file", "it is put there"),
    Row("An IDevID behind the platform's password", "edge", "nv-locked",
        made(states.password("platform"), heal=readable), "let the firmware leave",
        "the firmware leaves the platform without a password"),
    # locked?
    Row("The owner hierarchy has a password", "edge", "tpm-auth", password("owner"),
        "credential 'tpm-owner-auth'", "it is provided"),
    Row("A wrong password for the owner hierarchy", DEVICE_TPM, "tpm-auth",
        password("owner", "wr0ng-canary"), "the right one", "the right one is provided"),
    Row("The endorsement hierarchy has a password", "edge", "tpm-auth", password("endorsement"),
        "credential 'tpm-owner-auth' or 'tpm-endorsement-auth'", "it is provided"),
    Row("A wrong password for the endorsement hierarchy", TPM, "tpm-auth",
        password("endorsement", "wr0ng-canary"), "the right one", "the right one is provided"),
    Row("A password that is longer than a TPM takes", "edge", "secret-unreadable",
        password("owner", "x" * 65), "Put it into /etc/credstore/tpm-owner-auth",
        "the right one is provided"),
    Row("The owner hierarchy is off", "edge", "tpm-hierarchy-disabled",
        made(states.off("owner"), heal=powered_anew), "Enable the storage and endorsement",
        "the firmware enables it"),
    Row("The endorsement hierarchy is off", DEVICE_TPM, "tpm-hierarchy-disabled",
        made(states.off("endorsement"), heal=powered_anew), "Enable the storage and endorsement",
        "the firmware enables it"),
    Row("Dictionary-attack lockout", "edge", "iotedge-failed",
        locked_out,
        "--clear-lockout", "it is cleared", verdict="tpm-lockout"),
    # full?
    Row("No room for another key", "edge", "tpm-full",
        made(states.no_persistent_slot, heal=one_leaves), "handles-persistent",
        "those that nobody needs leave"),
    Row("The last transient slot is taken", "edge", "tpm-full",
        made(states.no_transient_slot, heal=by_tools("flushcontext -t")), "handles-transient",
        "they are flushed"),
    Row("The last session slot is taken", DEVICE_TPM, "tpm-full",
        made(states.no_session_slot, heal=by_tools("flushcontext -l")), "See what fills it",
        "they are flushed"),
    Row("NV memory is full", DEVICE_TPM, "tpm-full",
        made(states.nv_full, heal=indices_leave), "handles-nv-index",
        "those that nobody needs leave"),
    # others'
    Row("A foreign key where the SRK should be", "edge", "handle-occupied",
        made(states.foreign(states.SRK), heal=evicted(states.SRK)), SRK_EVICTED, "it is evicted"),
    Row("A foreign key where the EK should be", "edge", "handle-occupied",
        made(states.foreign_ek, heal=evicted(states.EK)), "tpm2_evictcontrol -C o -c 0x81010001",
        "it is evicted"),
    Row("A foreign key where the LDevID should be", "edge", "ldevid-key-lost",
        made(states.foreign(states.LDEVID), heal=evicted(states.LDEVID)),
        "tpm2_evictcontrol -C o -c 0x81000002", "it is evicted"),
    Row("A foreign key where the hub key should be", TPM, "hub-key-occupied",
        made(states.foreign(states.HUB), heal=evicted(states.HUB)),
        "tpm2_evictcontrol -C o -c 0x81000100", "it is evicted"),
    Row("... of a device without IoT Edge", DEVICE_TPM, "handle-occupied",
        made(states.foreign(states.HUB), heal=evicted(states.HUB)),
        "tpm2_evictcontrol -C o -c 0x81000100", "it is evicted"),
    Row("An SRK with a password", "edge", "srk-password",
        made(states.srk_with_a_password, heal=evicted(states.SRK)), SRK_EVICTED, "it is evicted"),
    Row("An SRK with a password, and attestation by TPM", TPM, "srk-password",
        made(rsa_srk_with_a_password, heal=evicted(states.SRK)), SRK_EVICTED,
        "it is evicted"),
    Row("An ECC SRK, and attestation by TPM", TPM, "srk-not-rsa",
        made(states.srk_of_systemd, heal=evicted(states.SRK)), SRK_EVICTED, "it is evicted"),
    Row("An EK that IoT Edge's TPM service cannot use", TPM, "ek-unfit", ek_of_high_range,
        "tpm2_evictcontrol -C o -c 0x81010001", "it is evicted"),
    # exchanged?
    Row("The TPM was cleared, and policy says stop", "device", "tpm-changed", cleared,
        r"device\.moved = 'start-over'", "it is set so"),
    Row("tpm.tcti names another TPM", "device", "tpm-of-another-tcti", another_tcti,
        "set tpm.tcti back", "it is set back"),
    Row("The PINs of the token are lost", "device", "token-pins-lost", no_pins,
        "move .* away", "it is moved away"),
    Row("A key of another TPM, nobody knows which", "device", "key-of-another-tpm",
        key_of_another, "move\\s/var/lib/tpm2cloud away", "it is moved away"),
]  # fmt: skip
