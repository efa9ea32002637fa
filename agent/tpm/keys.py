"""Objects in the TPM: looked at, made, loaded, kept, given up; the sessions they are used in."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_PT, TPM2_SE, TPMA_SESSION
from tpm2_pytss.types import (
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_SENSITIVE_CREATE,
    TPMT_SYM_DEF,
)

from agent.errors import HandleOccupied, PcrMoved, TpmLockout
from agent.tpm import approved, approved_files, policies, templates
from agent.tpm.chip import HIERARCHIES
from agent.tpm.esys import RC_AUTH, RC_HANDLE_1, RC_HANDLE_P1, RC_VALUE_1, speaking
from agent.tpm.nv import Nv
from agent.tpm.objects import Attestor, Public, Transient, parse

log = logging.getLogger(__name__)


class Keys(Nv):
    """What is at a handle is a TPM handle (0x81......); what is in a slot, a Transient.

    `approvals`: the directory of what allows keys to be used that work in approved boot states
    alone (see approved_files).
    """

    approvals: Path | None = None

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
    def srk(self, kind: templates.KeyType) -> Iterator[Transient]:
        """A storage root key of the owner hierarchy."""
        with speaking("make the SRK"), self._primary("owner", templates.storage(kind)) as made:
            yield made

    @contextlib.contextmanager
    def _primary(self, hierarchy: str, template: TPM2B_PUBLIC) -> Iterator[Attestor]:
        made, area, _, digest, ticket = self.esys.create_primary(
            TPM2B_SENSITIVE_CREATE(), template, primary_handle=HIERARCHIES[hierarchy]
        )
        with self._flushed(made):
            yield Attestor(made, parse(area), bytes(digest), bytes(ticket.marshal()))

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
            self._below(parent) as under,
            self._encrypted(under) as session,
        ):
            private, public, *_ = self.esys.create(under, secret, template, session1=session)
        return bytes(public.marshal()), bytes(private.marshal())

    @contextlib.contextmanager
    def load(self, parent: int, public: bytes, private: bytes) -> Iterator[Transient]:
        """The key of these two blobs, in a transient slot."""
        with speaking(f"load a key below {parent:#x}"):
            area, _ = TPM2B_PUBLIC.unmarshal(public)
            wrapped, _ = TPM2B_PRIVATE.unmarshal(private)
            with self._below(parent) as under:  # not for longer: libtss2 has but one ESYS_TR of it
                loaded = self.esys.load(under, wrapped, area)
            with self._flushed(loaded):
                yield Transient(loaded, parse(area))

    def persist(self, thing: Transient, handle: int) -> None:
        """Keep a transient object at a persistent handle; raises HandleOccupied, never evicts, and
        TpmFull if no handle is free."""
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
        self.give_up(handle, found.name)

    def give_up(self, handle: int, name: bytes) -> None:
        """The object of this name goes from its persistent handle; raises HandleOccupied, and
        evicts nothing, if another one, or none, is there."""
        found = self.public(handle)
        if found is None or found.name != name:
            raise HandleOccupied(
                f"cannot give up the key at {handle:#x}: it is another one", handle=hex(handle)
            )
        with speaking(f"give up the key at {handle:#x}"), self._at(handle) as key:
            self.esys.evict_control(ESYS_TR.OWNER, key, handle)

    def serialized(self, handle: int) -> bytes:
        """The ESYS_TR of a persistent object as Esys_TR_Serialize writes it."""
        with speaking(f"serialize {handle:#x}"), self._at(handle) as found:
            return bytes(self.esys.tr_serialize(found))

    # --- handles and sessions ---

    @contextlib.contextmanager
    def _at(self, thing: int | Transient) -> Iterator[Any]:
        if isinstance(thing, Transient):
            yield thing.handle
            return
        found = self.esys.tr_from_tpmpublic(thing)
        try:
            yield found
        finally:
            self.esys.tr_close(found)

    @contextlib.contextmanager
    def _using(
        self, thing: int | Transient, *, known: bool = False
    ) -> Iterator[tuple[Any, Public]]:
        """The ESYS_TR of a key, and what it is. One that `locks` is not touched, unless it is
        `known` to have an empty password: each run would cost a try. Raises HandleOccupied."""
        with self._at(thing) as key:
            if isinstance(thing, Transient):  # made by us just now
                yield key, thing.public
                return
            public = parse(self.esys.read_public(key)[0])
            if public.locks and not known:
                raise HandleOccupied(
                    f"cannot use the key at {thing:#x}: only who knows its password may, and wrong "
                    "ones lock the TPM",
                    handle=hex(thing),
                )
            yield key, public

    @contextlib.contextmanager
    def _below(self, parent: int) -> Iterator[Any]:
        """The ESYS_TR of a storage key. Raises TpmLockout."""
        with self._known(parent) as (key, _):
            yield key

    @contextlib.contextmanager
    def _known(self, thing: int | Transient) -> Iterator[tuple[Any, Public]]:
        """A key, to be used with its empty password, and what it is. Others' may have another one,
        and nothing tells: so where an error counts as an attack, the last try before a lockout is
        never ours. Raises TpmLockout."""
        with self._using(thing, known=True) as (key, public):
            if public.locks and self._tries_left() == 1:
                which = "loaded key" if isinstance(thing, Transient) else f"key at {thing:#x}"
                why = "its password may be another than the empty one, and one more error locks it"
                raise TpmLockout(f"cannot use the TPM's {which}: {why}")
            yield key, public

    def _tries_left(self) -> int:
        """Wrong passwords until lockout."""
        return self._property(TPM2_PT.MAX_AUTH_FAIL) - self._property(TPM2_PT.LOCKOUT_COUNTER)

    @contextlib.contextmanager
    def _flushed(self, transient: Any) -> Iterator[None]:
        """Out of the TPM afterwards. Without a resource manager another user of it may have thrown
        it out before us, who had the same slot once: gone is gone."""
        try:
            yield
        finally:
            try:
                self.esys.flush_context(transient)
            except TSS2_Exception as e:
                if e.rc != RC_HANDLE_P1:
                    raise
                log.debug("flushed by somebody else: %s", e)

    @contextlib.contextmanager
    def _session(self, kind: int, salt: Any, hash_alg: int) -> Iterator[Any]:
        """Salted to a key, parameters do not cross the bus in the clear; not so without salt."""
        session = self.esys.start_auth_session(
            tpm_key=salt,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=None if salt == ESYS_TR.NONE else TPMT_SYM_DEF.parse("aes128cfb"),
            auth_hash=hash_alg,
        )
        with self._flushed(session):
            crypt = TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
            self.esys.trsess_set_attributes(
                session, TPMA_SESSION.CONTINUESESSION | (0 if salt == ESYS_TR.NONE else crypt)
            )
            yield session

    def _encrypted(self, salt: Any) -> contextlib.AbstractContextManager[Any]:
        return self._session(TPM2_SE.HMAC, salt, TPM2_ALG.SHA256)

    @contextlib.contextmanager
    def _as_user(self, public: Public) -> Iterator[Any]:
        """What the USER role of a key asks for, once: its empty password; for one of TCG's that is
        protected against dictionary attacks, its policy, which is never counted as one. That asks
        for the password of the endorsement hierarchy; without it, the key's own must do. One that
        has no password asks for an approval of this boot state."""
        session = ESYS_TR.PASSWORD
        with contextlib.ExitStack() as stack:
            if public.needs_approval:
                session = stack.enter_context(self._by_approval(public.policy))
            elif public.counts_attacks and (policy := policies.KNOWN.get(public.policy)):
                try:
                    session = stack.enter_context(self._by_policy(policy))
                except TSS2_Exception as e:
                    if e.rc not in RC_AUTH:
                        raise
                    log.debug("no endorsement password (%#x): the key's own", e.rc)
            yield session

    def approval(self, public: Public) -> approved.Approval:
        """What allows the use of a key that `needs_approval`, now; nothing is used. Raises what
        approved_files.approval does."""
        return self._approval(public.policy)

    def _approval(self, policy: bytes) -> approved.Approval:
        if self.approvals is None:
            raise RuntimeError("whoever opens the TPM for such a key says where its approvals are")
        return approved_files.approval(self, policy, self.approvals)

    def approved(self, policy: bytes) -> str:
        """Whether keys with this authPolicy work now, by the TPM's own judgement; which approval
        lets them. Raises what `approval` does, and TpmError."""
        with speaking("satisfy the policy of approved boot states"), self._by_approval(policy):
            return f"approved, '{self._approval(policy).name}'"

    @contextlib.contextmanager
    def _by_approval(self, policy: bytes) -> Iterator[Any]:
        """A session in which a key with this authPolicy may be used, for one command."""
        approval = self._approval(policy)
        loaded = approved.load(self.esys, approval.maker)
        with self._flushed(loaded):
            _, name, _ = self.esys.read_public(loaded)
            ticket = approval.checked(self.esys, loaded)
        with self._session(TPM2_SE.POLICY, ESYS_TR.NONE, TPM2_ALG.SHA256) as session:
            with speaking("ask for an approved boot state", {RC_VALUE_1: PcrMoved}):
                approval.satisfy(self.esys, session, name, ticket)
            yield session

    @contextlib.contextmanager
    def _as_admin(self, public: Public, code: int) -> Iterator[Any]:
        """What the ADMIN role of a key asks for, for one command."""
        policy = policies.KNOWN.get(public.policy)
        if policy is None or not public.admin_by_policy:
            yield ESYS_TR.PASSWORD
        else:
            with self._by_policy(policy, code) as session:
                yield session

    @contextlib.contextmanager
    def _by_policy(
        self, policy: policies.Policy, code: int | None = None, salt: Any = ESYS_TR.NONE
    ) -> Iterator[Any]:
        with self._session(TPM2_SE.POLICY, salt, policy.hash_alg) as session:
            policy.satisfy(self.esys, session, code)
            yield session
