"""Status 69: no TPM that can be used, or not for this."""

import os

from agent.errors.base import TpmError


class TpmUnavailable(TpmError):
    """No TPM answers where tpm.tcti says that there is one."""

    code = "tpm-unavailable"
    remedy = (
        "Check that the TPM is enabled (firmware, device tree), tpm.tcti, and: ls -l /dev/tpm*. "
        "The service sees /dev/tpmrm0 only: for another, BindPaths= and DeviceAllow= in a drop-in"
    )


class ResetNeedsTpm(TpmUnavailable):
    """The TPM of a device that is to be reset does not answer, so its keys cannot be removed."""

    code = "reset-needs-tpm"
    remedy = (
        "Check that the TPM is enabled, and tpm.tcti. If it is gone for good: tpm2cloud reset "
        "--without-tpm removes what is on the disk, and says what stays"
    )


class TpmLockout(TpmError):
    """The TPM is in dictionary-attack lockout after wrong passwords, or one short of it."""

    code, status = "tpm-lockout", os.EX_TEMPFAIL  # it expires by itself
    remedy = "Let it expire (it is tried again), or: tpm2_dictionarylockout --clear-lockout"


class TpmShared(TpmError):
    """Another program has thrown out of the TPM what this one had loaded into it."""

    code, status = "tpm-shared", os.EX_TEMPFAIL
    remedy = (
        "It is tried again. If it comes back: all programs must use the TPM by a resource manager, "
        "that is /dev/tpmrm0 (tpm.tcti) or tpm2-abrmd"
    )


class TpmAuth(TpmError):
    """A hierarchy of the TPM has a password, and it is missing or wrong."""

    code = "tpm-auth"
    remedy = (
        "The owner or endorsement hierarchy has a password: provide it, the right one, as the "
        "credential 'tpm-owner-auth' or 'tpm-endorsement-auth'"
    )


class PcrMoved(TpmError):
    """A register (PCR) of the TPM was extended while a key that is bound to some was used."""

    code, status = "pcr-moved", os.EX_TEMPFAIL
    remedy = (
        "It is tried again. If it comes back: something, such as IMA of the kernel (ima_policy=), "
        "extends registers without end"
    )


class PcrBankAbsent(TpmError):
    """The TPM has no registers (PCRs) of the bank that a boot state is told by, or not these."""

    code = "pcr-bank-absent"
    remedy = (
        "See which banks there are (tpm2_getcap pcrs); the firmware's set-up may switch on "
        "{bank}, or name others: tpm2cloud boot-state --pcrs"
    )


class SealedToAnotherState(TpmError):
    """The TPM's passwords are sealed to a state of this device that it is not in."""

    code = "sealed-to-another-state"
    remedy = (
        "If the new state (firmware, boot settings) is meant: open the escrow with the owner's "
        "key, put each password into /etc/credstore/ under its name there (chmod 0600), and: "
        "systemctl restart tpm2cloud-firstboot seals them anew. If it is not meant: do not trust "
        "this device"
    )


class SealedToAnotherTpm(TpmError):
    """The TPM's passwords are kept, but cannot be opened: another SRK, another host key, damage."""

    code = "passwords-lost"
    remedy = (
        "Open the escrow with the owner's key (where this disk is from another device: that of the "
        "device it is in now), put each password into /etc/credstore/ under its name there (chmod "
        "0600), and: systemctl restart tpm2cloud-firstboot keeps them anew"
    )


class PasswordChanged(TpmError):
    """A password of the TPM that this device had set and kept was changed by somebody else."""

    code = "password-changed"
    remedy = (
        "Find out who did it. Then put the right one into /etc/credstore/tpm-{name}-auth (chmod "
        "0600), and: systemctl restart tpm2cloud-firstboot keeps that one. Of lockout none is "
        "tried: remove lockout.sealed or tpm-lockout-auth from /var/lib/tpm2cloud/authorization, "
        "and it is left alone"
    )


class PasswordNotNeeded(TpmError):
    """A credential has a password for a hierarchy of the TPM that has none and is to get one."""

    code = "password-not-needed"
    remedy = (
        "The TPM was cleared, or the credential 'tpm-{name}-auth' is from another device: remove "
        "it, and a random password is set; or set tpm.authorization.{name} = 'leave'"
    )


class NvLocked(TpmError):
    """An NV index of the TPM may be read only with its password, or by the platform."""

    code = "nv-locked"
    remedy = (
        "Find out whose it is: tpm2_nvreadpublic {index}. If the factory's, it must be readable by "
        "others too: ownerread|authread|no_da; until then, let the firmware leave the platform "
        "hierarchy without a password. If nobody needs it: tpm2_nvundefine -C o {index} (-C p, if "
        "platformcreate is among its attributes)"
    )


class PlatformLocked(TpmError):
    """The platform hierarchy of the TPM has a password, or is switched off."""

    code = "tpm-platform-locked"
    remedy = (
        "Provide the platform's password as the credential 'tpm-platform-auth', or run this before "
        "the firmware locks the platform"
    )


class TpmDisabled(TpmError):
    """A hierarchy of the TPM is switched off."""

    code = "tpm-hierarchy-disabled"
    remedy = "Enable the storage and endorsement hierarchies in the firmware set-up"


class TpmPssSalt(TpmError):
    """The TPM signs RSA-PSS with a salt of a length that TLS does not allow."""

    code = "tpm-pss-salt"
    remedy = (
        "Use ECC keys with this TPM, or update its firmware: its RSA signatures do not suit TLS"
    )


class TpmFull(TpmError):
    """The TPM has no room left for another key or object."""

    code = "tpm-full"
    remedy = "See what fills it: tpm2_getcap handles-persistent handles-transient handles-nv-index"


class NvFull(TpmFull):
    """The TPM has no room left for another NV index, or none as large as is needed."""

    code = "nv-full"
    remedy = (
        "See what fills it: tpm2_getcap handles-nv-index; tpm2_nvreadpublic. Or, for a disk that "
        "stays with the board, keep the certificate in a file: idevid.certificate"
    )


class NvOccupied(TpmError):
    """The TPM holds something else at an NV index that this device needs."""

    code = "nv-occupied"
    remedy = (
        "Find out whose it is: tpm2_nvreadpublic {index}. If nobody needs it: tpm2_nvundefine -C o "
        "{index} (-C p, if platformcreate is among its attributes)"
    )


class CredentialRefused(TpmError):
    """The TPM does not open a secret that was sealed for one of its keys."""

    code = "credential-refused"
    remedy = (
        "Who sealed it was told of another TPM or another key, or it was damaged on the way: "
        "enrol again; if it stays, compare the EK that the CA knows with: tpm2cloud identity"
    )


class HandleOccupied(TpmError):
    """The TPM holds a foreign object at a handle that this device needs."""

    code = "handle-occupied"
    remedy = (
        "Find out whose it is: tpm2_readpublic -c {handle}. If nobody needs it: "
        "tpm2_evictcontrol -C o -c {handle}"
    )


class SrkNotRsa(HandleOccupied):
    """The TPM's SRK is no RSA key, and attestation by TPM takes no other."""

    code = "srk-not-rsa"
    remedy = (
        "If no key or disk depends on the SRK at {handle} (systemd-cryptenroll, PKCS#11 tokens): "
        "tpm2_evictcontrol -C o -c {handle}, and an RSA one is made. Or dps.attestation = 'x509'"
    )


class SrkPassword(HandleOccupied):
    """The TPM's SRK has a password, and all that is made below it is made without one."""

    code = "srk-password"
    remedy = (
        "Find out who made the SRK at {handle}. If nobody needs it: tpm2_evictcontrol -C o -c "
        "{handle}, and one without a password is made"
    )


class HubKeyOccupied(HandleOccupied):
    """The TPM holds something else where the key from Azure is to be kept, which takes its place.

    IoT Edge's TPM service evicts what it finds there, whatever it is.
    """

    code = "hub-key-occupied"
    remedy = (
        "Find out whose it is: tpm2_readpublic -c {handle}. If nobody needs it: tpm2_evictcontrol "
        "-C o -c {handle}. If somebody does: auth_key_index, below [tpm] of {path}"
    )


class EkUnfit(HandleOccupied):
    """The key where IoT Edge's TPM service looks for the EK is none that it can use."""

    code = "ek-unfit"
    remedy = (
        "It takes an RSA-2048 EK of TCG's template L-1. If nobody needs what is at {handle}: "
        "tpm2_evictcontrol -C o -c {handle}, and that one is made. Or dps.attestation = 'x509'"
    )


class TpmCommandMissing(TpmError):
    """The TPM does not have a command that attestation by TPM needs."""

    code = "tpm-command-missing"
    remedy = "Is there newer firmware for this TPM? If not: dps.attestation = 'x509'"


class HubKeyNotKept(TpmError):
    """The TPM has given up the older key for the IoT hub, but does not keep the new one."""

    code, status = "hub-key-not-kept", os.EX_TEMPFAIL
    remedy = (
        "It is tried again, with the key on the disk. If it comes back, see what fills the TPM: "
        "tpm2_getcap handles-persistent"
    )


class LdevidKeyLost(TpmError):
    """The TPM holds a key at the LDevID's handle that is not known on this disk."""

    code = "ldevid-key-lost"
    remedy = (
        "If the key at {handle} was this device's LDevID in an earlier life: "
        "tpm2_evictcontrol -C o -c {handle}, and a new one is made"
    )


class TpmChanged(TpmError):
    """What is on this disk was made with another TPM, or with this one before it was cleared."""

    code = "tpm-changed"
    remedy = (
        "Put this disk back into its own device. Or let it become the device that it is in now: "
        "set device.moved = 'start-over', then: systemctl restart tpm2cloud-firstboot"
    )


class TpmOfAnotherTcti(TpmChanged):
    """The TPM is another one than that of the last run, because tpm.tcti names another one."""

    code = "tpm-of-another-tcti"
    remedy = (
        "If it is not meant, set tpm.tcti back to '{was}'. If it is: take the line \"tcti\" out of "
        "{path}, and device.moved decides"
    )


class KeyOfAnotherTpm(TpmError):
    """The LDevID key on this disk belongs to another TPM, or to this one before a clear."""

    code = "key-of-another-tpm"
    remedy = (
        "The TPM was cleared, or this disk comes from another device: to begin anew, move "
        "/var/lib/tpm2cloud away"
    )


class TokenPinsLost(TpmError):
    """The PKCS#11 token is there, but its PINs are not known on this disk."""

    code = "token-pins-lost"
    remedy = (
        "If nothing else uses the token, move '{path}' away, and a new one is made; the keys in it "
        "are lost"
    )
