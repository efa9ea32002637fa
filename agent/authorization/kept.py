"""Where each password is kept: a file below the state directory, of no use to who copies it.

Either sealed by the TPM, below its SRK, to registers and their values; or encrypted by systemd with
the key of this host. A file is written whole before its password is set, and stays until that is
no more.
"""

import base64
import logging
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent import store
from agent.authorization import host_key
from agent.errors import AgentError, SealedToAnotherState, SealedToAnotherTpm
from agent.state import State, read_json, write_json
from agent.tpm import Tpm, pcr

log = logging.getLogger(__name__)
SRK = 0x81000001
Form = Literal["sealed", "credential"]


def directory(state: State) -> Path:
    """Of all that is kept, and of the escrow."""
    return state.directory / "authorization"


@dataclass(frozen=True)
class Kept:
    """By the hierarchy: "owner", "endorsement", "lockout"."""

    tpm: Tpm
    state: State

    def sealed(self, name: str) -> Path:
        return directory(self.state) / f"{name}.sealed"

    def credential(self, name: str) -> Path:
        """Named as it must be for systemd to load it: the name is a part of it."""
        return directory(self.state) / f"tpm-{name}-auth"

    def files(self, name: str) -> list[Path]:
        """Those that there are: two only while one takes the other's place, for the same."""
        return [*filter(store.exists, (self.sealed(name), self.credential(name)))]

    def has(self, name: str) -> bool:
        return bool(self.files(name))

    def is_kept(self, name: str, form: Form, pcrs: str) -> bool:
        """In this form alone, and to these registers."""
        if self.files(name) != [getattr(self, form)(name)]:
            return False
        if form == "credential":
            return True
        wanted = str(pcr.Selection.parse(pcrs))
        return bool((read_json(self.sealed(name)) or {}).get("pcrs") == wanted)

    def keep(self, name: str, password: bytes, form: Form, pcrs: str) -> None:
        """In place of what was kept. Raises HostKeyMissing, PcrBankAbsent, TpmError."""
        store.make(directory(self.state))
        if form == "sealed":
            self._seal(name, password, pcr.Selection.parse(pcrs))
            store.remove(self.credential(name))
        else:
            data = host_key.encrypted(f"tpm-{name}-auth", password)
            store.write(self.credential(name), data)
            store.remove(self.sealed(name))

    def _seal(self, name: str, password: bytes, selection: pcr.Selection) -> None:
        values = pcr.read(self.tpm, selection)
        public, private = self.tpm.seal_to(SRK, password, selection, values)
        found = {
            "public": base64.b64encode(public).decode(),
            "private": base64.b64encode(private).decode(),
            "pcrs": str(selection),
            "values": {str(number): value.hex() for number, value in values.items()},
        }
        write_json(self.sealed(name), found)

    def open(self, name: str) -> bytes:
        """The password. Raises SealedToAnotherState, SealedToAnotherTpm, HostKeyMissing, TpmError;
        NoPermission for who may not read it."""
        if (data := store.read(self.credential(name))) is not None:
            return host_key.decrypted(f"tpm-{name}-auth", data)
        public, private, selection, values = self._sealed(name)
        try:
            return self.tpm.unseal(SRK, (public, private), selection, values)
        except SealedToAnotherState as e:
            raise self._another_state(name, selection, values) from e

    def _sealed(self, name: str) -> tuple[bytes, bytes, pcr.Selection, dict[int, bytes]]:
        found: dict[str, Any] = read_json(self.sealed(name)) or {}
        try:
            public = base64.b64decode(found["public"], validate=True)
            private = base64.b64decode(found["private"], validate=True)
            selection = pcr.Selection.parse(found["pcrs"])
            values = {
                each: bytes.fromhex(found["values"][str(each)]) for each in selection.registers
            }
            return public, private, selection, values
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            path = self.sealed(name)
            raise SealedToAnotherTpm(f"cannot use '{path}': it is damaged") from e

    def _another_state(
        self, name: str, selection: pcr.Selection, values: dict[int, bytes]
    ) -> SealedToAnotherState:
        now = pcr.read(self.tpm, selection)
        changed = [str(number) for number in values if values[number] != now[number]]
        which = (
            f"PCR {', '.join(changed)} of {selection.bank} changed since" if changed else "refused"
        )
        return SealedToAnotherState(f"cannot open the {name} password of the TPM: {which}")

    def forget(self, name: str) -> None:
        for path in self.files(name):
            store.remove(path)

    def passwords(self, but_for: Container[str]) -> tuple[dict[str, bytes], dict[str, AgentError]]:
        """Those of "owner" and "endorsement" that are set, and kept; and why one cannot be told:
        what `open` raises."""
        found: dict[str, bytes] = {}
        withheld: dict[str, AgentError] = {}
        for name in [each for each in ("owner", "endorsement") if each not in but_for]:
            try:
                if self.has(name) and name in self.tpm.passwords_set():
                    found[name] = self.open(name)
            except AgentError as e:
                log.debug("a password is withheld: %s", e)
                withheld[name] = e
        return found, withheld
