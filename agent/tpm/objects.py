"""What we know of an object in the TPM, as data."""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPMA_OBJECT
from tpm2_pytss.types import TPM2B_PUBLIC

from agent.tpm import policies
from agent.tpm.templates import MARK

PublicKey = RSAPublicKey | EllipticCurvePublicKey
NAME_HASHES = {
    int(TPM2_ALG.SHA1): hashlib.sha1,
    int(TPM2_ALG.SHA256): hashlib.sha256,
    int(TPM2_ALG.SHA384): hashlib.sha384,
    int(TPM2_ALG.SHA512): hashlib.sha512,
}


@dataclass(frozen=True)
class Public:
    """The public area of an object (TPM 2.0 Library, part 2, 12.2.4).

    `blob` is a TPM2B_PUBLIC: two size bytes, then TPMT_PUBLIC, big-endian. `key` is None for what
    has no public key (HMAC keys, sealed data). `attributes` is TPMA_OBJECT, `policy` the digest
    authPolicy, empty if there is none. `name`: two bytes nameAlg, then the digest of `tpmt` (part
    1, 16).
    """

    blob: bytes
    attributes: int
    policy: bytes
    key: PublicKey | None

    @property
    def tpmt(self) -> bytes:
        """TPMT_PUBLIC: the blob without its size."""
        return self.blob[2:]

    @property
    def name(self) -> bytes:
        algorithm = self.tpmt[2:4]
        return algorithm + bytes(NAME_HASHES[int.from_bytes(algorithm, "big")](self.tpmt).digest())

    @property
    def ours(self) -> bool:
        """A key that this program made in this TPM, now or in an earlier life of the device."""
        return self.policy == MARK and self._has(TPMA_OBJECT.FIXEDTPM)

    @property
    def signs(self) -> bool:
        """An unrestricted signing key: one that signs what we ask it to."""
        return self._has(TPMA_OBJECT.SIGN_ENCRYPT) and not self._has(TPMA_OBJECT.RESTRICTED)

    @property
    def attests(self) -> bool:
        """A restricted signing key: one that signs only what the TPM itself says."""
        return self._has(TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.RESTRICTED)

    @property
    def admin_by_policy(self) -> bool:
        """To certify it or to activate a credential with it asks for its policy."""
        return self._has(TPMA_OBJECT.ADMINWITHPOLICY)

    @property
    def needs_approval(self) -> bool:
        """A signing key without password, which works in approved boot states alone."""
        by_policy = not self._has(TPMA_OBJECT.USERWITHAUTH) and self.policy not in policies.KNOWN
        return self._has(TPMA_OBJECT.SIGN_ENCRYPT) and by_policy

    @property
    def counts_attacks(self) -> bool:
        """Its password is protected against dictionary attacks: not usable in a lockout, and a
        power cut after its use counts as a wrong password (part 1, 19.8.6)."""
        return not self._has(TPMA_OBJECT.NODA)

    @property
    def locks(self) -> bool:
        """Some wrong passwords for it lock the TPM, and it has no policy that we know: nobody but
        who made it may use it, for whether its password is empty cannot be seen."""
        return self.counts_attacks and self.policy not in policies.KNOWN

    @property
    def bound(self) -> bool:
        """Made in this TPM, and never to leave it."""
        made = TPMA_OBJECT.SENSITIVEDATAORIGIN
        return self._has(TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | made)

    @property
    def decrypts(self) -> bool:
        return self._has(TPMA_OBJECT.DECRYPT)

    @property
    def endorses(self) -> bool:
        """A restricted decryption key, bound to this TPM, under one of the EKs' own policies."""
        wanted = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
        return self.bound and self._has(wanted) and self.policy in policies.KNOWN

    @property
    def stores(self) -> bool:
        """A storage key, usable as a parent with its (empty) password, bound to this TPM."""
        wanted = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT | TPMA_OBJECT.USERWITHAUTH
        fixed = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
        signs = self.attributes & int(TPMA_OBJECT.SIGN_ENCRYPT)
        return self.key is not None and self._has(wanted | fixed) and not signs

    def _has(self, wanted: int) -> bool:
        return self.attributes & int(wanted) == int(wanted)

    def __str__(self) -> str:
        match self.key:
            case RSAPublicKey():
                return f"RSA-{self.key.key_size}"
            case EllipticCurvePublicKey():
                return f"ECC {self.key.curve.name}"
        return "no asymmetric key"


@dataclass(frozen=True)
class Transient:
    """An object that sits in one of the TPM's few transient slots (`handle`: ESYS_TR)."""

    handle: Any
    public: Public


@dataclass(frozen=True)
class Attestor(Transient):
    """A restricted signing key that was just made, with the TPM's word that it made it: what
    TPM2_CertifyCreation asks for. `ticket` is a TPMT_TK_CREATION."""

    creation_hash: bytes
    ticket: bytes


def parse(area: TPM2B_PUBLIC) -> Public:
    public = area.publicArea
    asymmetric = public.type in (TPM2_ALG.RSA, TPM2_ALG.ECC)
    key = load_der_public_key(bytes(public.to_der())) if asymmetric else None
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | None):
        raise TypeError(f"a TPM key of an unexpected kind: {type(key)}")
    attributes, policy = int(public.objectAttributes), bytes(public.authPolicy)
    return Public(bytes(area.marshal()), attributes, policy, key)


def unmarshalled(blob: bytes) -> Public:
    """What others say is an object: a TPM2B_PUBLIC, and nothing behind it. Raises ValueError."""
    try:
        area, size = TPM2B_PUBLIC.unmarshal(blob)
        found = parse(area)
    except (TSS2_Exception, TypeError, UnsupportedAlgorithm) as e:
        raise ValueError(f"it is no public area: {e}") from e
    if size != len(blob) or found.blob != blob:
        raise ValueError("it is no public area as a TPM writes it")
    return found
