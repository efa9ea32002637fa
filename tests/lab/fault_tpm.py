"""Faults of the TPM: not there, used by others, locked, full, exchanged."""

import os
import shutil
from collections.abc import Callable, Generator

from agent.tpm import Tpm
from tests.lab import states, swtpm
from tests.lab.factory import Board
from tests.lab.fault import Case, Fault
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
    if os.getuid() == 0:
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
    """The disk has moved, and nobody knows any more which TPM it was with."""
    lived(case)
    (case.device.state / "tpm.json").write_text("damaged")
    case.device.power_cut()
    shutil.rmtree(case.device.tpm)
    case.world.solder(Board(id="another"), case.device.tpm)
    case.device.power_on()
    yield
    for directory in (case.device.state, case.device.pkcs11):  # on a device one is in the other
        directory.rename(directory.with_name(f"{directory.name}-moved-away"))
    case.device.state.mkdir(mode=0o755)
