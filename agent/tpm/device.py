"""The TPM, opened once per process: what it holds, what it makes, what it signs."""

import contextlib
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_HC,
    TPM2_PT_NV,
    TPM2_SE,
    TPMA_NV,
    TPMA_SESSION,
)
from tpm2_pytss.cryptography import tpm_ecc_private_key, tpm_rsa_private_key
from tpm2_pytss.types import (
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
)
from tpm2_pytss.utils import NoSuchIndex, create_ek_template

from agent.errors import HandleOccupied, NvLocked
from agent.tpm import templates
from agent.tpm.chip import HIERARCHIES, Chip
from agent.tpm.esys import RC_AUTH, RC_HANDLE_1, RC_NV_UNINITIALIZED, speaking
from agent.tpm.objects import Public, PublicKey, Transient, parse

HASHES = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}


class Tpm(Chip):
    """The keys and the NV of the chip.

    Every method raises TpmError (or a child of it); absence is None, never an error. Handles are
    TPM handles (0x81......), NV indices 0x01....... Not for several threads at once.
    """

    # --- objects ---

    def public(self, handle: int) -> Public | None:
        """What sits at a persistent handle, or None."""
        with speaking(f"read {handle:#x}"):
            try:
                found = self.esys.tr_from_tpmpublic(handle)
            except TSS2_Exception as e:
                if e.rc == RC_HANDLE_1:
                    return None
                raise
            area, _, _ = self.esys.read_public(found)
            self.esys.tr_close(found)
        return parse(area)

    @contextlib.contextmanager
    def ek(self, kind: str) -> Iterator[Transient]:
        """The EK of a kind ("EK-RSA2048", "EK-ECC256", "EK-HIGH-ECC384", ...), made anew from its
        template (TCG EK Credential Profile 2.5, B.3 and B.4), or from the template and nonce that
        the TPM's maker left in NV (2.2.1.4)."""
        with speaking(f"make the {kind}"):
            _, template = create_ek_template(kind, self._nv_or_raise)
            with self._primary("endorsement", template) as made:
                yield made

    @contextlib.contextmanager
    def srk(self, kind: templates.KeyType) -> Iterator[Transient]:
        """A storage root key of the owner hierarchy."""
        with speaking("make the SRK"), self._primary("owner", templates.storage(kind)) as made:
            yield made

    @contextlib.contextmanager
    def _primary(self, hierarchy: str, template: TPM2B_PUBLIC) -> Iterator[Transient]:
        made, area, *_ = self.esys.create_primary(
            TPM2B_SENSITIVE_CREATE(), template, primary_handle=HIERARCHIES[hierarchy]
        )
        with self._flushed(made):
            yield Transient(made, parse(area))

    def create_key(self, parent: int, kind: templates.KeyType) -> tuple[bytes, bytes]:
        """A signing key below the storage key at `parent`: its TPM2B_PUBLIC and TPM2B_PRIVATE.

        Nothing stays in the TPM; the private blob is wrapped by the parent and is no secret.
        """
        return self._create(parent, TPM2B_SENSITIVE_CREATE(), templates.signing(kind), "a key")

    def seal(self, parent: int, auth: bytes, data: bytes) -> tuple[bytes, bytes]:
        """`data` (at most 128 bytes) under the password `auth`: TPM2B_PUBLIC and TPM2B_PRIVATE."""
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth, data=data))
        return self._create(parent, secret, templates.sealed(), "sealed data")

    def _create(
        self, parent: int, secret: TPM2B_SENSITIVE_CREATE, template: TPM2B_PUBLIC, what: str
    ) -> tuple[bytes, bytes]:
        with (
            speaking(f"make {what} below {parent:#x}"),
            self._at(parent) as under,
            self._encrypted(under) as session,
        ):
            private, public, *_ = self.esys.create(under, secret, template, session1=session)
        return bytes(public.marshal()), bytes(private.marshal())

    @contextlib.contextmanager
    def load(self, parent: int, public: bytes, private: bytes) -> Iterator[Transient]:
        """The key of these two blobs, in a transient slot."""
        area, _ = TPM2B_PUBLIC.unmarshal(public)
        wrapped, _ = TPM2B_PRIVATE.unmarshal(private)
        with speaking(f"load a key below {parent:#x}"), self._at(parent) as under:
            loaded = self.esys.load(under, wrapped, area)
            with self._flushed(loaded):
                yield Transient(loaded, parse(area))

    def persist(self, thing: Transient, handle: int) -> None:
        """Keep a transient object at a persistent handle; raises HandleOccupied, never evicts."""
        if self.public(handle) is not None:
            raise HandleOccupied(
                f"cannot keep a key at {handle:#x}: another object is there", handle=hex(handle)
            )
        with speaking(f"keep a key at {handle:#x}"):
            self.esys.tr_close(self.esys.evict_control(ESYS_TR.OWNER, thing.handle, handle))

    def evict_ours(self, handle: int) -> None:
        """Give up a key that we made; raises HandleOccupied if it is anybody else's."""
        found = self.public(handle)
        if found is None or not found.ours:
            raise HandleOccupied(
                f"cannot give up the key at {handle:#x}: it is not ours", handle=hex(handle)
            )
        with speaking(f"give up the key at {handle:#x}"), self._at(handle) as key:
            self.esys.evict_control(ESYS_TR.OWNER, key, handle)

    def serialized(self, handle: int) -> bytes:
        """The ESYS_TR of a persistent object as Esys_TR_Serialize writes it."""
        with speaking(f"serialize {handle:#x}"), self._at(handle) as found:
            return bytes(self.esys.tr_serialize(found))

    @contextlib.contextmanager
    def _at(self, handle: int) -> Iterator[Any]:
        found = self.esys.tr_from_tpmpublic(handle)
        try:
            yield found
        finally:
            self.esys.tr_close(found)

    @contextlib.contextmanager
    def _flushed(self, transient: Any) -> Iterator[None]:
        try:
            yield
        finally:
            self.esys.flush_context(transient)

    @contextlib.contextmanager
    def _encrypted(self, salt: Any) -> Iterator[Any]:
        """An HMAC session salted to a key: parameters do not cross the bus in the clear."""
        session = self.esys.start_auth_session(
            tpm_key=salt,
            bind=ESYS_TR.NONE,
            session_type=TPM2_SE.HMAC,
            symmetric=TPMT_SYM_DEF.parse("aes128cfb"),
            auth_hash=TPM2_ALG.SHA256,
        )
        with self._flushed(session):
            self.esys.trsess_set_attributes(
                session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
            )
            yield session

    # --- signatures ---

    def sign(self, handle: int, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        """Sign a digest ("sha256", "sha384", "sha512") with the unrestricted key at `handle`.

        RSA: RSASSA (PKCS #1 v1.5), or RSAPSS with a salt as long as the digest; big-endian, of the
        modulus' size. ECC: ECDSA, DER (RFC 3279, 2.2.3). The password of the key is empty.
        """
        with speaking(f"sign with {handle:#x}"), self._at(handle) as key:
            area, _, _ = self.esys.read_public(key)
            ecc = area.publicArea.type == TPM2_ALG.ECC
            rsa = TPM2_ALG.RSAPSS if pss else TPM2_ALG.RSASSA
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA if ecc else rsa)
            scheme.details.any.hashAlg = HASHES[hash_name]
            return bytes(self.esys.sign(key, digest, scheme))

    @contextlib.contextmanager
    def private_key(self, handle: int) -> Iterator[CertificateIssuerPrivateKeyTypes]:
        """The key at `handle`, as `cryptography` wants one to sign a CSR."""
        with speaking(f"sign with {handle:#x}"), self._at(handle) as key:
            area, _, _ = self.esys.read_public(key)
            ecc = area.publicArea.type == TPM2_ALG.ECC
            yield (tpm_ecc_private_key if ecc else tpm_rsa_private_key)(self.esys, key)

    def signer(self, handle: int) -> "Signer":
        """The key at `handle` for TLS; valid while this Tpm is open."""
        public = self.public(handle)
        if public is None or public.key is None:
            raise HandleOccupied(f"no signing key at {handle:#x}", handle=hex(handle))
        return Signer(self, handle, public.key)

    # --- NV ---

    def nv_read(self, index: int) -> bytes | None:
        """The whole of an NV index (its size is fixed when it is defined), or None if it is not
        there or was never written."""
        with speaking(f"read NV {index:#x}"):
            try:
                nv = self.esys.tr_from_tpmpublic(index)
            except TSS2_Exception as e:
                if e.rc == RC_HANDLE_1:
                    return None
                raise
            try:
                return self._nv_read(nv)
            except TSS2_Exception as e:
                if e.rc == RC_NV_UNINITIALIZED:
                    return None
                raise
            finally:
                self.esys.tr_close(nv)

    def _nv_read(self, nv: Any) -> bytes:
        area, _ = self.esys.nv_read_public(nv)
        attributes, size = area.nvPublic.attributes, int(area.nvPublic.dataSize)
        auth = self._reader(nv, attributes)
        chunk = self._property(TPM2_PT_NV.BUFFER_MAX) or 512
        try:
            parts = [
                bytes(self.esys.nv_read(nv, min(chunk, size - at), at, auth_handle=auth))
                for at in range(0, size, chunk)
            ]
        except TSS2_Exception as e:
            if auth != ESYS_TR.PLATFORM or e.rc not in RC_AUTH:
                raise
            index = hex(area.nvPublic.nvIndex)
            why = "only the platform hierarchy may, and the firmware has locked that"
            raise NvLocked(f"cannot read NV {index}: {why} ({e.rc:#x})", index=index) from e
        return b"".join(parts)

    def _reader(self, nv: Any, attributes: Any) -> Any:
        """On whose authority an index is read: its own where that is free for all, and does not
        count as an attack if it is not; else the owner's, whose password not every reader has."""
        free = attributes & TPMA_NV.AUTHREAD and attributes & TPMA_NV.NO_DA
        if attributes & TPMA_NV.OWNERREAD and not (free and "owner" not in self._auths):
            return ESYS_TR.OWNER
        return nv if attributes & TPMA_NV.AUTHREAD else ESYS_TR.PLATFORM

    def _nv_or_raise(self, index: int) -> bytes:
        if (data := self.nv_read(index)) is None:
            raise NoSuchIndex(index)
        return data

    def nv_indices(self) -> list[int]:
        return self.handles(TPM2_HC.NV_INDEX_FIRST)


class Signer:
    """A key in the TPM as the TLS provider wants it: a public key, and one way to sign."""

    def __init__(self, tpm: Tpm, handle: int, key: PublicKey) -> None:
        self._tpm, self._handle, self.public_key = tpm, handle, key

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        """See Tpm.sign."""
        ecc = isinstance(self.public_key, EllipticCurvePublicKey)
        return self._tpm.sign(self._handle, digest, hash_name, pss=pss and not ecc)
