"""NV indices: certificates that stay in the TPM when the disk does not."""

from dataclasses import dataclass
from typing import Any, Literal

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_HC, TPM2_PT_NV, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC
from tpm2_pytss.utils import NoSuchIndex

from agent.errors import NvFull, NvLocked, NvOccupied, PlatformLocked, TpmError
from agent.tpm.chip import HIERARCHIES, Chip
from agent.tpm.esys import RC_AUTH, RC_HANDLE_1, RC_NV_UNINITIALIZED, speaking

Definer = Literal["platform", "owner"]
# TPMA_NV (TPM 2.0 Library, part 2, 13.4). Readable by all without a password, and no_da, so that
# reading it is never an attack; writable by its definer alone. TCG TPM 2.0 Keys for Device Identity
# and Attestation 1.0, 7.3.5.1, wants platformcreate and no_da for an IDevID certificate.
_READABLE = TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA
ATTRIBUTES: dict[Definer, int] = {
    "platform": int(_READABLE | TPMA_NV.PPWRITE | TPMA_NV.PPREAD | TPMA_NV.PLATFORMCREATE),
    "owner": int(_READABLE | TPMA_NV.OWNERWRITE),
}
RC_NV_SPACE = 0x14B
RC_SIZE_2 = 0x2D5  # parameter 2 of NV_DefineSpace, publicInfo: larger than the TPM allows
FULL = {RC_NV_SPACE: NvFull, RC_SIZE_2: NvFull}
LOCKED = dict.fromkeys(RC_AUTH, PlatformLocked)


@dataclass(frozen=True)
class NvPublic:
    """What an index is: `size` in bytes, fixed when it is defined; `attributes` is TPMA_NV."""

    size: int
    attributes: int

    @property
    def platform(self) -> bool:
        """The platform hierarchy defined it, and no other can undefine it."""
        return bool(self.attributes & int(TPMA_NV.PLATFORMCREATE))

    @property
    def written(self) -> bool:
        return bool(self.attributes & int(TPMA_NV.WRITTEN))

    @property
    def definer(self) -> Definer:
        return "platform" if self.platform else "owner"


class Nv(Chip):
    """The NV indices of the chip; by their index, 0x01......"""

    def nv_indices(self) -> list[int]:
        return self.handles(TPM2_HC.NV_INDEX_FIRST)

    def nv_public(self, index: int) -> NvPublic | None:
        """What is defined at an index, or None."""
        with speaking(f"look at NV {index:#x}"):
            if (nv := self._nv_found(index)) is None:
                return None
            try:
                area, _ = self.esys.nv_read_public(nv)
            finally:
                self.esys.tr_close(nv)
        return NvPublic(int(area.nvPublic.dataSize), int(area.nvPublic.attributes))

    def nv_read(self, index: int) -> bytes | None:
        """The whole of an NV index (its size is fixed when it is defined), or None if it is not
        there or was never written."""
        with speaking(f"read NV {index:#x}"):
            if (nv := self._nv_found(index)) is None:
                return None
            try:
                return self._nv_read(nv)
            except TSS2_Exception as e:
                if e.rc == RC_NV_UNINITIALIZED:
                    return None
                raise
            finally:
                self.esys.tr_close(nv)

    def nv_store(self, index: int, data: bytes, hierarchy: Definer) -> None:
        """Define an index of exactly the size of `data`, write it and read it back.

        Raises NvOccupied if something else is there (what we were interrupted at writing, the same
        data, is finished), NvFull, and PlatformLocked if the platform hierarchy has another
        password than ours, or is disabled. What goes wrong leaves no index behind.
        """
        found = self.nv_public(index)
        if found is None:
            self._nv_define(index, len(data), hierarchy)
        elif not self._interrupted(index, found, data, hierarchy):
            raise NvOccupied(
                f"cannot define NV {index:#x}: {found.size} bytes are defined there already",
                index=hex(index),
            )
        try:
            self._nv_write(index, data, hierarchy)
            if self.nv_read(index) != data:
                raise TpmError(f"cannot write NV {index:#x}: it reads otherwise", rc="?")
        except TpmError:
            self.nv_undefine(index)
            raise

    def nv_undefine(self, index: int) -> None:
        """Give up an index, by the authority of who defined it; raises PlatformLocked."""
        if (found := self.nv_public(index)) is None:
            raise TpmError(f"cannot undefine NV {index:#x}: it is not defined", rc=hex(RC_HANDLE_1))
        words = LOCKED if found.platform else None
        with speaking(f"undefine NV {index:#x}", words):
            nv = self.esys.tr_from_tpmpublic(index)
            self.esys.nv_undefine_space(nv, auth_handle=HIERARCHIES[found.definer])

    def _interrupted(self, index: int, found: NvPublic, data: bytes, hierarchy: Definer) -> bool:
        """Is this what a power cut leaves of writing `data`? Ours to the attribute, of the same
        size, and at most the end of it not written."""
        ours = found.attributes & ~int(TPMA_NV.WRITTEN) == ATTRIBUTES[hierarchy]
        if not ours or found.size != len(data):
            return False
        held = self.nv_read(index)
        if held is None:
            return True
        done = next((i for i, byte in enumerate(held) if byte != data[i]), len(data))
        return done > 0 and len(set(held[done:])) <= 1

    def _nv_define(self, index: int, size: int, hierarchy: Definer) -> None:
        public = TPMS_NV_PUBLIC(
            nvIndex=index,
            nameAlg=TPM2_ALG.SHA256,
            attributes=ATTRIBUTES[hierarchy],
            dataSize=size,
        )
        words = FULL | (LOCKED if hierarchy == "platform" else {})
        with speaking(f"define NV {index:#x} of {size} bytes", words):
            nv = self.esys.nv_define_space(
                b"", TPM2B_NV_PUBLIC(nvPublic=public), auth_handle=HIERARCHIES[hierarchy]
            )
            self.esys.tr_close(nv)

    def _nv_write(self, index: int, data: bytes, hierarchy: Definer) -> None:
        with speaking(f"write NV {index:#x}", LOCKED if hierarchy == "platform" else None):
            nv, chunk = self.esys.tr_from_tpmpublic(index), self._nv_chunk()
            try:
                for at in range(0, len(data), chunk):
                    part = data[at : at + chunk]
                    self.esys.nv_write(nv, part, at, auth_handle=HIERARCHIES[hierarchy])
            finally:
                self.esys.tr_close(nv)

    def _nv_chunk(self) -> int:
        return self._property(TPM2_PT_NV.BUFFER_MAX) or 512

    def _nv_found(self, index: int) -> Any:
        try:
            return self.esys.tr_from_tpmpublic(index)
        except TSS2_Exception as e:
            if e.rc == RC_HANDLE_1:
                return None
            raise

    def _nv_read(self, nv: Any) -> bytes:
        area, _ = self.esys.nv_read_public(nv)
        attributes, size = area.nvPublic.attributes, int(area.nvPublic.dataSize)
        auth, chunk = self._reader(nv, attributes), self._nv_chunk()
        try:
            parts = [
                bytes(self.esys.nv_read(nv, min(chunk, size - at), at, auth_handle=auth))
                for at in range(0, size, chunk)
            ]
        except TSS2_Exception as e:
            if auth != ESYS_TR.PLATFORM or e.rc not in RC_AUTH:
                raise
            index = hex(area.nvPublic.nvIndex)
            why = "only the platform hierarchy may, and the firmware has locked that"
            raise NvLocked(f"cannot read NV {index}: {why} ({e.rc:#x})", index=index) from e
        return b"".join(parts)

    def _reader(self, nv: Any, attributes: Any) -> Any:
        """On whose authority an index is read: its own where that is free for all, and does not
        count as an attack if it is not; else the owner's, whose password not every reader has."""
        free = attributes & TPMA_NV.AUTHREAD and attributes & TPMA_NV.NO_DA
        if attributes & TPMA_NV.OWNERREAD and not (free and "owner" not in self._auths):
            return ESYS_TR.OWNER
        return nv if attributes & TPMA_NV.AUTHREAD else ESYS_TR.PLATFORM

    def _nv_or_raise(self, index: int) -> bytes:
        if (data := self.nv_read(index)) is None:
            raise NoSuchIndex(index)
        return data
