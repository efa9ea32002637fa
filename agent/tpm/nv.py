"""NV indices: certificates that stay in the TPM when the disk does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_HC, TPM2_PT_NV, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC
from tpm2_pytss.utils import NoSuchIndex

from agent.errors import NvFull, NvLocked, NvOccupied, PlatformLocked, TpmError
from agent.tpm.chip import HIERARCHIES, Chip
from agent.tpm.esys import RC_AUTH, RC_HANDLE_1, speaking

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

    def may(self, wanted: int) -> bool:
        """Has it all of these attributes?"""
        return self.attributes & int(wanted) == int(wanted)

    @property
    def platform(self) -> bool:
        """The platform hierarchy defined it, and no other can undefine it."""
        return self.may(TPMA_NV.PLATFORMCREATE)

    @property
    def written(self) -> bool:
        return self.may(TPMA_NV.WRITTEN)

    @property
    def readers(self) -> list[str]:
        """Who may read it, but for the owner, in words."""
        words = {
            TPMA_NV.AUTHREAD: "who knows its password",
            TPMA_NV.PPREAD: "the platform hierarchy",
        }
        return [word for bit, word in words.items() if self.may(bit)] or ["whom its policy allows"]

    @property
    def definer(self) -> Definer:
        return "platform" if self.platform else "owner"

    @property
    def ours(self) -> bool:
        """To the attribute what nv_store defines."""
        return self.attributes & ~int(TPMA_NV.WRITTEN) == ATTRIBUTES[self.definer]

    @property
    def blank(self) -> bool:
        """What a power cut leaves between definition and the first write: it holds nothing, and
        nv_store takes its place."""
        return self.ours and not self.written


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
        there or was never written. Raises NvLocked if nobody may read it whose password we have, or
        may try: no try is ever counted as an attack."""
        with speaking(f"read NV {index:#x}"):
            if (nv := self._nv_found(index)) is None:
                return None
            try:
                area, _ = self.esys.nv_read_public(nv)
                found = NvPublic(int(area.nvPublic.dataSize), int(area.nvPublic.attributes))
                return self._nv_read(index, nv, found) if found.written else None
            finally:
                self.esys.tr_close(nv)

    def nv_store(self, index: int, data: bytes, hierarchy: Definer) -> None:
        """Define an index of exactly the size of `data`, write it and read it back.

        Raises NvOccupied if something else is there (what we were interrupted at writing, the same
        data, is finished; and what is `blank` gives way), NvFull, and PlatformLocked if the
        platform hierarchy has another password than ours, or is disabled. What goes wrong leaves no
        index behind.
        """
        found = self.nv_public(index)
        if found is not None and found.blank:
            self.nv_undefine(index)
            found = None
        if found is None:
            self._nv_define(index, len(data), hierarchy)
        elif not self._interrupted(index, found, data, hierarchy):
            raise NvOccupied(
                f"cannot define NV {index:#x}: {self._occupation(index, found)}", index=hex(index)
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
        """Is this what a power cut leaves of writing `data`? Ours, by the same hierarchy, of the
        same size, and at most the end of it not written."""
        if not found.ours or (found.definer, found.size) != (hierarchy, len(data)):
            return False
        held = self.nv_read(index) or b""
        done = next((i for i, byte in enumerate(held) if byte != data[i]), len(data))
        return done > 0 and len(set(held[done:])) <= 1

    def _occupation(self, index: int, found: NvPublic) -> str:
        what = f"{found.size} bytes are defined there already"
        if found.ours and _cut_off(self.nv_read(index) or b""):
            return f"{what}, a certificate that was cut off while somebody wrote it"
        return what

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

    def _nv_read(self, index: int, nv: Any, found: NvPublic) -> bytes:
        """On the first authority that will do. Raises what the owner's is refused with, whose
        password we may be told; else NvLocked."""
        refusals: dict[Any, TSS2_Exception] = {}
        for reader in self._readers(nv, found):
            try:
                return self._nv_read_by(reader, nv, found.size)
            except TSS2_Exception as e:
                if e.rc not in RC_AUTH:
                    raise
                refusals[reader] = e
        if ESYS_TR.OWNER in refusals:
            raise refusals[ESYS_TR.OWNER]
        locked = ", and the firmware has locked that" if found.may(TPMA_NV.PPREAD) else ""
        why = f"only {' or '.join(found.readers)} may{locked}"
        raise NvLocked(f"cannot read NV {index:#x}: {why}", index=hex(index))

    def _nv_read_by(self, reader: Any, nv: Any, size: int) -> bytes:
        chunk = self._nv_chunk()
        parts = (
            self.esys.nv_read(nv, min(chunk, size - at), at, auth_handle=reader)
            for at in range(0, size, chunk)
        )
        return b"".join(map(bytes, parts))

    def _readers(self, nv: Any, found: NvPublic) -> Iterator[Any]:
        """On whose authority an index may be read. On its own, that is, by a password, which should
        be empty, only if an error does not count as an attack: some runs of ours would lock the
        TPM. Those of owner and platform never count (part 1, 19.8.2)."""
        if found.may(TPMA_NV.AUTHREAD | TPMA_NV.NO_DA):
            yield nv
        if found.may(TPMA_NV.OWNERREAD):
            yield ESYS_TR.OWNER
        if found.may(TPMA_NV.PPREAD):
            yield ESYS_TR.PLATFORM

    def _nv_or_raise(self, index: int) -> bytes:
        if (data := self.nv_read(index)) is None:
            raise NoSuchIndex(index)
        return data


def _cut_off(data: bytes) -> bool:
    """DER that should fill its index to the end (X.690, 8.1.3.5), where there is only filler."""
    size = int.from_bytes(data[2:4], "big") if data[:2] == b"\x30\x82" else None
    return size == len(data) - 4 and len(set(data[-4:])) == 1
