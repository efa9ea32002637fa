"""The passwords of the hierarchies: which are set, and setting them; what is kept by sealing it.

The command that sets one carries it in a session salted to the SRK, so it does not cross the bus in
the clear; nor does what is unsealed. What is sealed is for this TPM alone, and while the registers
that were chosen are as they were then.
"""

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPM2_PT, TPM2_SE
from tpm2_pytss.types import TPM2B_SENSITIVE_CREATE, TPMS_SENSITIVE_CREATE

from agent.errors import SealedToAnotherState, SealedToAnotherTpm, TpmError
from agent.tpm import pcr, templates
from agent.tpm.chip import HIERARCHIES
from agent.tpm.esys import speaking, steady
from agent.tpm.inventory import PASSWORD_BITS, Inventory
from agent.tpm.objects import Transient

# TPM 2.0 Library, part 2, 6.6.3: what PolicyPCR and Unseal say when a register is another, and Load
# when the private part was wrapped by another key, or damaged
RC_VALUE_1, RC_POLICY_FAIL = 0x1C4, 0x99D
ANOTHER_STATE = dict.fromkeys((RC_VALUE_1, RC_POLICY_FAIL), SealedToAnotherState)
LAYERS, READER = 0xFFFF0000, 0x090000  # TSS 2.0 Overview, 3.6: all but the TPM; marshaling
PARAMETER = 0x0C0  # one is not as it should be


class Hierarchy(Inventory):
    """Owner, endorsement and lockout."""

    def passwords_set(self) -> frozenset[str]:
        """Which of "owner", "endorsement", "lockout" have a password; that is told to everybody."""
        permanent = self._property(TPM2_PT.PERMANENT)
        return frozenset(name for name, bit in PASSWORD_BITS.items() if permanent & int(bit))

    def change_password(self, hierarchy: str, old: bytes, new: bytes, srk: int) -> None:
        """Set the password of a hierarchy; it is used from now on.

        `old`: the one it has. One wrong password of "lockout" is one too many: the TPM takes none
        then for a long time. `new`: at most as long as the digest that saved contexts are protected
        by; 32 bytes every TPM takes.
        """
        handle = HIERARCHIES[hierarchy]
        with speaking(f"set the password of the {hierarchy} hierarchy"), self._below(srk) as salt:
            try:
                self.esys.tr_set_auth(handle, old)
                with self._encrypted(salt) as session:
                    self.esys.hierarchy_change_auth(handle, new, session1=session)
                self._auths[hierarchy] = new
            finally:
                self.esys.tr_set_auth(handle, self._auths.get(hierarchy, b""))

    def seal_to(
        self, parent: int, data: bytes, selection: pcr.Selection, values: pcr.Values
    ) -> tuple[bytes, bytes]:
        """`data` (at most 128 bytes), which this TPM tells while these registers have these values:
        TPM2B_PUBLIC and TPM2B_PRIVATE, wrapped by the parent and no secret."""
        template = templates.sealed_to(pcr.policy_digest(selection, values))
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=data))
        return self._create(parent, secret, template, "sealed data")

    @steady
    def unseal(
        self,
        parent: int,
        blobs: tuple[bytes, bytes],
        selection: pcr.Selection,
        values: pcr.Values,
    ) -> bytes:
        """What `seal_to` has sealed. Raises SealedToAnotherState if a register has another value
        now, SealedToAnotherTpm if the parent is another key, or none."""
        if self.public(parent) is None:
            raise SealedToAnotherTpm(f"cannot unseal: there is no key at {parent:#x}")
        try:
            with self.load(parent, *blobs) as loaded:
                return self._unsealed(parent, loaded, selection, values)
        except SealedToAnotherState:
            raise
        except TpmError as e:
            cause = e.__cause__
            if isinstance(cause, TSS2_Exception) and _damaged(cause.rc):
                why = f"wrapped by another key than that at {parent:#x}, or damaged ({cause.rc:#x})"
                raise SealedToAnotherTpm(f"cannot unseal: it is {why}") from e
            raise

    def _unsealed(
        self, parent: int, loaded: Transient, selection: pcr.Selection, values: pcr.Values
    ) -> bytes:
        with (
            speaking(f"unseal what is bound to {selection}", ANOTHER_STATE),
            self._at(parent) as salt,
            self._session(TPM2_SE.POLICY, salt, TPM2_ALG.SHA256) as session,
        ):
            pcr.satisfy(self.esys, session, selection, values)
            return bytes(self.esys.unseal(loaded.handle, session1=session))


def _damaged(rc: int) -> bool:
    """What was loaded is not what this parent once wrapped: tpm2-tss cannot read it, or the TPM
    does not take it."""
    return rc & LAYERS == READER or (not rc & LAYERS and rc & PARAMETER == PARAMETER)
