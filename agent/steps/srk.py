"""The storage root key (TCG TPM v2.0 Provisioning Guidance, 7.5.1)."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent.errors import HandleOccupied, SrkNotRsa
from agent.steps import Step
from agent.tpm import Tpm
from agent.tpm.templates import KeyType

HANDLE = 0x81000001


def srk(tpm: Tpm, kind: KeyType, *, must_be_rsa: bool = False) -> Step:
    """At the well-known handle; one that systemd, an OEM or the shell scripts left is fine.

    `must_be_rsa`: what DPS sends back for attestation by TPM is sealed for it; the service takes
    RSA keys alone.
    """

    def done() -> str | None:
        public = tpm.public(HANDLE)
        if public is None:
            return None
        if not public.stores:
            raise HandleOccupied(
                f"cannot use {HANDLE:#x} as the SRK: it holds {public} that is no storage key we "
                "can use",
                handle=hex(HANDLE),
            )
        if must_be_rsa and not isinstance(public.key, RSAPublicKey):
            raise SrkNotRsa(
                f"cannot attest by TPM with the SRK at {HANDLE:#x}: it is {public}, not RSA",
                handle=hex(HANDLE),
            )
        return f"{HANDLE:#x} {public}, sha256:{sha256(public.blob).hexdigest()[:16]}"

    def apply() -> None:
        with tpm.srk(kind) as made:
            tpm.persist(made, HANDLE)

    return Step("srk", done, apply)
