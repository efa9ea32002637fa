"""What the TPM itself says about keys in it, signed by a restricted key of its own."""

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from tpm2_pytss.constants import TPM2_ALG, TPM2_CC
from tpm2_pytss.types import TPMT_SIG_SCHEME, TPMT_TK_CREATION

from agent.tpm.endorsement import Endorsement
from agent.tpm.esys import speaking, steady
from agent.tpm.objects import Attestor, Transient
from agent.tpm.pcr import Selection


class Attestation(Endorsement):
    """Evidence, in the TPM's own encoding: big-endian (TPM 2.0 Library, part 2, 10.12)."""

    def certify(self, key: int | Transient, by: Transient, nonce: bytes) -> tuple[bytes, bytes]:
        """That `key` sits in the TPM of `by`: TPMS_ATTEST and TPMT_SIGNATURE (TPM2_Certify).

        `nonce` (at most 64 bytes) comes back in it. The signature is of the attestor's own scheme.
        """
        with (
            speaking("certify a key"),
            self._using(key) as (certified, its),
            self._as_admin(its, TPM2_CC.Certify) as admin,
            self._as_user(by.public) as user,
        ):
            said, signature = self.esys.certify(
                certified, by.handle, nonce, _own_scheme(), session1=admin, session2=user
            )
        return bytes(said), bytes(signature.marshal())

    def certify_creation(self, attestor: Attestor, nonce: bytes) -> tuple[bytes, bytes]:
        """That `attestor` was made in this TPM, by itself: TPMS_ATTEST and TPMT_SIGNATURE."""
        ticket, _ = TPMT_TK_CREATION.unmarshal(attestor.ticket)
        with speaking("certify a key's creation"), self._as_user(attestor.public) as user:
            said, signature = self.esys.certify_creation(
                attestor.handle,
                attestor.handle,
                nonce,
                attestor.creation_hash,
                _own_scheme(),
                ticket,
                session1=user,
            )
        return bytes(said), bytes(signature.marshal())

    @steady
    def quote(self, key: int | Transient, nonce: bytes, pcrs: Selection) -> tuple[bytes, bytes]:
        """The TPM's word for what is in its PCRs, its clock and `nonce` (at most 64 bytes):
        TPMS_ATTEST and a signature with SHA-256, ECDSA in DER, or RSASSA, by a key that signs.

        Of `pcrs` those that the TPM has not are left out, and the answer says which are in it.
        """
        with (
            speaking("quote the PCRs"),
            self._using(key) as (by, public),
            self._as_user(public) as user,
        ):
            ecc = isinstance(public.key, EllipticCurvePublicKey)
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA if ecc else TPM2_ALG.RSASSA)
            scheme.details.any.hashAlg = TPM2_ALG.SHA256
            said, signature = self.esys.quote(by, pcrs.list, nonce, in_scheme=scheme, session1=user)
        return bytes(said), bytes(signature)

    def qualified_name(self, handle: int | Transient) -> bytes:
        """H(qualified name of the parent || name): it tells below which keys one sits, up to the
        hierarchy (TPM 2.0 Library, part 1, 26.5)."""
        with speaking("read a qualified name"), self._at(handle) as key:
            _, _, qualified = self.esys.read_public(key)
        return bytes(qualified)


def _own_scheme() -> TPMT_SIG_SCHEME:
    return TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
