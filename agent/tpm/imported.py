"""Keys that a cloud service seals for this TPM alone: opened, wrapped by the SRK, used for HMAC.

What DPS calls `authenticationKey` is six TPM 2B structures in a row, big-endian: TPM2B_ID_OBJECT
and TPM2B_ENCRYPTED_SECRET (an AES key, a credential for the EK's owner and the SRK's name);
TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET and TPM2B_PUBLIC (an HMAC key, duplicated to the SRK, with
that AES key as its inner wrapper: TPM 2.0 Library, part 1, 23.3); and one of no use any more.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMT_SYM_DEF_OBJECT,
)

from agent.errors import (
    ChallengeInvalid,
    ChallengeOfAnother,
    CredentialRefused,
    HandleOccupied,
    HubKeyNotKept,
    KeyImportRefused,
    TpmError,
)
from agent.tpm.endorsement import PARAMETER, RC_FAILURE, RC_INTEGRITY_1
from agent.tpm.esys import speaking
from agent.tpm.inventory import Inventory
from agent.tpm.objects import Public, Transient

HUB_KEY = 0x81000100  # where clients of DPS keep it: the Azure IoT C SDK's, aziot-tpmd
SRK = 0x81000001  # TCG TPM v2.0 Provisioning Guidance, 7.8
WHOLE, TRAILER = 8192, 4096  # bytes that such a blob, and what nobody reads of it, may have
# TPM 2.0 Library, part 2, 10.4 and 11.4: the largest of each, as TPMs and tpm2-tss have them.
LARGEST = (132, 512, 1024, 512, 256)
KEYEDHASH_SHA256 = bytes.fromhex("0008000b")
HMAC_SHA256 = bytes.fromhex("0005000b")
DIGEST = 32
# Whoever duplicates it knows it, so it is in no TPM for ever; used by its (empty) password.
WANTED = int(TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH)
UNWANTED = int(
    TPMA_OBJECT.DECRYPT | TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
)
AES_KEYS = (16, 24, 32)  # bytes
BUFFER = 1024  # bytes a TPM takes at once (TCG PC Client Platform TPM Profile, MAX_DIGEST_BUFFER)
FORMATS_END = 0x1000  # above are the codes of tpm2-tss' layers


@dataclass(frozen=True)
class Challenge:
    """The five parts that count, each without its size; `public` is a TPMT_PUBLIC."""

    credential: bytes
    secret: bytes
    duplicate: bytes
    seed: bytes
    public: bytes

    @classmethod
    def parse(cls, blob: bytes) -> Self:
        """Raises ChallengeInvalid. The trailer is not looked at, but for its length; how many
        bytes the key has (16 to 64, for the hub), only the TPM sees."""
        if len(blob) > WHOLE:
            raise _invalid(f"it has {len(blob)} bytes")
        parts, rest = [], blob
        for name, largest in zip(cls.__match_args__, LARGEST, strict=True):
            part, rest = _sized(rest, name)
            if not 0 < len(part) <= largest:
                raise _invalid(f"its {name} has {len(part)} bytes")
            parts.append(part)
        if len(rest) > TRAILER:
            raise _invalid(f"{len(rest)} bytes are behind it")
        found = cls(*parts)
        if why := _misfit(found.public):
            raise _invalid(why)
        return found


def is_hub_key(public: Public) -> bool:
    """An HMAC key of the kind that DPS issues."""
    return _misfit(public.tpmt) is None


def _sized(data: bytes, name: str) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size or len(data) < 2:
        raise _invalid(f"it ends in its {name}")
    return data[2 : 2 + size], data[2 + size :]


def _misfit(tpmt: bytes) -> str | None:
    """Why a TPMT_PUBLIC is not that of an unrestricted HMAC key with SHA-256, or None."""
    if tpmt[:4] != KEYEDHASH_SHA256:
        return "its key is of another kind"
    attributes, size = int.from_bytes(tpmt[4:8], "big"), int.from_bytes(tpmt[8:10], "big")
    if attributes & WANTED != WANTED or attributes & UNWANTED:
        return f"its key is for something else (attributes {attributes:#010x})"
    scheme, unique = tpmt[10 + size : 14 + size], tpmt[14 + size :]
    if size not in (0, DIGEST) or scheme != HMAC_SHA256:
        return "its key is not for HMAC with SHA-256"
    if len(unique) != 2 + DIGEST or unique[:2] != DIGEST.to_bytes(2, "big"):
        return "its key is damaged"
    return None


def _invalid(why: str) -> ChallengeInvalid:
    return ChallengeInvalid(f"cannot use the key from DPS: {why}")


class Imported(Inventory):
    """Keys from outside; all of them are used by their empty password."""

    def imported(self, challenge: bytes, ek: int | Transient, srk: int) -> tuple[bytes, bytes]:
        """The key in `challenge`, wrapped by the storage key at `srk`: TPM2B_PUBLIC, TPM2B_PRIVATE
        (TPM2_ActivateCredential, TPM2_Import).

        Nothing stays in the TPM, and the private blob is no secret. No secret crosses the bus in
        the clear. Raises ChallengeInvalid; ChallengeOfAnother, if it was not sealed for this EK
        and this SRK; KeyImportRefused.
        """
        parts = Challenge.parse(challenge)
        inner = self._inner_key(parts, ek, srk)
        if len(inner) not in AES_KEYS:
            raise _invalid(f"what it is encrypted with has {len(inner)} bytes")
        with speaking(f"import a key below {srk:#x}"):
            public, _ = TPM2B_PUBLIC.unmarshal(_2b(parts.public))
            with (
                self._below(srk) as parent,
                self._encrypted(parent) as session,
                _import_words(),
            ):
                private = self.esys.import_(
                    parent,
                    inner,
                    public,
                    TPM2B_PRIVATE(parts.duplicate),
                    TPM2B_ENCRYPTED_SECRET(parts.seed),
                    TPMT_SYM_DEF_OBJECT.parse(f"aes{8 * len(inner)}cfb"),
                    session1=session,
                )
        return _2b(parts.public), bytes(private.marshal())

    def _inner_key(self, parts: Challenge, ek: int | Transient, srk: int) -> bytes:
        try:
            return self.activate(srk, ek, parts.credential, parts.secret, parent=True)
        except CredentialRefused as e:
            rc = e.__cause__.rc if isinstance(e.__cause__, TSS2_Exception) else 0
            if rc in (RC_INTEGRITY_1, RC_FAILURE):
                why = "it was sealed for another EK or SRK, or damaged"
                raise ChallengeOfAnother(f"cannot use the key from DPS: {why} ({rc:#x})") from e
            raise _invalid(f"it is damaged ({rc:#x})") from e

    def hmac(self, key: int | Transient, data: bytes, srk: int = SRK) -> bytes:
        """HMAC-SHA256 of `data`, of any length, with a key of the kind that DPS issues: 32 bytes.

        It does not cross the bus in the clear, if there is a storage key at `srk`. Raises
        HandleOccupied if the key is of another kind; TpmLockout instead of the last try before
        one, where a wrong password would count.
        """
        at = "" if isinstance(key, Transient) else hex(key)
        doing = f"sign with {at or 'a loaded key'}"
        with speaking(doing), self._known(key) as (handle, public):
            if not is_hub_key(public):
                raise HandleOccupied(f"cannot {doing}: it is no key for HMAC", handle=at)
            with self._hidden(srk) as session:
                return self._hmac(handle, data, session)

    def _hmac(self, key: Any, data: bytes, session: Any) -> bytes:
        if len(data) <= BUFFER:
            return bytes(self.esys.hmac(key, data, TPM2_ALG.NULL, session1=session))
        sequence = self.esys.hmac_start(key, b"", TPM2_ALG.NULL, session1=session)
        try:
            while len(data) > BUFFER:
                self.esys.sequence_update(sequence, data[:BUFFER], session1=session)
                data = data[BUFFER:]
            made, _ = self.esys.sequence_complete(sequence, data, session1=session)
        except BaseException:
            with self._flushed(sequence):
                raise
        return bytes(made)  # the TPM has thrown it out by itself

    @contextlib.contextmanager
    def _hidden(self, srk: int) -> Iterator[Any]:
        """A session for the empty password, and for answers that nobody on the bus reads."""
        found = self.public(srk)
        if found is None or not found.stores:
            yield ESYS_TR.PASSWORD
        else:
            with self._at(srk) as salt, self._encrypted(salt) as session:
                yield session

    def keep_instead(self, thing: Transient, handle: int) -> None:
        """Keep a key of the kind that DPS issues at a persistent handle, in place of an older one,
        which stays until this one has signed from where it is loaded.

        A power cut between the one and the other leaves nothing there: whoever has the blobs of the
        new one loads it, and calls again. Raises HandleOccupied, and evicts nothing, if anything
        else is there; HubKeyNotKept if the old one is gone, and the new one not kept.
        """
        there = self.public(handle)
        if there is not None and not is_hub_key(there):
            why = f"cannot keep the hub's key at {handle:#x}: another object is there"
            raise HandleOccupied(why, handle=hex(handle))
        self.hmac(thing, b"proof")
        if there == thing.public:  # `unique` is a digest of the key itself
            return
        if there is not None:
            with speaking(f"give up the key at {handle:#x}"), self._at(handle) as old:
                self.esys.evict_control(ESYS_TR.OWNER, old, handle)
        try:
            self.persist(thing, handle)
        except TpmError as e:
            if there is None:
                raise
            raise HubKeyNotKept(f"{e}; the old one is gone already", handle=hex(handle)) from e


def _2b(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


@contextlib.contextmanager
def _import_words() -> Iterator[None]:
    try:
        yield
    except TSS2_Exception as e:
        if e.rc == RC_FAILURE or (e.rc & PARAMETER == PARAMETER and e.rc < FORMATS_END):
            why = f"the TPM does not take it ({e.rc:#x})"
            raise KeyImportRefused(f"cannot use the key from DPS: {why}") from e
        raise
