"""An ESAPI context that is patient with a busy TPM, and the one place where its codes become words.

tpm2_pytss resubmits RETRY, TESTING and YIELDED five times without a pause and then gives up, and
NV_RATE not at all; a discrete chip in its self-test, or one that wears its flash gently, needs
seconds.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from tpm2_pytss import ESAPI, TSS2_Exception

from agent.errors import (
    KeyOfAnotherTpm,
    PcrMoved,
    TpmAuth,
    TpmDisabled,
    TpmError,
    TpmFull,
    TpmLockout,
    TpmShared,
    TpmUnavailable,
)

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
TRIES = 10

# TPM 2.0 Library, part 2, 6.6.3, table 16 (TPM_RC)
RC_INITIALIZE = 0x100
RC_HANDLE_1 = 0x18B  # "the handle is not correct for the use": nothing there
RC_HANDLE_P1 = 0x1CB  # the same of a parameter, as FlushContext has it
RC_PASSWORD = {0x98E, 0x9A2}  # a password is missing or wrong
RC_VALUE_1 = 0x1C4  # parameter 1; of PolicyPCR: these are not the registers' values now
RC_AUTH = {*RC_PASSWORD, 0x185}  # or the hierarchy is disabled
RC_PCR_CHANGED = 0x128  # any register was, since PolicyPCR
LATER = {0x908: "yielded", 0x90A: "testing", 0x920: "NV rate", 0x922: "retry", 0x923: "NV off"}
PATIENCE = 60.0  # seconds; a self-test of a slow chip takes a few
# No room for an object, or for a session. Another resource manager (tpm2-abrmd, for IoT Edge's key
# service) loads those that a command of its client needs one by one, and takes them out when it is
# answered; the kernel lets our commands in between.
FULL = {0x902: "no room for objects", 0x903: "no room for sessions"}
PATIENCE_IF_FULL = 2.0  # seconds: one that is really full is to be told so

GONE = range(0x910, 0x91F)  # TPM_RC_REFERENCE_H0...S6: an object or a session is not loaded
WORDS: dict[int, type[TpmError]] = {
    **dict.fromkeys(GONE, TpmShared),
    0x921: TpmLockout,
    RC_PCR_CHANGED: PcrMoved,
    0x98E: TpmAuth,
    0x9A2: TpmAuth,
    0x185: TpmDisabled,
    0x902: TpmFull,
    0x903: TpmFull,
    0x14B: TpmFull,
    0x1DF: KeyOfAnotherTpm,  # integrity check of a wrapped key failed
}
LAYER, TCTI_LAYER = 0xFF0000, 0x0A0000  # TSS 2.0 Overview, 3.6: which layer speaks


@contextlib.contextmanager
def speaking(
    doing: str, words: Mapping[int, type[TpmError]] | None = None, **fields: object
) -> Iterator[None]:
    """Turn a TSS2 code into `cannot <doing>: <why>`, with a remedy (raises TpmError).

    `words`: what a code means here, if that is something else than elsewhere; `fields`: those of
    the remedies.
    """
    try:
        yield
    except TSS2_Exception as e:
        meant = WORDS | dict(words or {})
        kind = TpmUnavailable if e.rc & LAYER == TCTI_LAYER else meant.get(e.rc, TpmError)
        raise kind(f"cannot {doing}: {e} ({e.rc:#x})", rc=hex(e.rc), **fields) from e


def steady(use: Callable[P, R]) -> Callable[P, R]:
    """What uses a key that may be bound to registers: once more, if one was extended in its midst.
    Any does it, of whatever number; the kernel's IMA extends one for each program it measures."""

    @functools.wraps(use)
    def again(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(TRIES - 1):
            try:
                return use(*args, **kwargs)
            except PcrMoved as e:
                log.debug("%s; once more", e)
        return use(*args, **kwargs)

    return again


class Esys(ESAPI):  # type: ignore[misc]
    """ESAPI whose commands wait, with growing pauses, while the TPM says "later" or "full"."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return _patient(value) if callable(value) and not name.startswith("_") else value


def _patient(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def patiently(*args: Any, **kwargs: Any) -> Any:
        pause, started = 0.05, time.monotonic()
        while True:
            try:
                return command(*args, **kwargs)
            except TSS2_Exception as e:
                patience = PATIENCE if e.rc in LATER else PATIENCE_IF_FULL if e.rc in FULL else 0
                if time.monotonic() + pause > started + patience:
                    raise
                log.debug("the TPM says '%s', waiting %.2f s", (LATER | FULL)[e.rc], pause)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    return patiently
