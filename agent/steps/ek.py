"""The endorsement key: genuine, and kept where others look for it."""

from agent import ek as genuine
from agent import x509
from agent.ek import KINDS, Kind, Trust, certificate
from agent.errors import HandleOccupied, TpmError
from agent.steps import Step
from agent.tpm import Public, Tpm

__all__ = ["KINDS", "Trust", "certificate", "ek", "public"]


def ek(tpm: Tpm, trust: Trust, *, strict: bool = False) -> Step:
    def done() -> str | None:
        kind, cert = certificate(tpm)
        have = tpm.public(kind.handle)
        if have is not None and have.key != cert.public_key():
            raise _not_ours(tpm, kind, have)
        found = genuine.verify(tpm, trust, strict=strict)
        if have is None:
            return None
        root = x509.describe(found.chain[-1])
        return f"{kind.handle:#x} {have}, certified by {root}, {found.maker}"

    def apply() -> None:
        kind, cert = certificate(tpm)
        with tpm.ek(kind.template) as made:
            if made.public.key != cert.public_key():
                raise genuine.mismatch(kind)
            tpm.persist(made, kind.handle)

    return Step("ek", done, apply)


def public(tpm: Tpm) -> Public | None:
    """The EK that the step keeps."""
    return tpm.public(certificate(tpm)[0].handle)


def _not_ours(tpm: Tpm, kind: Kind, have: Public) -> TpmError:
    """The handle holds another key than the certificate's: which of the two is wrong?"""
    made = genuine.made(tpm, kind)
    if made.key != certificate(tpm)[1].public_key():
        return genuine.mismatch(kind)
    alike = have.attributes == made.attributes
    what = "an EK made from another template (the Azure C SDK's, perhaps)" if alike else str(have)
    return HandleOccupied(
        f"cannot keep the EK at {kind.handle:#x}: {what} is there", handle=hex(kind.handle)
    )
