"""The chip: opened at first use, waited for, asked what it is and what it holds."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_HC, TPM2_PT, TPM2_SU

from agent.errors import AgentError, DiskFull, NoPermission, PathUnusable, TpmUnavailable
from agent.tpm.esys import RC_INITIALIZE, Esys, speaking

Auths = Mapping[str, bytes]
Withheld = Mapping[str, AgentError]  # why a password is not told, by its hierarchy
HIERARCHIES = {
    "owner": ESYS_TR.OWNER,
    "endorsement": ESYS_TR.ENDORSEMENT,
    "platform": ESYS_TR.PLATFORM,
    "lockout": ESYS_TR.LOCKOUT,
}
PT_FIRMWARE_VERSION_1 = 0x10B  # TPM 2.0 Library, part 2, 6.13, table 23; tpm2_pytss lacks it
SESSIONS = {0x02, 0x03}  # HMAC and policy sessions are listed together (part 3, 30.2.1)
LOADED = (TPM2_HC.TRANSIENT_FIRST, TPM2_HC.LOADED_SESSION_FIRST)


class Chip:
    """One ESAPI context on one TCTI; opened at first use, closed at the end of the `with`.

    Handles are TPM handles (0x81......), NV indices 0x01....... Not for several threads at once.
    Every method raises TpmError (or a child of it); absence is None, never an error.
    """

    def __init__(
        self,
        tcti: str,
        auths: Auths | None = None,
        ledger: Path | None = None,
        kept: Callable[[Any], tuple[Auths, Withheld]] | None = None,
    ) -> None:
        """`auths`: passwords of the hierarchies, by 'owner', 'endorsement' and 'platform', if they
        have any. `kept`: called once, with this, when it is open: for others, that only it can
        tell, and why it does not tell the rest, which is in `withheld`: much is done without a
        password.

        `ledger`: a file that says, while we run, what was loaded before us. Without a resource
        manager what a killed process had loaded stays in the TPM's few slots; the ledger it leaves
        lets the next one throw out just that. One process at a time may use a ledger.
        """
        self.tcti = tcti
        self._auths = dict(auths or {})
        self._ledger, self._kept = ledger, kept
        self.withheld: Withheld = {}
        self._context: Esys | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
            if self._ledger is not None:
                with _told(self._ledger):
                    self._ledger.unlink(missing_ok=True)

    # --- the chip ---

    @property
    def esys(self) -> Esys:
        if self._context is None:
            # libtss2 prints every code on stderr by itself; `speaking` says it better.
            os.environ.setdefault("TSS2_LOG", "all+none")
            with speaking(f"open the TPM at '{self.tcti}'"):
                self._context = self._open()
            if self._ledger is not None:
                self._clean_up(self._ledger)
            self._unlock()
        return self._context

    def _unlock(self) -> None:
        found, self.withheld = self._kept(self) if self._kept else ({}, {})
        for name, auth in found.items():
            self._use(name, auth)

    def _use(self, hierarchy: str, auth: bytes) -> None:
        """From now on."""
        self._auths[hierarchy] = auth
        with speaking(f"use the password of the {hierarchy} hierarchy"):
            self.esys.tr_set_auth(HIERARCHIES[hierarchy], auth)

    @property
    def auths(self) -> Auths:
        """The passwords in use, as `__init__` has them."""
        _ = self.esys
        return dict(self._auths)

    def _open(self) -> Esys:
        _permitted(self.tcti)
        context = Esys(self.tcti)
        try:
            try:
                context.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.MANUFACTURER, 1)
            except TSS2_Exception as e:
                if e.rc != RC_INITIALIZE:
                    raise
                context.startup(TPM2_SU.CLEAR)  # no kernel driver, no firmware did
            for name, auth in self._auths.items():
                context.tr_set_auth(HIERARCHIES[name], auth)
        except BaseException:
            context.close()
            raise
        return context

    def _clean_up(self, ledger: Path) -> None:
        """No fsync: a power cut empties the slots by itself, and what is there then is others'; as
        it is in another TPM, where the disk goes from board to board."""
        loaded, here = self.loaded(), {"tpm": self.likeness(), "resets": self._resets()}
        try:
            with _told(ledger):
                kept = json.loads(ledger.read_text()) if ledger.exists() else {}
            ours = all(kept[what] == now for what, now in here.items())
            before = set(kept["loaded"]) if ours else loaded
        except (ValueError, KeyError, TypeError):  # none, or cut off before anything was loaded
            before = loaded
        self.flush(sorted(loaded - before))
        with _told(ledger):
            ledger.write_text(json.dumps({**here, "loaded": sorted(loaded & before)}))

    def likeness(self) -> str:
        """What no other TPM answers, nor this one after a clear: the ticket for a hash is an HMAC
        with the proof of the hierarchy, which is random (TPM 2.0 Library, part 2, 10.7.6; part 3,
        15.4). That takes no key, no slot, no password, no hierarchy switched on."""
        with speaking("tell this TPM from others"):
            _, ticket = self.esys.hash(b"tpm2cloud", TPM2_ALG.SHA256, hierarchy=ESYS_TR.OWNER)
        return bytes(ticket.digest).hex()

    def _resets(self) -> int:
        """How often the TPM was reset, ever (TPM 2.0 Library, part 1, 36.5)."""
        with speaking("read the TPM's clock"):
            return int(self.esys.read_clock().clockInfo.resetCount)

    def wait(self, seconds: float) -> None:
        """Until the TPM answers, at most `seconds`; then raises TpmUnavailable."""
        until = time.monotonic() + seconds
        while True:
            try:
                _ = self.esys
                return
            except TpmUnavailable:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)

    def __str__(self) -> str:
        """Manufacturer and firmware, such as "IFX 7.85"."""
        maker = (
            self._property(TPM2_PT.MANUFACTURER)
            .to_bytes(4, "big")
            .rstrip(b"\0 ")
            .decode(errors="replace")
        )
        version = self._property(PT_FIRMWARE_VERSION_1)
        return f"{maker} {version >> 16}.{version & 0xFFFF}"

    def _property(self, which: int) -> int:
        with speaking("read the TPM's properties"):
            _, data = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, which, 1)
        return int(data.data.tpmProperties[0].value)

    def handles(self, first: int) -> list[int]:
        """All handles of the kind `first` starts (TPM2_HC: the top byte)."""
        found: list[int] = []
        more, at = True, int(first)
        while more:
            with speaking("list the TPM's handles"):
                more, data = self.esys.get_capability(TPM2_CAP.HANDLES, at, 254)
            page = [int(h) for h in data.data.handles]
            found += page
            if not page:
                break
            at = page[-1] + 1
        kind = int(first) >> 24
        return [h for h in found if h >> 24 in (SESSIONS if kind in SESSIONS else {kind})]

    def persistent(self) -> list[int]:
        """The handles of objects that stay without power."""
        return self.handles(TPM2_HC.PERSISTENT_FIRST)

    def loaded(self) -> set[int]:
        """Transient objects and sessions in the TPM now, ours and others'."""
        return {h for first in LOADED for h in self.handles(first)}

    def flush(self, handles: Sequence[int]) -> None:
        """Throw these transient objects or sessions out of the TPM, unless they are gone already:
        their owner may be alive after all."""
        for handle in handles:
            with speaking(f"flush {handle:#x}"):
                try:
                    self.esys.flush_context(self.esys.tr_from_tpmpublic(handle))
                except TSS2_Exception:
                    if handle in self.loaded():
                        raise


@contextlib.contextmanager
def _told(ledger: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        kind = DiskFull if e.errno in (errno.ENOSPC, errno.EDQUOT) else PathUnusable
        raise kind(f"cannot use '{ledger}': {e.strerror}", path=ledger) from e


def _permitted(tcti: str) -> None:
    """To a TCTI a device or socket that is not for us is as unavailable as one that is not there;
    it is no use to wait for it. Raises NoPermission."""
    path = tcti.partition(":")[2].removeprefix("path=")
    if path.startswith("/") and Path(path).exists() and not os.access(path, os.R_OK | os.W_OK):
        why = "Permission denied (is this user in the group tss?)"
        raise NoPermission(f"cannot open the TPM at '{path}': {why}", path=path)
