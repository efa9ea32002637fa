"""A device's state directory and credentials, and its TPM, of which the passwords are tested."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import opened
from agent.authorization import escrow
from agent.config import Authorization
from agent.errors import AgentError
from agent.state import State
from agent.steps.authorization import authorization
from agent.steps.completing import converge
from agent.steps.preflight import tpm_answers
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Tpm
from tests.lab import pki
from tests.lab.owner import Owner
from tests.lab.tools import Tools

ALL = ("owner", "endorsement", "lockout")
NAMES = [f"tpm-{name}-auth" for name in ALL]


class Home:
    """With an SRK."""

    def __init__(self, tcti: str, base: Path) -> None:
        self.tcti, self.base, self.state = tcti, base, State(base / "state")
        self.owner, self.tools = Owner(base, base / "escrow.pem"), Tools(tcti, base)
        self.state.directory.mkdir()
        self.conf = self.wanting(*ALL)
        with Tpm(tcti) as tpm, tpm.srk("ecc256") as srk:
            tpm.persist(srk, SRK)

    def wanting(self, *names: str, **settings: str) -> Authorization:
        wanted = dict.fromkeys(names, "random")
        return Authorization(escrow=self.owner.public, **wanted, **settings)  # type: ignore[arg-type]

    def run(self, conf: Authorization | None = None) -> str:
        """One run of the plan's two steps that are about it: the event."""
        with opened.tpm(self.tcti) as tpm:
            converge(tpm_answers(tpm, 0))
            step = authorization(tpm, conf or self.conf, self.state, lambda: "device-0001")
            return converge(step)[1]

    def refused(self, kind: type[AgentError], conf: Authorization | None = None) -> AgentError:
        with pytest.raises(kind) as caught:
            self.run(conf)
        assert caught.type is kind
        self.unlocked()
        return caught.value

    def give(self, passwords: dict[str, str]) -> None:
        for name, password in passwords.items():
            pki.write_private(Path(os.environ["CREDENTIALS_DIRECTORY"], name), password.encode())

    def escrowed(self) -> dict[str, str]:
        found = self.owner.opens(escrow.file(self.state))
        assert found.pop("device") == "device-0001"
        return found

    def set(self) -> set[str]:
        with Tpm(self.tcti) as tpm:
            return set(tpm.passwords_set())

    def unlocked(self) -> None:
        """Nobody ever tried a wrong password that counts, and nothing is left loaded."""
        with Tpm(self.tcti) as tpm:
            budget = tpm.budget()
            assert (budget.lockout_counter, budget.in_lockout) == (0, False)
            assert tpm.loaded() == set()

    def works(self, name: str, password: str) -> None:
        """Seen by another program."""
        if name == "tpm-lockout-auth":
            self.tools("dictionarylockout", "-c", "-p", password)
        else:
            hierarchy = name.split("-")[1][0]
            self.tools("changeauth", "-c", hierarchy, "-p", password, password)

    def extend(self, register: int) -> None:
        self.tools("pcrextend", f"{register}:sha256={'11' * 32}")


@contextmanager
def at_home(tcti: str, base: Path) -> Iterator[Home]:
    """At the end no wrong password has been counted, and nothing is loaded."""
    (base / "credentials").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREDENTIALS_DIRECTORY", str(base / "credentials"))
        patch.setenv("STATE_DIRECTORY", str(base / "state"))
        patch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(base / "host.secret"))
        home = Home(tcti, base)
        yield home
        home.unlocked()
