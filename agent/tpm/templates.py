"""Templates as data, each with its clause."""

from hashlib import sha256
from typing import Literal

from tpm2_pytss.constants import TPMA_OBJECT as A
from tpm2_pytss.types import TPM2B_PUBLIC, TPMS_ECC_POINT

from agent.tpm import policies

KeyType = Literal["ecc256", "rsa2048"]

# The authPolicy of signing keys that we make. No policy session ever comes to this digest, so it
# allows nothing to nobody: the keys are used by their (empty) password, as TPMA_OBJECT_userWithAuth
# says. It is in the public area, and so tells our keys from others' when all else is forgotten.
MARK = sha256(b"tpm2cloud made this key").digest()

# 7.3.4.1 of TCG's Keys for Device Identity and Attestation
_DEVICE = (
    A.FIXEDTPM
    | A.FIXEDPARENT
    | A.SENSITIVEDATAORIGIN
    | A.USERWITHAUTH
    | A.ADMINWITHPOLICY
    | A.SIGN_ENCRYPT
)
# One that works in approved boot states alone: by its policy only. What asks for the ADMIN role (to
# be certified, to activate a credential) is not its use, and goes by the empty password; noDA.
_APPROVED = A.FIXEDTPM | A.FIXEDPARENT | A.SENSITIVEDATAORIGIN | A.NODA | A.SIGN_ENCRYPT
_BOUND = A.FIXEDTPM | A.FIXEDPARENT | A.SENSITIVEDATAORIGIN | A.USERWITHAUTH | A.NODA


def storage(kind: KeyType) -> TPM2B_PUBLIC:
    """SRK: TCG TPM v2.0 Provisioning Guidance, 7.5.1, table 2; `unique` is zeros of full size."""
    template = TPM2B_PUBLIC.parse(
        f"{kind}:null:aes128cfb", objectAttributes=_BOUND | A.RESTRICTED | A.DECRYPT
    )
    if kind == "rsa2048":
        template.publicArea.unique.rsa = bytes(256)
    else:
        template.publicArea.unique.ecc = TPMS_ECC_POINT(x=bytes(32), y=bytes(32))
    return template


def signing(kind: KeyType) -> TPM2B_PUBLIC:
    """An unrestricted signing key, scheme NULL: it makes RSASSA, RSAPSS or ECDSA as asked.

    noDA, because a power cut after the use of a key under dictionary-attack protection counts as
    an attack (TPM 2.0 Library, part 1, 19.8.6). RSA keys may decrypt too, as those of the shell
    scripts do: IoT Edge's key service decrypts with RSA keys. Marked as ours.
    """
    use = A.SIGN_ENCRYPT | A.DECRYPT if kind == "rsa2048" else A.SIGN_ENCRYPT
    return TPM2B_PUBLIC.parse(f"{kind}:null:null", objectAttributes=_BOUND | use, authPolicy=MARK)


def idevid(kind: KeyType, policy: bytes | None = None) -> TPM2B_PUBLIC:
    """IDevID: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 7.3.4, template H-1
    (RSA-2048) or H-2 (P-256), for a primary key of the endorsement hierarchy.

    Whoever makes it from the same seed gets the same key: nothing here is ours to change. So there
    is no noDA, and the ECC key signs digests of SHA-256 only. With another `policy` (see approved)
    it is another key, one that works by that alone; the rest of the template is the same.
    """
    scheme = "null" if kind == "rsa2048" else "ecdsa-sha256"
    attributes = _DEVICE if policy is None else _APPROVED
    return _device_key(f"{kind}:{scheme}:null", attributes, policy or policies.IDEVID, b"IDEVID")


def iak(kind: KeyType) -> TPM2B_PUBLIC:
    """IAK: the restricted key of the same templates; it signs what the TPM says, nothing else."""
    scheme = "rsapss-sha256" if kind == "rsa2048" else "ecdsa-sha256"
    return _device_key(f"{kind}:{scheme}:null", _DEVICE | A.RESTRICTED, policies.IAK, b"IAK")


def _device_key(algorithm: str, attributes: int, policy: bytes, unique: bytes) -> TPM2B_PUBLIC:
    """7.3.3: `unique` is the text (7.3.1, table 2) without padding, in both coordinates."""
    template = TPM2B_PUBLIC.parse(algorithm, objectAttributes=attributes, authPolicy=policy)
    if algorithm.startswith("rsa"):
        template.publicArea.unique.rsa = unique
    else:
        template.publicArea.unique.ecc = TPMS_ECC_POINT(x=unique, y=unique)
    return template


def ek_child(kind: KeyType) -> TPM2B_PUBLIC:
    """What the shell scripts of Azure-Samples/iotedge-tpm2cloud make below the EK, and the same
    for P-256: as `signing`, but not marked as ours."""
    template = signing(kind)
    template.publicArea.authPolicy = b""
    return template


def sealed() -> TPM2B_PUBLIC:
    """Sealed data under a password; noDA: a wrong PIN must not lock the whole TPM."""
    return TPM2B_PUBLIC.parse(
        "keyedhash", objectAttributes=A.FIXEDTPM | A.FIXEDPARENT | A.USERWITHAUTH | A.NODA
    )


def sealed_to(policy: bytes) -> TPM2B_PUBLIC:
    """Sealed data under a policy alone: its password opens nothing."""
    attributes = A.FIXEDTPM | A.FIXEDPARENT | A.ADMINWITHPOLICY | A.NODA
    return TPM2B_PUBLIC.parse("keyedhash", objectAttributes=attributes, authPolicy=policy)


def like(blob: bytes, template: TPM2B_PUBLIC) -> bool:
    """Was the key with this TPM2B_PUBLIC made from this template? Only `unique` may differ."""
    found, _ = TPM2B_PUBLIC.unmarshal(blob)
    return _without_unique(found) == _without_unique(template)


def _without_unique(area: TPM2B_PUBLIC) -> bytes:
    public = area.publicArea
    whole, unique = bytes(public.marshal()), bytes(public.unique.marshal(public.type))
    return whole.removesuffix(unique)
