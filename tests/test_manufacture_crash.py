"""The factory step is cut off at every one of its effects, and then run again: by a kill, or by the
power of the board, with its TPM. The next run ends as if nothing had happened."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tpm2_pytss.constants import TPM2_HC

from agent import x509
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Tpm
from tests.conftest import Tell
from tests.lab import crash
from tests.lab.crash import Place
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.finished import failed_tries
from tests.lab.line import Line, Method
from tests.lab.world import World
from tests.test_crash import Cut, agent_is_killed, power_fails


@dataclass(frozen=True)
class End:
    handles: list[int]
    certified: bool
    indices: dict[int, int]  # their attributes
    loaded: set[int]
    files: list[str]


def end(board: Device) -> End:
    with Tpm(board.tcti) as tpm:
        public, data = tpm.public(HANDLE), tpm.nv_read(INDEX)
        assert data is not None
        assert data == x509.first_der(data)
        found = {index: tpm.nv_public(index) for index in tpm.nv_indices()}
        return End(
            handles=tpm.handles(TPM2_HC.PERSISTENT_FIRST),
            certified=public is not None and x509.leading(data).public_key() == public.key,
            indices={index: nv.attributes for index, nv in found.items() if nv},
            loaded=tpm.loaded(),
            files=sorted(path.name for path in board.state.iterdir()),
        )


class Town:
    """Boards made by the same line, one after the other."""

    def __init__(self, world: World, directory: Path, method: Method, profile: str) -> None:
        self.world, self.directory = world, directory
        self.method, self.profile = method, profile

    def board(self) -> Device:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        return Device(self.world, self.directory / "board", Wish(board=Board(virgin=True)))

    def line(self, board: Device) -> Line:
        return Line(board, self.method, profile=self.profile, key="ecc256")

    def issued(self) -> int:
        return len(self.world.issued(self.world.factory_est))

    def survives(self, place: Place, cut: Cut, *arguments: str) -> None:
        before = self.issued()
        with self.board() as board:
            line = self.line(board)
            if arguments:
                line.made()
            crash.kill_at(board, place, self.directory / "trace", line.command(*arguments))
            cut(board)
            assert line.run(*arguments).returncode == 0, place
            found = end(board)
            assert found.certified
            assert found == self.undisturbed, place
            assert failed_tries(board) == 0
            again = line.run()
            assert "done: " not in again.stderr.replace("already done: ", "")
        assert self.issued() - before <= 2 + len(arguments), place

    def places(self, *arguments: str) -> list[Place]:
        with self.board() as board:
            line = self.line(board)
            if arguments:
                line.made()
            found = crash.places(board, self.directory / "trace", line.command(*arguments))
            self.undisturbed = end(board)
        return [place for place in found if not place.waits]


@pytest.mark.parametrize(
    ("method", "profile", "arguments"),
    [("est-basic", "tcg", ()), ("est-tpm", "ek-child", ()), ("est-basic", "tcg", ("--force",))],
)
def test_a_board_is_made_wherever_the_step_was_cut_off(
    world: World,
    tmp_path: Path,
    tell: Tell,
    method: Method,
    profile: str,
    arguments: tuple[str, ...],
) -> None:
    town = Town(world, tmp_path / "town", method, profile)
    places = town.places(*arguments)
    for number, place in enumerate(places):
        town.survives(place, power_fails if number % 2 else agent_is_killed, *arguments)
    how = " ".join((method, profile, *arguments))
    tell(
        f"manufacture {how}: {len(places)} kills and power cuts, all there are: every one survived"
    )
