"""The endorsement hierarchy: what the TPM's maker vouches for, and the identities made there."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_CC
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NAME,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
)
from tpm2_pytss.utils import NoSuchIndex, create_ek_template
from tpm2_pytss.utils import make_credential as sealed_for

from agent.errors import CredentialRefused, TpmShared
from agent.tpm import policies, templates
from agent.tpm.esys import speaking
from agent.tpm.keys import Keys
from agent.tpm.objects import Attestor, Public, Transient, parse

HIGH_RANGE = 0x01C00012  # TCG EK Credential Profile 2.5, 2.2.1.5: certificates at even indices
RC_INTEGRITY_1 = 0x1DF
RC_FAILURE = 0x101  # what libtpms answers to a damaged OAEP secret; it is well after that
# Their policies were satisfied just before: another program's session has taken the place of one.
POLICY_FAIL = (0x99D, 0xA9D)
PARAMETER = 0xC0  # TPM 2.0 Library, part 2, 6.6: format one, of a parameter


class Endorsement(Keys):
    """Keys of the endorsement hierarchy; its password is used where it has one."""

    @contextlib.contextmanager
    def ek(self, kind: str, *, azure: bool = False) -> Iterator[Transient]:
        """The EK of a kind ("EK-RSA2048", "EK-ECC256", "EK-HIGH-ECC384", ...), made anew from its
        template (TCG EK Credential Profile 2.5, B.3 and B.4), or from the template and nonce that
        the TPM's maker left in NV (2.2.1.4).

        `azure`: the RSA-2048 key that the Azure IoT C SDK makes and registers instead. Its
        template has an empty `unique`, so it is another key, and nobody has certified it.
        """
        with speaking(f"make the {kind}"):
            _, template = create_ek_template(kind, self._ek_nv)
            if azure:
                _, template = create_ek_template("EK-RSA2048", _nothing)
                template.publicArea.unique.rsa = b""
            with self._primary("endorsement", template) as made:
                yield made

    def _ek_nv(self, index: int) -> bytes:
        """The template of the high range needs no certificate, though tpm2_pytss asks for it."""
        if index >= HIGH_RANGE and index % 2 == 0:
            return b""
        return self._nv_or_raise(index)

    @contextlib.contextmanager
    def idevid(self, kind: templates.KeyType, policy: bytes | None = None) -> Iterator[Transient]:
        """TCG's IDevID: a primary key, so the same whenever it is made (until the endorsement seed
        changes, which only the platform can do). `policy`: instead of that of the TCG's template,
        for a key that works in approved boot states alone."""
        template = templates.idevid(kind, policy)
        with speaking("make the IDevID"), self._primary("endorsement", template) as made:
            yield made

    @contextlib.contextmanager
    def iak(self, kind: templates.KeyType) -> Iterator[Attestor]:
        """TCG's IAK, a primary key like the IDevID; ECDSA with SHA-256, or RSAPSS with SHA-256."""
        with speaking("make the IAK"), self._primary("endorsement", templates.iak(kind)) as made:
            yield made

    @contextlib.contextmanager
    def ek_child(self, ek: int, kind: templates.KeyType) -> Iterator[Transient]:
        """A new signing key below the EK at the handle `ek`: each call makes another."""
        with speaking(f"make a key below {ek:#x}"):
            loaded, public = self._ek_child(ek, kind)
            with self._flushed(loaded):
                yield Transient(loaded, public)

    def _ek_child(self, ek: int, kind: templates.KeyType) -> tuple[Any, Public]:
        template = templates.ek_child(kind)
        with self._using(ek) as (parent, what):
            with self._as_ek(parent, what) as session:
                private, area, *_ = self.esys.create(
                    parent, TPM2B_SENSITIVE_CREATE(), template, session1=session
                )
            with self._as_ek(parent, what) as session:
                return self.esys.load(parent, private, area, session1=session), parse(area)

    @contextlib.contextmanager
    def _as_ek(self, ek: Any, public: Public) -> Iterator[Any]:
        """A session that may use the EK for one command, and hides its parameters."""
        policy = policies.KNOWN.get(public.policy)
        if policy is None:  # made with a template of its own: by its password
            with self._encrypted(ek) as session:
                yield session
        else:
            with self._by_policy(policy, salt=ek) as session:
                yield session

    def activate(
        self,
        key: int | Transient,
        ek: int | Transient,
        credential: bytes,
        secret: bytes,
        *,
        parent: bool = False,
    ) -> bytes:
        """What was sealed for `key` in the TPM of `ek` (TPM2_ActivateCredential), at most 64 bytes.

        `credential`, `secret`: the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, without
        their sizes. `parent`: the key is one that we use as such, though others have made it.
        Raises CredentialRefused if they are for another key or TPM, or damaged.
        """
        with (
            speaking("activate a credential", dict.fromkeys(POLICY_FAIL, TpmShared)),
            self._known(key) if parent else self._using(key) as (activated, its),
            self._using(ek) as (by, public),
            self._as_admin(its, TPM2_CC.ActivateCredential) as admin,
            self._as_ek(by, public) as session,
            _credential_words(),
        ):
            opened = self.esys.activate_credential(
                activated,
                by,
                TPM2B_ID_OBJECT(credential),
                TPM2B_ENCRYPTED_SECRET(secret),
                session1=admin,
                session2=session,
            )
        return bytes(opened)


@contextlib.contextmanager
def _credential_words() -> Iterator[None]:
    try:
        yield
    except TSS2_Exception as e:
        if e.rc == RC_INTEGRITY_1:
            why = "it was sealed for another TPM or another key"
        elif e.rc == RC_FAILURE or (e.rc & PARAMETER == PARAMETER and e.rc < 0x1000):
            why = "it is damaged, or was sealed for another kind of EK"
        else:
            raise
        raise CredentialRefused(f"cannot activate a credential: {why} ({e.rc:#x})") from e


def _nothing(index: int) -> bytes:
    raise NoSuchIndex(index)


def make_credential(ek: Public, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Seal `secret` (at most as long as the digest of the EK's name) for the key of that `name` in
    the TPM of that EK: TPM2_MakeCredential in software (TPM 2.0 Library, part 1, 24).

    Returns the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, without their sizes, as
    Tpm.activate takes them.
    """
    area, _ = TPM2B_PUBLIC.unmarshal(ek.blob)
    credential, wrapped = sealed_for(area, secret, TPM2B_NAME(name))
    return bytes(credential), bytes(wrapped)
