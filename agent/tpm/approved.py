"""Keys that work in boot states alone which the maker of the device has approved.

The authPolicy of such a key is PolicyAuthorize (TPM 2.0 Library, part 3, 23.16): whatever policy
the maker's key has signed. What is signed is a PolicyPCR, that is the values of some registers: so
other firmware needs another signature, and no other key. An approval names no device and no date:
it is good on all boards with keys for this maker's key, for as long as they live.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPMA_OBJECT
from tpm2_pytss.types import TPM2B_PUBLIC, TPMS_ECC_POINT, TPMT_SIGNATURE

from agent.tpm import pcr, policies

# policyRef: what a signature of the maker's key is about. One for another purpose is none for this.
REF = b"tpm2cloud boot state"
RSA_SIZES, CURVES = (2048, 3072), {"secp256r1": 32, "secp384r1": 48}
# As tpm2_loadexternal -a makes of a PEM file, but for the exponent of RSA, which is 0 for 65537, as
# in the TCG's templates; scheme and symmetric algorithm are null. All of it is in the key's name,
# and so in the policy.
ATTRIBUTES = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SIGN_ENCRYPT


@dataclass(frozen=True)
class Maker:
    """The maker's key, which signs approvals: RSA of 2048 or 3072 bits with exponent 65537, or EC
    on P-256 or P-384; always with SHA-256, RSA as PKCS #1 v1.5."""

    key: RSAPublicKey | EllipticCurvePublicKey

    @classmethod
    def of_pem(cls, data: bytes) -> Self:
        """Of a SubjectPublicKeyInfo (`openssl pkey -pubout`). Raises ValueError."""
        try:
            key = load_pem_public_key(data)
        except UnsupportedAlgorithm as e:
            raise ValueError("its algorithm is of no known kind") from e
        match key:
            case RSAPublicKey() if key.key_size in RSA_SIZES and key.public_numbers().e == 65537:
                return cls(key)
            case EllipticCurvePublicKey() if key.curve.name in CURVES:
                return cls(key)
        raise ValueError("it is neither RSA of 2048 or 3072 bits nor EC on P-256 or P-384")

    @property
    def area(self) -> TPM2B_PUBLIC:
        pem = self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        area = TPM2B_PUBLIC.from_pem(pem, objectAttributes=ATTRIBUTES)
        if isinstance(self.key, EllipticCurvePublicKey):  # from_pem leaves out zeros in front
            point, size = self.key.public_numbers(), CURVES[self.key.curve.name]
            x, y = (each.to_bytes(size, "big") for each in (point.x, point.y))
            area.publicArea.unique.ecc = TPMS_ECC_POINT(x=x, y=y)
        return area

    @property
    def policy(self) -> bytes:
        """The authPolicy of keys that this one approves the use of: 32 bytes."""
        name = bytes(self.area.get_name())
        once = policies.extended(sha256, bytes(32), TPM2_CC.PolicyAuthorize, name)
        return sha256(once + REF).digest()

    def signed(self, signature: bytes, data: bytes) -> bool:
        """`signature`: as `openssl dgst -sha256 -sign` writes it, EC as DER."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class State:
    """Registers and the values that they have in a boot state."""

    selection: pcr.Selection
    values: pcr.Values

    @classmethod
    def of_json(cls, data: bytes) -> Self:
        """Raises ValueError."""
        try:
            found = json.loads(data)
        except RecursionError as e:
            raise ValueError("it is nested too deeply") from e
        if not (isinstance(found, dict) and found.keys() == {"pcrs", "values"}):
            raise ValueError("it has not 'pcrs' and 'values'")
        if not (isinstance(found["pcrs"], str) and isinstance(found["values"], dict)):
            raise ValueError("'pcrs' must be a text, 'values' a table")
        selection = pcr.Selection.parse(found["pcrs"])
        return cls(selection, _values(selection, found["values"]))

    def as_json(self) -> str:
        values = {str(each): self.values[each].hex() for each in self.selection.registers}
        return json.dumps({"pcrs": str(self.selection), "values": values}, indent=2)

    @property
    def to_sign(self) -> bytes:
        """approvedPolicy || policyRef: of this the maker signs the SHA-256."""
        return pcr.policy_digest(self.selection, self.values) + REF

    def differs(self, now: pcr.Values) -> list[int]:
        """The registers that have other values now."""
        return [each for each in self.selection.registers if now[each] != self.values[each]]


def _values(selection: pcr.Selection, found: Mapping[str, Any]) -> dict[int, bytes]:
    if found.keys() != {str(each) for each in selection.registers}:
        raise ValueError(f"its values are not those of the registers {selection}")
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError("the values must be texts")
    values = {each: bytes.fromhex(found[str(each)]) for each in selection.registers}
    if any(len(value) != selection.size for value in values.values()):
        raise ValueError(f"the values must be of {selection.size} bytes, in hex")
    return values


@dataclass(frozen=True)
class Approval:
    """A boot state, and the maker's word that keys may be used in it; `name`: of its file."""

    name: str
    maker: Maker
    state: State
    signature: bytes

    def satisfy(self, esys: Any, session: Any, maker: Any, ticket: Any) -> None:
        """In a policy session of SHA-256. `maker`: its name in the TPM, `ticket`: by `ticket`."""
        pcr.satisfy(esys, session, self.state.selection, self.state.values)
        approved = pcr.policy_digest(self.state.selection, self.state.values)
        esys.policy_authorize(session, approved, maker, ticket, REF)

    def checked(self, esys: Any, maker: Any) -> Any:
        """The TPM's own word that the maker (a loaded key) has signed it: TPMT_TK_VERIFIED."""
        digest = sha256(self.state.to_sign).digest()
        return esys.verify_signature(maker, digest, _signature(self.signature, self.maker))


def load(esys: Any, maker: Maker) -> Any:
    """Into a slot, for `Approval.checked`. Tickets of the hierarchy of no name count nothing."""
    return esys.load_external(maker.area, hierarchy=ESYS_TR.ENDORSEMENT)


def _signature(signature: bytes, maker: Maker) -> TPMT_SIGNATURE:
    """TPM 2.0 Library, part 2, 11.3.4: algorithm, hash, then the signature's parts."""
    if isinstance(maker.key, RSAPublicKey):
        algorithm, parts = TPM2_ALG.RSASSA, [signature]
    else:
        size = CURVES[maker.key.curve.name]
        numbers = decode_dss_signature(signature)
        algorithm, parts = TPM2_ALG.ECDSA, [each.to_bytes(size, "big") for each in numbers]
    head = struct.pack(">HH", algorithm, TPM2_ALG.SHA256)
    found, _ = TPMT_SIGNATURE.unmarshal(head + b"".join(map(_sized, parts)))
    return found


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
