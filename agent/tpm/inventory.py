"""What is left in the chip, and who may use it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_HC,
    TPM2_PT,
    TPM2_PT_HR,
    TPM2_PT_NV,
    TPM2_SE,
    TPMA_PERMANENT,
    TPMA_STARTUP,
)

from agent.tpm.attest import Attestation
from agent.tpm.chip import HIERARCHIES
from agent.tpm.esys import RC_AUTH, RC_PASSWORD, speaking

# TPMA_PERMANENT, TPMA_STARTUP_CLEAR (TPM 2.0 Library, part 2, 8.6 and 8.7)
PASSWORD_BITS = {
    "owner": TPMA_PERMANENT.OWNERAUTHSET,
    "endorsement": TPMA_PERMANENT.ENDORSEMENTAUTHSET,
    "lockout": TPMA_PERMANENT.LOCKOUTAUTHSET,
}
ENABLED_BITS = {
    "platform": TPMA_STARTUP.CLEAR_PHENABLE,
    "owner": TPMA_STARTUP.CLEAR_SHENABLE,
    "endorsement": TPMA_STARTUP.CLEAR_EHENABLE,
}


@dataclass(frozen=True)
class Budget:
    """Room in the TPM. What is available is the TPM's own estimate (TPM_PT_HR_..._AVAIL).

    `nv_bytes`: what the defined indices hold, `nv_index_max` the size of the largest that can be.
    `transient_available`, `sessions_available`: slots. `lockout_counter` wrong passwords of
    `lockout_max` that lead to `in_lockout`; one is forgiven every `lockout_interval` seconds.
    `passwords`: hierarchies that have one ("owner", "endorsement", "lockout"); "platform", too, if
    it has another than we were given. `disabled`: hierarchies that are switched off.
    """

    persistent_used: int
    persistent_available: int
    nv_indices: int
    nv_bytes: int
    nv_index_max: int
    transient_used: int
    transient_available: int
    sessions_used: int
    sessions_available: int
    lockout_counter: int
    lockout_max: int
    lockout_interval: int
    in_lockout: bool
    passwords: frozenset[str]
    disabled: frozenset[str]


class Inventory(Attestation):
    """The chip's own account of itself."""

    def budget(self) -> Budget:
        """Nothing is changed; a few dozen short commands."""
        permanent = self._property(TPM2_PT.PERMANENT)
        disabled = self._disabled()
        indices = [found for i in self.nv_indices() if (found := self.nv_public(i)) is not None]
        loaded = self.loaded()
        transients = {h for h in loaded if h >> 24 == int(TPM2_HC.TRANSIENT_FIRST) >> 24}
        return Budget(
            persistent_used=self._property(TPM2_PT_HR.PERSISTENT),
            persistent_available=self._property(TPM2_PT_HR.PERSISTENT_AVAIL),
            nv_indices=len(indices),
            nv_bytes=sum(index.size for index in indices),
            nv_index_max=self._property(TPM2_PT_NV.INDEX_MAX),
            transient_used=len(transients),
            transient_available=self._property(TPM2_PT_HR.TRANSIENT_AVAIL),
            sessions_used=len(loaded - transients),
            sessions_available=self._property(TPM2_PT_HR.LOADED_AVAIL),
            lockout_counter=self._property(TPM2_PT.LOCKOUT_COUNTER),
            lockout_max=self._property(TPM2_PT.MAX_AUTH_FAIL),
            lockout_interval=self._property(TPM2_PT.LOCKOUT_INTERVAL),
            in_lockout=bool(permanent & int(TPMA_PERMANENT.INLOCKOUT)),
            passwords=self._passwords(permanent, disabled),
            disabled=disabled,
        )

    def platform_open(self) -> bool:
        """May we use the platform hierarchy? Mostly the firmware gives it a random password at
        each boot."""
        with speaking("try the platform hierarchy"):
            return self._satisfied(ESYS_TR.PLATFORM, RC_AUTH)

    def opened_by(self, hierarchy: str, password: bytes) -> bool:
        """Is this the password of a hierarchy ("owner", "endorsement")? Zeros at its end do not
        count. Raises TpmDisabled for one that is switched off."""
        handle, usual = HIERARCHIES[hierarchy], self._auths.get(hierarchy, b"")
        with speaking(f"try the password of the {hierarchy} hierarchy"):
            self.esys.tr_set_auth(handle, password)
            try:
                return self._satisfied(handle, RC_PASSWORD)
            finally:
                self.esys.tr_set_auth(handle, usual)

    def _satisfied(self, hierarchy: int, refusals: Collection[int]) -> bool:
        """No property tells, so the password is tried where that does nothing else; for a hierarchy
        a wrong one is never counted (TPM 2.0 Library, part 1, 19.8.2)."""
        with self._session(TPM2_SE.POLICY, ESYS_TR.NONE, TPM2_ALG.SHA256) as session:
            try:
                self.esys.policy_secret(hierarchy, session)
            except TSS2_Exception as e:
                if e.rc in refusals:
                    return False
                raise
        return True

    def lacks(self, commands: Mapping[str, int]) -> list[str]:
        """Which of these commands, given with their codes (TPM2_CC), the chip does not have."""
        return [name for name, code in commands.items() if not self._implements(code)]

    def _implements(self, code: int) -> bool:
        """The list starts at the code, or at the next one there is; an attribute's index is it."""
        with speaking("list the TPM's commands"):
            _, data = self.esys.get_capability(TPM2_CAP.COMMANDS, code, 1)
        found = [int(each) & 0xFFFF for each in data.data.command.commandAttributes]
        return found[:1] == [code]

    def _disabled(self) -> frozenset[str]:
        enabled = self._property(TPM2_PT.STARTUP_CLEAR)
        return frozenset(name for name, bit in ENABLED_BITS.items() if not enabled & int(bit))

    def _passwords(self, permanent: int, disabled: frozenset[str]) -> frozenset[str]:
        found = {name for name, bit in PASSWORD_BITS.items() if permanent & int(bit)}
        if "platform" not in disabled and not self.platform_open():
            found.add("platform")
        return frozenset(found)
