"""The EK that DPS is shown: RSA, at the handle where its clients keep it.

It need not be the one that the TPM's maker has certified. That may be an ECC key only, which DPS
knows nothing of; or a program of Azure's was here first, and left an EK made by the template of the
Azure C SDK, with an empty `unique`, under which the device may well be enrolled. In both cases the
certified one proves that the TPM is genuine, and the other that it is in the TPM, too.
"""

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent import ek as genuine
from agent.ek import DPS_EK, Genuine, Trust
from agent.ek_path import ToBeFetched
from agent.errors import HandleOccupied
from agent.steps import Step
from agent.steps.ek import ek
from agent.tpm import Public, Tpm


def dps_ek(tpm: Tpm, trust: Trust) -> Step:
    """Instead of the step `ek`, where DPS knows the device by its EK."""
    certified = ek(tpm, trust)

    def done() -> str | None:
        try:
            found = genuine.certified(tpm, trust, fetch=False)
        except ToBeFetched:
            return None
        have = tpm.public(DPS_EK.handle)
        if _is_certified(found, have):
            return certified.done()
        if have is None or (found.kind != DPS_EK and certified.done() is None):
            return None
        return _adopted(tpm, found, have)

    def apply() -> None:
        found, have = genuine.certified(tpm, trust), tpm.public(DPS_EK.handle)
        if found.kind != DPS_EK or have is None:
            certified.apply()
        if tpm.public(DPS_EK.handle) is None:
            with tpm.ek(DPS_EK.template) as made:
                tpm.persist(made, DPS_EK.handle)

    return Step("ek", done, apply)


def _is_certified(found: Genuine, have: Public | None) -> bool:
    key = found.certificate.public_key()
    return found.kind == DPS_EK and have is not None and have.key == key


def _adopted(tpm: Tpm, found: Genuine, have: Public) -> str:
    """Not the certified one; so that is looked for, and the private key of this one, too. Raises
    HandleOccupied if it does not fit."""
    _fits(have)
    if found.kind == DPS_EK:
        genuine.owned(tpm, found, strict=False)
    genuine.held(tpm, DPS_EK.handle, have)
    return f"{DPS_EK.handle:#x} {have}, which DPS is shown; the TPM is {found}"


def _fits(have: Public) -> None:
    if not (isinstance(have.key, RSAPublicKey) and have.endorses):
        raise HandleOccupied(
            f"cannot show DPS the key at {DPS_EK.handle:#x}: it holds {have} that is no EK, "
            "neither the TCG's nor the Azure C SDK's",
            handle=hex(DPS_EK.handle),
        )
