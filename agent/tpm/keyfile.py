"""A wrapped key as a file: TSS2 PRIVATE KEY, what tpm2-tools, tpm2-openssl and others read too
(draft-bottomley-tpm2-keys)."""

from dataclasses import dataclass

from tpm2_pytss.tsskey import TSSPrivKey
from tpm2_pytss.types import TPM2B_PRIVATE, TPM2B_PUBLIC

from agent.tpm.objects import Public
from agent.tpm.objects import parse as parse_public


@dataclass(frozen=True)
class Wrapped:
    """A key wrapped by the storage key at the handle `parent`: TPM2B_PUBLIC, TPM2B_PRIVATE."""

    public: bytes
    private: bytes
    parent: int

    def look(self) -> Public:
        return parse_public(TPM2B_PUBLIC.unmarshal(self.public)[0])


def to_pem(key: Wrapped) -> bytes:
    public, _ = TPM2B_PUBLIC.unmarshal(key.public)
    private, _ = TPM2B_PRIVATE.unmarshal(key.private)
    return bytes(TSSPrivKey(private, public, empty_auth=True, parent=key.parent).to_pem())


def from_pem(data: bytes) -> Wrapped:
    """Raises ValueError."""
    try:
        key = TSSPrivKey.from_pem(data)
        return Wrapped(bytes(key.public.marshal()), bytes(key.private.marshal()), int(key.parent))
    except Exception as e:  # tpm2_pytss promises no particular one
        raise ValueError(f"not a TSS2 PRIVATE KEY: {e}") from e
