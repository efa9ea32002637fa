"""The TPM, opened once per process: what it holds, what it makes, what it signs."""

import contextlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from tpm2_pytss.constants import TPM2_ALG
from tpm2_pytss.cryptography import tpm_ecc_private_key, tpm_rsa_private_key
from tpm2_pytss.types import TPMT_SIG_SCHEME

from agent.errors import HandleOccupied
from agent.tpm.esys import speaking, steady
from agent.tpm.hierarchy import Hierarchy
from agent.tpm.imported import Imported
from agent.tpm.objects import PublicKey, Transient

HASHES = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}


class Tpm(Imported, Hierarchy):
    """The keys and the NV of the chip.

    Every method raises TpmError (or a child of it); absence is None, never an error. Handles are
    TPM handles (0x81......), NV indices 0x01....... Not for several threads at once.
    """

    @steady
    def sign(
        self,
        handle: int | Transient,
        digest: bytes,
        hash_name: str,
        *,
        pss: bool = False,
        known: bool = False,
    ) -> bytes:
        """Sign a digest ("sha256", "sha384", "sha512") with an unrestricted key.

        RSA: RSASSA (PKCS #1 v1.5), or RSAPSS with a salt as long as the digest; big-endian, of the
        modulus' size. ECC: ECDSA, DER (RFC 3279, 2.2.3); TCG's IDevID takes "sha256" only. The
        password of the key is empty; one of TCG's is used by its policy. `known`: as for
        `private_key`. Raises HandleOccupied.
        """
        with (
            speaking(_signing(handle)),
            self._using(handle, known=known) as (key, public),
            self._as_user(public) as session,
        ):
            ecc = isinstance(public.key, EllipticCurvePublicKey)
            rsa = TPM2_ALG.RSAPSS if pss else TPM2_ALG.RSASSA
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA if ecc else rsa)
            scheme.details.any.hashAlg = HASHES[hash_name]
            return bytes(self.esys.sign(key, digest, scheme, session1=session))

    @contextlib.contextmanager
    def private_key(
        self, handle: int | Transient, *, known: bool = False
    ) -> Iterator[CertificateIssuerPrivateKeyTypes]:
        """A key as `cryptography` wants one to sign a CSR: for one signature.

        `known`: whoever made it has left its password empty; without that, raises HandleOccupied
        for one that `locks`.
        """
        with (
            speaking(_signing(handle)),
            self._using(handle, known=known) as (key, public),
            self._as_user(public) as session,
        ):
            ecc = isinstance(public.key, EllipticCurvePublicKey)
            kind = tpm_ecc_private_key if ecc else tpm_rsa_private_key
            yield kind(self.esys, key, session)

    def signer(self, handle: int | Transient, *, known: bool = False) -> "Signer":
        """A key for TLS; valid while this Tpm is open, and the key loaded. `known`: as for
        `private_key`."""
        public = handle.public if isinstance(handle, Transient) else self.public(handle)
        if public is None or public.key is None:
            why = f"cannot {_signing(handle)}: there is no signing key"
            raise HandleOccupied(why, handle="" if isinstance(handle, Transient) else hex(handle))
        return Signer(self, handle, public.key, known=known)


def _signing(key: int | Transient) -> str:
    return f"sign with {'a loaded key' if isinstance(key, Transient) else hex(key)}"


class Signer:
    """A key in the TPM as the TLS provider wants it: a public key, and one way to sign."""

    def __init__(self, tpm: Tpm, handle: int | Transient, key: PublicKey, *, known: bool) -> None:
        self._tpm, self._handle, self.public_key, self._known = tpm, handle, key, known

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        """See Tpm.sign."""
        pss = pss and not isinstance(self.public_key, EllipticCurvePublicKey)
        return self._tpm.sign(self._handle, digest, hash_name, pss=pss, known=self._known)
