"""The TPM gets its passwords, or they are taken back, and that is cut off: on one device, put back
to where it begins each time. Nobody listens where its EST server should be, so each run ends (75)
once they are set."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from agent.authorization import escrow
from agent.authorization.kept import Kept, directory
from agent.config import HIERARCHIES
from agent.state import State
from agent.tpm import Tpm
from tests.lab import crash
from tests.lab.crash import Place
from tests.lab.cuts import Cut
from tests.lab.device import Device
from tests.lab.owner import Owner
from tests.lab.tools import Tools
from tests.lab.world import World

LATER = 75
NOT_BEFORE = "authorization"  # what comes before it is part of every first boot


class Hosted(Device):
    """With a host key of its own."""

    def environment(self) -> dict[str, str]:
        own = {"SYSTEMD_CREDENTIAL_SECRET": str(self.directory / "host.secret")}
        return {**super().environment(), **own}


class Passwords:
    """`world` need not be running."""

    def __init__(self, world: World, base: Path, keep: str) -> None:
        base.mkdir(parents=True)
        self._before, self._trace = base / "before", base / "trace"
        self._device = Hosted(world, base / "device")
        self._owner = Owner(base, self._device.etc / "escrow.pem")
        with self._device as device:
            self._run(device)
            random: Mapping[str, str] = dict.fromkeys(HIERARCHIES, "random")
            wanted = {**random, "keep": keep, "escrow": str(self._owner.public)}
            device.configure({"tpm": {"authorization": wanted}})
        self.places = self._begin("provision")

    def _begin(self, *verb: str) -> list[Place]:
        """From here; all that is not about it left out, at the beginning."""
        shutil.rmtree(self._before, ignore_errors=True)
        shutil.copytree(self._device.directory, self._before, symlinks=True, ignore=_sockets)
        self._command = self._device.agent_command(*verb)
        with self._device as device:
            places = crash.places(device, self._trace, self._command, ends=(0, LATER))
        first = next(n for n, place in enumerate(places) if NOT_BEFORE in place.what)
        return places[first:]

    def survives(self, cut: Cut) -> bool:
        assert isinstance(cut.at, Place)
        shutil.rmtree(self._device.directory)
        shutil.copytree(self._before, self._device.directory, symlinks=True)
        with self._device as device:
            said = crash.kill_at(device, cut.at, self._trace, self._command, ends=(0, LATER))
            if cut.power:
                device.power_cut()
                device.power_on()
            self._converges(device)
        return said == cut.at.what

    def _converges(self, device: Device) -> None:
        self._nothing_lost(device)
        self._run(device)
        assert "authorization" in self._run(device, "already done")
        self._all_work(device)

    def said(self) -> str:
        return ""

    def _run(self, device: Device, how: str = "") -> str:
        """The steps that ended so."""
        run = device.agent("provision")
        assert run.returncode == LATER, run.stderr
        return "\n".join(line for line in run.stderr.splitlines() if how in line)

    def _nothing_lost(self, device: Device) -> None:
        """Of what is set, this device has the password, and its owner has it."""
        state = State(device.state)
        with Tpm(device.tcti) as tpm:
            there = tpm.passwords_set()
            assert tpm.budget().lockout_counter == 0
            tpm.flush(sorted(tpm.loaded()))
        if not there:
            return
        found = self._owner.opens(escrow.file(state))
        for name in there:
            if name != "lockout":
                _works(device, name, found[f"tpm-{name}-auth"])
            with Tpm(device.tcti) as tpm:
                assert Kept(tpm, state).has(name)

    def _all_work(self, device: Device) -> None:
        found = self._owner.opens(escrow.file(State(device.state)))
        for name in HIERARCHIES:
            _works(device, name, found[f"tpm-{name}-auth"])
        with Tpm(device.tcti) as tpm:
            assert tpm.passwords_set() == {*HIERARCHIES}
            assert (tpm.budget().lockout_counter, tpm.loaded()) == (0, set())
        files = sorted(each.name for each in directory(State(device.state)).iterdir())
        assert len(files) == len(HIERARCHIES) + 2, files


class Released(Passwords):
    """They are set, and taken back."""

    def __init__(self, world: World, base: Path, keep: str) -> None:
        super().__init__(world, base, keep)
        places = self._begin("reset", "-y")
        first = next(n for n, place in enumerate(places) if is_change(place))
        self.places = places[first:]

    def _converges(self, device: Device) -> None:
        done = device.agent("reset", "-y")
        assert done.returncode == 0, done.stderr
        state = State(device.state)
        with Tpm(device.tcti) as tpm:
            assert tpm.passwords_set() == frozenset()
            assert (tpm.budget().lockout_counter, tpm.loaded()) == (0, set())
        assert [*directory(state).glob("*")] == []


def is_change(place: Place) -> bool:
    return place.what.lower().endswith("hierarchychangeauth")


def _works(device: Device, name: str, password: str) -> None:
    tools = Tools(device.tcti, device.directory)
    if name == "lockout":
        tools("dictionarylockout", "-c", "-p", password)
    else:
        tools("changeauth", "-c", name[0], "-p", password, password)


def _sockets(_: str, names: list[str]) -> list[str]:
    return [name for name in names if ".sock" in name or name == ".lock"]
