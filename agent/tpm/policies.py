"""The policies of TCG's own keys, and how one is satisfied.

A policy session starts with a digest of zeros, and each policy command extends it; a key may be
used when the digest is the key's authPolicy (TPM 2.0 Library, part 1, 19.7). Those of endorsement,
IDevID and attestation keys all begin with PolicySecret(TPM_RH_ENDORSEMENT): whoever knows the
(mostly empty) password of the endorsement hierarchy. Unlike a key's own password, that is never
counted by the protection against dictionary attacks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256, sha384, sha512
from typing import Any

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_RH
from tpm2_pytss.types import TPM2B_DIGEST, TPML_DIGEST

Hash = Callable[[bytes], Any]


def extended(hash_of: Hash, digest: bytes, code: int, *what: bytes) -> bytes:
    return bytes(hash_of(digest + int(code).to_bytes(4, "big") + b"".join(what)).digest())


def _zeros(hash_of: Hash) -> bytes:
    return bytes(len(hash_of(b"").digest()))


def _secret(hash_of: Hash) -> bytes:
    """PolicySecret(TPM_RH_ENDORSEMENT), empty policyRef (TPM 2.0 Library, part 3, 23.4)."""
    name = int(TPM2_RH.ENDORSEMENT).to_bytes(4, "big")
    once = extended(hash_of, _zeros(hash_of), TPM2_CC.PolicySecret, name)
    return bytes(hash_of(once).digest())


def _code(digest: bytes, code: int) -> bytes:
    return extended(sha256, digest, TPM2_CC.PolicyCommandCode, int(code).to_bytes(4, "big"))


def either(hash_of: Hash, *branches: bytes) -> bytes:
    """PolicyOR starts afresh from zeros (TPM 2.0 Library, part 3, 23.6)."""
    return extended(hash_of, _zeros(hash_of), TPM2_CC.PolicyOR, *branches)


@dataclass(frozen=True)
class Policy:
    """PolicySecret(ENDORSEMENT), then PolicyOR of `branches`, if there are any.

    `hash_alg`: of the policy session (TPM2_ALG), that of the key's name.
    """

    hash_alg: int
    branches: tuple[bytes, ...] = ()

    def satisfy(self, esys: Any, session: Any, code: int | None = None) -> None:
        """For the next command in `session`; `code`: which it is, if it needs the ADMIN role."""
        esys.policy_secret(ESYS_TR.ENDORSEMENT, session)
        if code is not None:
            esys.policy_command_code(session, code)
        if self.branches:
            digests = [TPM2B_DIGEST(digest) for digest in self.branches]
            esys.policy_or(session, TPML_DIGEST(digests))


# TCG EK Credential Profile 2.5, B.6.2 (PolicyA) and B.6.4 (PolicyC: what the NV index 0x01C07F01,
# ...02, ...03 holds is a policy that the owner of the platform chose).
POLICY_A = _secret(sha256)
_A_384, _A_512 = _secret(sha384), _secret(sha512)
_C_256 = bytes.fromhex("3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde")
_C_384 = bytes.fromhex(
    "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b4"
    "55e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"
)
_C_512 = bytes.fromhex(
    "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105f"
    "ba5388dd1dea702f35240c184933121e2c61b8f50d3ef91393a49a38c3f73fc8"
)

# TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 7.3.6: the user may use the key
# (7.3.6.1), have it certified (7.3.6.2), activate a credential with it (7.3.6.3), or do what the
# policy in an NV index of the manufacturer allows (7.3.6.4; 0x01C90010 for signing keys,
# 0x01C90018 for attestation keys, which need not exist).
_CERTIFY = _code(POLICY_A, TPM2_CC.Certify)
_ACTIVATE = _code(POLICY_A, TPM2_CC.ActivateCredential)
_NV_IDEVID = bytes.fromhex("629c50b05f1adb5b4297feb241549d4217a1c792c162feb861022def88fa9501")
_NV_IAK = bytes.fromhex("101e689dadf145222412c05b76e14532af1e5c74208e0ae7cdb0cff1906c8a09")
_IDEVID = (POLICY_A, _CERTIFY, _ACTIVATE, _NV_IDEVID)
_IAK = (POLICY_A, _CERTIFY, _ACTIVATE, _NV_IAK)
IDEVID, IAK = either(sha256, *_IDEVID), either(sha256, *_IAK)

# By authPolicy.
KNOWN = {
    POLICY_A: Policy(int(TPM2_ALG.SHA256)),
    _A_384: Policy(int(TPM2_ALG.SHA384)),
    _A_512: Policy(int(TPM2_ALG.SHA512)),
    either(sha256, POLICY_A, _C_256): Policy(int(TPM2_ALG.SHA256), (POLICY_A, _C_256)),
    either(sha384, _A_384, _C_384): Policy(int(TPM2_ALG.SHA384), (_A_384, _C_384)),
    either(sha512, _A_512, _C_512): Policy(int(TPM2_ALG.SHA512), (_A_512, _C_512)),
    IDEVID: Policy(int(TPM2_ALG.SHA256), _IDEVID),
    IAK: Policy(int(TPM2_ALG.SHA256), _IAK),
}
