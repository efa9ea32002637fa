"""The factory step cut off: boards of one line, one after the other."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from tpm2_pytss.constants import TPM2_HC

from agent import x509
from agent.state import State
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Tpm
from tests.lab import crash, instant
from tests.lab.crash import Place
from tests.lab.cuts import Cut
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.instant import Bounds, Snapshot
from tests.lab.line import Line, Method
from tests.lab.world import World


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
            loaded=tpm.loaded() | {*tpm.handles(TPM2_HC.ACTIVE_SESSION_FIRST)},
            files=sorted(path.name for path in board.state.iterdir()),
        )


class Manufacture:
    """How a board is when all went well, and boards to try it on. With `arguments` it is a board
    that was made before."""

    def __init__(
        self, world: World, directory: Path, method: Method, profile: str, *arguments: str
    ) -> None:
        self.world, self.directory, self._arguments = world, directory, arguments
        self._method, self._profile, self._trace = method, profile, directory / "trace"
        before = self._issued()
        with self._board() as (board, line):
            fresh = Snapshot.of(board)
            self.places: list[Place] = crash.places(board, self._trace, line.command(*arguments))
            self.undisturbed = end(board)
            self._bounds = Bounds.of(fresh, Snapshot.of(board))
        self._needed = self._issued() - before

    @contextmanager
    def _board(self) -> Iterator[tuple[Device, Line]]:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        wish = Wish(board=Board(virgin=True))
        with Device(self.world, self.directory / "board", wish) as board:
            line = Line(board, self._method, profile=self._profile, key="ecc256")
            if self._arguments:
                line.made()
            yield board, line

    def _issued(self) -> int:
        return len(self.world.issued(self.world.factory_est))

    def survives(self, cut: Cut) -> bool:
        before = self._issued()
        with self._board() as (board, line):
            just = self._cut_off(board, line, cut)
            self._at_once(board)
            done = line.run(*self._arguments)
            assert done.returncode == 0, done.stderr
            found = end(board)
            assert found.certified
            assert found == self.undisturbed
            instant.right(board, self._bounds, tries=0)
            again = line.run()
            assert "done: " not in again.stderr.replace("already done: ", "")
        extra = self._issued() - before - self._needed
        assert extra in (0, 1), f"certificates issued beyond what is needed: {extra}"
        return just

    def _cut_off(self, board: Device, line: Line, cut: Cut) -> bool:
        assert isinstance(cut.at, Place)
        command = line.command(*self._arguments)
        just = crash.kill_at(board, cut.at, self._trace, command) == cut.at.what
        if cut.power:
            board.power_cut()
            board.power_on()
        return just

    def _at_once(self, board: Device) -> None:
        """What was issued is for a key that this TPM has."""
        instant.right(board, self._bounds, tries=0)
        issued = State(board.state).idevid_issued
        if issued.exists():
            assert x509.parse(issued.read_bytes())[0].public_key() in _keys(board)

    def said(self) -> str:
        return ""


def _keys(board: Device) -> list[PublicKeyTypes | None]:
    with Tpm(board.tcti) as tpm:
        found = [tpm.public(handle) for handle in tpm.handles(TPM2_HC.PERSISTENT_FIRST)]
        return [public.key for public in found if public]
