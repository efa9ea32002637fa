"""The TPM fails in the midst of a change of the lockout password. One wrong password is one too
many there, so whatever is known of the outcome, none is ever tried."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tpm2_pytss.constants import TPM2_CC, TPM2_RH

from agent import opened
from agent.errors import TpmError
from agent.steps.authorization import released
from agent.tpm import Tpm
from tests.lab import liar
from tests.lab.liar import Ask
from tests.lab.passwords_home import ALL, Home, at_home

LOCKOUT = int(TPM2_RH.LOCKOUT).to_bytes(4, "big")
RETRY, FAILURE = 0x922, 0x101  # TPM 2.0 Library, part 2, 6.6.3
BUSY = 8  # times that a TPM says so before it begins
Fault = Callable[[bytes, Ask], bytes]


@pytest.fixture
def home(tcti: str, tmp_path: Path) -> Iterator[Home]:
    with at_home(tcti, tmp_path) as home:
        yield home


def says(code: int) -> bytes:
    return b"\x80\x01" + (10).to_bytes(4, "big") + code.to_bytes(4, "big")


def done_and_cut(command: bytes, ask: Ask) -> bytes:
    ask(command)
    raise ConnectionError


def failed(_: bytes, ask: Ask) -> bytes:
    return says(FAILURE)


def half(command: bytes, ask: Ask) -> bytes:
    reply = ask(command)[:20]
    return reply[:2] + len(reply).to_bytes(4, "big") + reply[6:]


def another_hmac(command: bytes, ask: Ask) -> bytes:
    reply = ask(command)
    return reply[:-1] + bytes([reply[-1] ^ 1])


def busy(_: bytes, ask: Ask) -> bytes:
    return says(RETRY)


class Spoilt:
    """What is between device and TPM: `fault` speaks for each change of the lockout password;
    `answered` has the TPM's own codes."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.asked, self.answered = fault, 0, list[int]()

    def __call__(self, command: bytes, ask: Ask) -> bytes:
        is_change = liar.code(command) == TPM2_CC.HierarchyChangeAuth
        if not (is_change and command[10:14] == LOCKOUT):
            return ask(command)

        self.asked += 1
        if self.fault is busy and self.asked > BUSY:
            return ask(command)

        def heard(said: bytes) -> bytes:
            reply = ask(said)
            self.answered.append(int.from_bytes(reply[6:10], "big"))
            return reply

        return self.fault(command, heard)


def spoil(home: Home, fault: Fault, act: Callable[[], object]) -> None:
    spoilt = Spoilt(fault)
    honest, socket = home.tcti, Path(home.tcti.removeprefix("swtpm:path="))
    try:
        with liar.through(socket, socket.with_name("spoilt"), spoilt) as home.tcti:
            act()
    except TpmError:
        pass
    finally:
        home.tcti = honest
    assert spoilt.asked
    assert {*spoilt.answered} <= {0}, spoilt.answered
    with Tpm(home.tcti) as tpm:  # what was cut off is thrown out by the next run, by its ledger
        tpm.flush(sorted(tpm.loaded()))


@pytest.mark.parametrize("fault", [failed, done_and_cut, half, another_hmac, busy])
def test_no_fault_leads_to_a_wrong_password_of_lockout(home: Home, fault: Fault) -> None:
    def take_back() -> None:
        with opened.tpm(home.tcti) as tpm:
            released(tpm, home.state)

    spoil(home, fault, home.run)
    found = home.escrowed()
    for _ in range(2):
        home.run()
    assert home.set() == {*ALL}
    assert home.escrowed() == found
    home.works("tpm-lockout-auth", found["tpm-lockout-auth"])

    spoil(home, fault, take_back)
    take_back()
    assert home.set() == set()
    home.works("tpm-lockout-auth", "")
