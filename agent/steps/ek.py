"""The endorsement key: genuine, and kept where others look for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent import config
from agent import ek as genuine
from agent.ek import Trust
from agent.ek_path import ToBeFetched
from agent.errors import HandleOccupied
from agent.state import State
from agent.steps import Step
from agent.tpm import Public, Tpm

if TYPE_CHECKING:
    from agent.http import Proxy


def trust(
    conf: config.Chip, state: State, proxy: "Callable[[], Proxy | None]" = lambda: None
) -> Trust:
    """Whose TPMs are genuine, as the configuration says."""
    return Trust(conf.manufacturer_roots, conf.crls, conf.fetch_from, state.tpm_makers, proxy)


def ek(tpm: Tpm, trust: Trust, *, strict: bool = False) -> Step:
    def done() -> str | None:
        try:
            found = genuine.certified(tpm, trust, strict=strict, fetch=False)
        except ToBeFetched:
            return None
        have = tpm.public(found.kind.handle)
        if have is None:
            return None
        if have.key != found.certificate.public_key():
            raise _not_ours(tpm, found, have)
        genuine.owned(tpm, found, strict=strict)
        return f"{found.kind.handle:#x} {have}, {found}"

    def apply() -> None:
        found = genuine.certified(tpm, trust, strict=strict)
        if tpm.public(found.kind.handle) is None:
            with tpm.ek(found.kind.template) as made:
                genuine.same(found.kind, found.certificate, made.public)
                tpm.persist(made, found.kind.handle)

    return Step("ek", done, apply)


def public(tpm: Tpm) -> Public | None:
    """The EK that the step keeps."""
    return tpm.public(genuine.certificate(tpm)[0].handle)


def _not_ours(tpm: Tpm, found: genuine.Genuine, have: Public) -> HandleOccupied:
    """The handle holds another key than the certificate's: which of the two is wrong?"""
    made = genuine.made(tpm, found.kind)
    genuine.same(found.kind, found.certificate, made)
    handle = found.kind.handle
    alike = have.attributes == made.attributes
    what = "an EK made from another template (the Azure C SDK's, perhaps)" if alike else str(have)
    return HandleOccupied(f"cannot keep the EK at {handle:#x}: {what} is there", handle=hex(handle))
