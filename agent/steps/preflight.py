"""Before anything is touched: a TPM that answers, a clock that can be right, a name."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from agent import RELEASED, deviceid, ek, network, store, x509
from agent.config import Config
from agent.errors import ClockImplausible, TpmUnavailable
from agent.steps import Step
from agent.tpm import Tpm


def look(name: str, evidence: Callable[[], str]) -> Step:
    """A step that can only find things as they should be, or say why not."""
    return Step(name, evidence, lambda: None)


def tpm_answers(tpm: Tpm, wait: float, *, unlocked: bool = True) -> Step:
    """The TPM, waited for at most `wait` seconds: a driver may come up after us. `unlocked`: with
    the passwords that are kept here; raises what they cannot be opened for."""

    def done() -> str | None:
        try:
            told = f"{tpm} at {tpm.tcti}"
        except TpmUnavailable:
            return None
        if unlocked and tpm.withheld:
            raise next(iter(tpm.withheld.values()))
        return told

    return Step("tpm", done, lambda: tpm.wait(wait))


def clock(own: Path | None, trusted: Iterable[Path]) -> Step:
    """Not before this software was released, nor before the certificates that we hold.

    Nothing else can be known offline: being "synchronised" proves nothing, and a device may wake
    up in 1970. `own`: the file of our certificate, which will be replaced if it is damaged.
    `trusted`: files of CA certificates, of which the oldest in each counts: the root of next year
    may be there long before. Raises TrustUnreadable for one that cannot be read.
    """

    def done() -> str:
        now = datetime.now(UTC)
        floor, why = max(_floors(own, trusted))
        if now + x509.SKEW < floor:  # the CA that issued to us may be a little ahead
            raise ClockImplausible(
                f"cannot trust the clock: it says {now:%Y-%m-%d %H:%M}Z, but {why} is of "
                f"{floor:%Y-%m-%d %H:%M}Z"
            )
        return f"{now:%Y-%m-%d %H:%M}Z"

    return look("clock", done)


def _floors(own: Path | None, trusted: Iterable[Path]) -> Iterable[tuple[datetime, str]]:
    yield RELEASED, "this software"
    starts = {own: x509.newest_not_before(x509.kept(store.read(own)))} if own else {}
    held = [path for path in trusted if store.exists(path)]
    starts |= {path: x509.oldest_not_before(x509.anchors(path)) for path in held}
    for path, start in starts.items():
        if start is not None:
            yield start, f"a certificate in '{path}'"


def who(conf: Config, tpm: Tpm) -> str:
    """The registration id. Raises DeviceIdInvalid, NoPermission, TpmError."""
    return deviceid.resolve(conf.device.id, ek=partial(ek.shown, tpm), card=network.card)


def device_id(resolve: Callable[[], str]) -> Step:
    return look("device-id", resolve)
