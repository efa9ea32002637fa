"""What a TPM holds, to be compared: read by commands of its own, not by the code that is tested.

Nothing is changed by looking: no slot is taken, and no password is tried that counts if wrong.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_CAP, TPM2_HC, TPM2_PT, TPMA_NV

HIERARCHIES = {"owner": ESYS_TR.OWNER, "platform": ESYS_TR.PLATFORM}
KINDS = (TPM2_HC.TRANSIENT_FIRST, TPM2_HC.LOADED_SESSION_FIRST, TPM2_HC.ACTIVE_SESSION_FIRST)
SESSIONS = (0x02, 0x03)
FLAGS = ("PERMANENT", "STARTUP_CLEAR", "LOCKOUT_COUNTER", "MAX_AUTH_FAIL", "LOCKOUT_INTERVAL")
CHUNK = 512


@dataclass(frozen=True)
class Snapshot:
    """`keys`: the public area and name at each persistent handle, or why they are hidden.
    `indices`: the public area and the contents (or why they are hidden) of each NV index. `loaded`:
    transient objects and sessions. `flags`: passwords set, hierarchies that are off, lockout; and
    how often the TPM was reset, which TPM2_Clear sets to nought.
    """

    keys: Mapping[int, str]
    indices: Mapping[int, tuple[str, str]]
    loaded: frozenset[int]
    flags: Mapping[str, int]

    def lost(self, after: "Snapshot", but: frozenset[int] = frozenset()) -> list[str]:
        """What was there, and is not, or not as it was; `but` these handles and indices."""
        return [
            *_lost("key", self.keys, after.keys, but),
            *_lost("NV", self.indices, after.indices, but),
            *(f"slot {handle:#x} is empty" for handle in self.loaded - after.loaded),
            *(f"{n} is {after.flags[n]:#x}" for n, v in self.flags.items() if after.flags[n] != v),
        ]

    def added(self, after: "Snapshot") -> set[int]:
        there = self.keys.keys() | self.indices.keys() | self.loaded
        return (after.keys.keys() | after.indices.keys() | after.loaded) - there


def _lost(
    what: str, before: Mapping[int, Any], after: Mapping[int, Any], but: frozenset[int]
) -> Iterator[str]:
    for handle, was in before.items():
        if handle not in but and after.get(handle) != was:
            yield f"{what} {handle:#x} is {'another' if handle in after else 'gone'}"


def take(tcti: str, auths: Mapping[str, str] | None = None) -> Snapshot:
    """`auths`: the passwords of 'owner' and 'platform', if they have any: for the NV."""
    os.environ.setdefault("TSS2_LOG", "all+none")
    with ESAPI(tcti) as esys:
        for name, auth in (auths or {}).items():
            if name in HIERARCHIES:
                esys.tr_set_auth(HIERARCHIES[name], auth)
        return Snapshot(
            {handle: _key(esys, handle) for handle in _handles(esys, TPM2_HC.PERSISTENT_FIRST)},
            {index: _index(esys, index) for index in _handles(esys, TPM2_HC.NV_INDEX_FIRST)},
            frozenset(handle for kind in KINDS for handle in _handles(esys, kind)),
            {
                **{name: _property(esys, getattr(TPM2_PT, name)) for name in FLAGS},
                "resets": int(esys.read_clock().clockInfo.resetCount),
            },
        )


def _handles(esys: ESAPI, first: int) -> list[int]:
    _, found = esys.get_capability(TPM2_CAP.HANDLES, int(first), 254)
    of = (
        SESSIONS if int(first) >> 24 in SESSIONS else (int(first) >> 24,)
    )  # policy sessions are 0x03 anyway
    return [int(h) for h in found.data.handles if int(h) >> 24 in of]


def _property(esys: ESAPI, which: int) -> int:
    _, found = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, which, 1)
    return int(found.data.tpmProperties[0].value)


def _key(esys: ESAPI, handle: int) -> str:
    try:
        key = esys.tr_from_tpmpublic(handle)
        public, name, _ = esys.read_public(key)
    except TSS2_Exception as e:  # of a hierarchy that is switched off
        return f"hidden: {e.rc:#x}"
    return bytes(public.marshal() + name.marshal()).hex()


def _index(esys: ESAPI, index: int) -> tuple[str, str]:
    try:
        nv = esys.tr_from_tpmpublic(index)
        public, _ = esys.nv_read_public(nv)
    except TSS2_Exception as e:
        return f"hidden: {e.rc:#x}", ""
    try:
        contents = _contents(esys, nv, public.nvPublic).hex()
    except TSS2_Exception as e:
        contents = f"hidden: {e.rc:#x}"
    return bytes(public.marshal()).hex(), contents


def _contents(esys: ESAPI, nv: Any, public: Any) -> bytes:
    may, size = public.attributes, int(public.dataSize)
    reader = nv
    if may & TPMA_NV.PPREAD:
        reader = ESYS_TR.PLATFORM
    elif may & TPMA_NV.OWNERREAD:
        reader = ESYS_TR.OWNER
    parts = [(at, min(CHUNK, size - at)) for at in range(0, size, CHUNK)]
    return b"".join(bytes(esys.nv_read(nv, n, at, auth_handle=reader)) for at, n in parts)
