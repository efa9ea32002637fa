"""Every failure a person can meet, each with a stable code, an exit status and a remedy.

AgentError          70  a bug of ours; anything else below is the world's
├── ConfigError     78  the configuration or the image must be changed; retrying is pointless
├── TpmError        69  no TPM, or not one that can be used; needs a person
├── NoPermission    77  this user may not
├── Later           75  nobody answered, or "come back later"; systemd retries
└── Refused         76  a server answered, and the answer was no or made no sense

A class is one code. The first line of its docstring is what the code means; it and the remedy are
written here, once: the manual and the journal's catalog are made from them. `{fields}` of a remedy
are filled in by keyword: `raise HandleOccupied("cannot ...", handle="0x81000001")`. Each field goes
into the journal, too, as TPM2CLOUD_HANDLE=: never a secret.
"""

import os
from collections.abc import Iterator


class AgentError(Exception):
    """This program itself is wrong; the message says what it did not expect."""

    code = "internal"
    status = os.EX_SOFTWARE
    remedy = "This is a bug of tpm2cloud: please report it, with: journalctl -t tpm2cloud"
    step: str | None = None  # where in the plan it happened
    seconds: int | None = None  # before that it is of no use to try again, if that is known

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.remedy = type(self).remedy.format(**fields)
        self.fields = {name: str(value) for name, value in fields.items()}


class CsrInvalid(AgentError):
    """The certificate request that the TPM's key signed does not verify."""

    code = "csr-invalid"
    remedy = "The key signed wrongly: report it, with: tpm2_getcap properties-fixed"


# --- 78: somebody must edit something ------------------------------------------------------------


class ConfigError(AgentError):
    """The configuration cannot be used; the message lists every problem found in it."""

    code, status = "config-invalid", os.EX_CONFIG
    remedy = "Edit the file (man tpm2cloud.toml says how), then: tpm2cloud config"


class FactoryConfigError(ConfigError):
    """The factory's configuration cannot be used; the message lists every problem found in it."""

    code = "factory-config-invalid"
    remedy = (
        "Edit the file (man tpm2cloud-manufacture.toml says how), then: tpm2cloud config --factory"
    )


class SecretUnreadable(ConfigError):
    """A password or secret that the configuration asks for cannot be read."""

    code = "secret-unreadable"
    remedy = (
        "Put it into /etc/credstore/{name} (chmod 0600), where the service takes it from, or name "
        "another file that only its owner can read in '{setting}'"
    )


class EscrowUnusable(ConfigError):
    """The file that tpm.authorization.escrow names is no public key that can be encrypted to."""

    code = "escrow-unusable"
    remedy = (
        "Put the owner's public key, or a certificate for it, PEM, into {path}: RSA of 2048 bits "
        "or more, or EC on P-256, P-384 or P-521; and no private key"
    )


class HostKeyMissing(ConfigError):
    """Encrypting by systemd-creds fails on this device: it is not there, or has no host key."""

    code = "host-key-missing"
    remedy = (
        "Once on each device, not in the image: systemd-creds setup (the manual has a drop-in that "
        "does it by itself); or tpm.authorization.keep = 'sealed'"
    )


class OwnerHierarchyNeeded(ConfigError):
    """The owner hierarchy is to get a password, and a disk of this device is opened without it."""

    code = "owner-hierarchy-needed"
    remedy = (
        "systemd 252 makes the key for the disk in {path} (tpm2-device=) in the owner hierarchy, "
        "and cannot be told a password: set tpm.authorization.owner = 'leave'. The two others may "
        "stay 'random'"
    )


class TrustUnreadable(ConfigError):
    """A file or directory of CA certificates cannot be read, or holds none."""

    code = "trust-unreadable"
    remedy = "Put the CA certificates, PEM, one or several, into {path}"


class CaRefused(ConfigError):
    """A certificate that is to vouch for TPMs is no CA's, out of date, or too weak."""

    code = "ca-refused"
    remedy = "Ask the TPM's maker for the right certificate; nothing of {path} was installed"


class CaUnrooted(ConfigError):
    """A CA certificate leads to none of the TPM makers' roots that are trusted here."""

    code = "ca-unrooted"
    remedy = "Import the maker's root first: tpm2cloud import-root FILE --sha256 FINGERPRINT"


class RootUnconfirmed(ConfigError):
    """Nobody has said that this root of a TPM maker is the right one."""

    code = "root-unconfirmed"
    remedy = (
        "Take the fingerprint from where the maker publishes it, not from the file itself: "
        "tpm2cloud import-root {path} --sha256 FINGERPRINT"
    )


class ProxyUnusable(ConfigError):
    """The proxy named in the environment (HTTPS_PROXY) is not the URL of an HTTP proxy."""

    code = "proxy-unusable"
    remedy = (
        "Set HTTPS_PROXY to http://HOST:PORT, in a drop-in for all services: "
        "/etc/systemd/system/tpm2cloud-.service.d/proxy.conf"
    )


class DeviceIdInvalid(ConfigError):
    """No legal registration id can be made from device.id on this device."""

    code = "device-id-invalid"
    remedy = "Set device.id in the configuration to a text that gives 1 to 64 of [A-Za-z0-9._:-]"


class TelemetryElsewhere(ConfigError):
    """This device has IoT Edge on board, which alone talks to the IoT hub."""

    code = "telemetry-elsewhere"
    remedy = (
        "A module of IoT Edge sends messages here; without IoT Edge on board, set device.target = "
        "'device'"
    )


class PayloadUnusable(ConfigError):
    """The file that dps.payload names cannot be read, is too large, or is no JSON."""

    code = "payload-unusable"
    remedy = "Put the JSON that the custom allocation of DPS wants into {path}"


class EdgeConfigured(ConfigError):
    """IoT Edge is configured here, and device.target is "device": two would be the same device."""

    code = "edge-configured"
    remedy = (
        "If IoT Edge is to stay: device.target = 'edge'. If not: iotedge system stop; rm {paths}"
    )


class ReregistersItself(ConfigError):
    """Of a device with IoT Edge, tpm2cloud does not register it anew: IoT Edge does that itself."""

    code = "reregisters-itself"
    remedy = "Have IoT Edge ask DPS once more: iotedge system reprovision"


class ResetUnconfirmed(ConfigError):
    """Nobody has confirmed that this device is to be reset."""

    code = "reset-unconfirmed"
    remedy = "See what it would do: tpm2cloud reset --dry-run; then, without being asked: -y"


class ResetUnderWay(ConfigError):
    """A reset of this device was begun and did not come to its end."""

    code = "reset-under-way"
    remedy = "Finish it: tpm2cloud reset"


class ResetWaits(ConfigError):
    """This device was reset, and is not to be provisioned by itself for the owner it had."""

    code = "reset-waits"
    remedy = (
        "Give it the configuration of its new owner (id scope or servers), then: systemctl restart "
        "tpm2cloud-firstboot. If it is to be the same owner's again: tpm2cloud provision --again"
    )


class SubjectInvalid(ConfigError):
    """The subject of the IDevID certificate has a part that a certificate cannot hold."""

    code = "subject-invalid"
    remedy = "Change [idevid.subject] in the factory's configuration"


class BootStateInvalid(ConfigError):
    """What should be told as a boot state is none: a file, or the registers that are asked for."""

    code = "boot-state-invalid"
    remedy = (
        "Registers are named like --pcrs sha256:0,2,7; a file as 'tpm2cloud boot-state' writes it"
    )


class ApprovalUnreadable(ConfigError):
    """A file of the approvals of boot states cannot be read, or is not what its name says."""

    code = "approval-unreadable"
    remedy = (
        "Put the file as the maker has released it into its place: {path} (*.json: what tpm2cloud "
        "boot-state writes; *.sig: its signature; *.pem: the maker's public key)"
    )


class ApprovalsAbsent(ConfigError):
    """The IDevID works in approved boot states alone, and there are no approvals on this device."""

    code = "approvals-absent"
    remedy = (
        "Put the maker's public key (*.pem) and approvals (*.json, *.sig) into {path}, or name "
        "another directory in idevid.approvals"
    )


class IssuerMissing(ConfigError):
    """The factory's configuration names nobody who issues IDevID certificates."""

    code = "issuer-missing"
    remedy = (
        "Set [idevid.est] or [idevid.ca]; or carry the request to a CA by hand: --csr-out FILE, "
        "and then --cert-in FILE"
    )


class CertificateFileUnusable(ConfigError):
    """A file that should hold the certificate or the challenge from a CA does not."""

    code = "certificate-file-unusable"
    remedy = "See what is in {path}: it must be what the CA answered, unchanged"


class LdevidExpired(ConfigError):
    """The LDevID does not work any more, and ldevid.recover names no way to get it back."""

    code = "ldevid-expired"
    remedy = (
        "Set ldevid.recover to ['login'] (as at the first boot) or ['ek'], or have a certificate "
        "issued for the key in '{key}', and put it into '{path}'"
    )


class LdevidNotRenewed(ConfigError):
    """The LDevID does not work any more, and is not renewed: DPS knows this certificate alone."""

    code = "ldevid-not-renewed"
    remedy = (
        "A new certificate needs the enrolment to be changed: rm {path}, then systemctl restart "
        "tpm2cloud-firstboot gets one, to be enrolled in its place. Or enrol a group, and set "
        "ldevid.renew_at"
    )


class CertificateOfNobody(ConfigError):
    """A certificate that nobody renews (an IDevID, a CA's in a file) is not as it should be."""

    code = "certificate-of-nobody"
    remedy = "See which, and why: tpm2cloud health --dry-run. Have {name} replaced, or put right"


class AziotConfigInvalid(ConfigError):
    """IoT Edge's own config.toml is there, but it is no TOML."""

    code = "aziot-config-invalid"
    remedy = "Repair {path}, or move it away: a whole one is then written"


class IotedgeMissing(ConfigError):
    """IoT Edge is not installed: its command or its directory is missing."""

    code = "iotedge-missing"
    remedy = (
        "Install IoT Edge (apt install aziot-edge), then: systemctl restart tpm2cloud-firstboot"
    )


class HostnameUnfit(ConfigError):
    """IoT Edge keeps the host name it is first configured with, and this one is of no use."""

    code = "hostname-unfit"
    remedy = (
        "Name this device before IoT Edge is configured, with letters, digits, - and . (63 at "
        "most): hostnamectl set-hostname NAME, then: systemctl restart tpm2cloud-firstboot"
    )


class UnitOff(ConfigError):
    """A unit of tpm2cloud's is not enabled, is masked or not installed: no boot starts it."""

    code = "unit-off"
    remedy = "systemctl unmask {unit}; systemctl enable --now {unit}"


class ModuleMissing(ConfigError):
    """The PKCS#11 module that IoT Edge's key service loads is not installed."""

    code = "pkcs11-module-missing"
    remedy = "Install it (apt install libtpm2-pkcs11-1), or name it in pkcs11.library"


class PathUnusable(ConfigError):
    """A file or directory cannot be used: what is there is not what must be there."""

    code = "path-unusable"
    remedy = "See what is there (ls -ld {path}); if nobody needs it, move it away"


class UserMissing(ConfigError):
    """The user that owns the PKCS#11 store does not exist."""

    code = "user-missing"
    remedy = "Install IoT Edge (apt install aziot-edge), or set {setting} to an existing user"


class TpmdUserMissing(UserMissing):
    """The user that IoT Edge's TPM service runs as does not exist."""

    code = "tpmd-user-missing"
    remedy = "Install IoT Edge (apt install aziot-edge): its package makes the user {user}"


class TpmdDenied(ConfigError):
    """The user that IoT Edge's TPM service runs as may not open the TPM."""

    code = "tpmd-denied"
    remedy = (
        'Is {path} the group tss\'s (ls -l {path})? If not, a udev rule: KERNEL=="tpmrm0", '
        'GROUP="tss", MODE="0660". Is {user} in it (systemctl cat aziot-tpmd: '
        "SupplementaryGroups=tss)?"
    )


class TpmdNeedsManager(ConfigError):
    """IoT Edge's TPM service keeps the TPM open, and tpm.tcti lets one program open it."""

    code = "tpmd-needs-manager"
    remedy = "Set tpm.tcti to the kernel's resource manager: 'device:/dev/tpmrm0', not {path}"


class ProductInvalid(ConfigError):
    """The product's model or serial number cannot be put into a certificate request."""

    code = "product-invalid"
    remedy = "Model and serial number are 1 to 64 printable characters (ASCII) each"


class TokenForeign(ConfigError):
    """Somebody else made the PKCS#11 store or the token, for something else."""

    code = "token-foreign"
    remedy = (
        "Find out whose it is: tpm2_ptool listtokens --pid 1 --path $(dirname {path}). If nobody "
        "needs it, move {path} away: a new one is then made"
    )


class TokenUnreadable(ConfigError):
    """The PKCS#11 store is damaged, or of a version that is not known."""

    code = "token-unreadable"
    remedy = (
        "Is it of a newer tpm2-pkcs11? Else, if tpm2_ptool listtokens cannot read it either, move "
        "{path} away: a new one is then made, and IoT Edge makes new keys in it"
    )


class TlsProvider(ConfigError):
    """The OpenSSL that Python uses cannot work with a key in the TPM."""

    code = "tls-provider"
    remedy = (
        "Run it with a Python that uses the system's OpenSSL 3, as Debian's does: "
        "python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)'"
    )


class TlsCertificateUnusable(ConfigError):
    """A certificate file does not fit the key in the TPM that goes with it."""

    code = "tls-cert-unusable"
    remedy = "{path} must hold this key's certificate, PEM, and after it those of the CAs above it"


class ExportInvalid(ConfigError):
    """Files to be merged are no exports of devices, or two of them are of the same device."""

    code = "export-invalid"
    remedy = "Export these devices anew (tpm2cloud identity --json), or leave the files out"


class ReceiptUnchallenged(ConfigError):
    """A receipt that the IDevID has signed needs no challenge: its certificate vouches for it."""

    code = "receipt-needs-no-challenge"
    remedy = "Verify it: tpm2cloud receipt verify FILE --trust PEM"


class ReceiptNamesEk(ConfigError):
    """A receipt tells which EK the TPM has in what is signed, too, and so cannot withhold it."""

    code = "receipt-names-ek"
    remedy = "There is no copy of it without; give the device another id than one made of the EK"


# --- 77 ------------------------------------------------------------------------------------------


class NoPermission(AgentError):
    """The user who runs this may not open what it needs."""

    code, status = "no-permission", os.EX_NOPERM
    remedy = "Run it as root (sudo), or let this user open {path}"


class ReadOnly(NoPermission):
    """A place that must be written to is on a read-only file system, or the service may not."""

    code = "read-only"
    remedy = (
        "Make the file system of {path} writable. Of a writable one, the service sees as read-only "
        "what its unit does not name: ReadWritePaths= in /etc/systemd/system/tpm2cloud-.service.d/"
    )


# --- 69: no usable TPM ---------------------------------------------------------------------------


class TpmError(AgentError):
    """The TPM answers with an error that has no code of its own here."""

    code, status = "tpm-error", os.EX_UNAVAILABLE
    remedy = "Power the device off and on; if it stays, look up the code with: tpm2_rc_decode {rc}"


class TpmUnavailable(TpmError):
    """No TPM answers where tpm.tcti says that there is one."""

    code = "tpm-unavailable"
    remedy = (
        "Check that the TPM is enabled (firmware, device tree), tpm.tcti, and: ls -l /dev/tpm*. "
        "The service sees /dev/tpmrm0 only: for another, BindPaths= and DeviceAllow= in a drop-in"
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


class EkCertificateAbsent(TpmError):
    """The TPM holds no EK certificate, so its maker cannot vouch for it."""

    code = "ek-cert-absent"
    remedy = "This TPM has no EK certificate: ask its maker for one, or use a TPM that has"


class EkCertificateInvalid(TpmError):
    """An EK certificate in the TPM, or the maker's chain beside it, is garbled."""

    code = "ek-cert-invalid"
    remedy = "Look at it: tpm2_nvread {index} | openssl x509 -inform der -text; ask the TPM's maker"


class EkCertificatePurpose(EkCertificateInvalid):
    """The certificate in the place of an EK certificate is for something else than an EK."""

    code = "ek-cert-purpose"


class EkCertificateMismatch(TpmError):
    """The EK certificate in the TPM is not for the EK that the TPM makes."""

    code = "ek-cert-mismatch"
    remedy = "The certificate is another TPM's: do not trust this device; ask its maker"


class EkNotHeld(TpmError):
    """The TPM shows the EK that its certificate is for, but does not hold its private key."""

    code = "ek-not-held"
    remedy = (
        "Something between here and the TPM, or in its place, only pretends to be it: do not trust "
        "this device. Check tpm.tcti"
    )


class EkCertificateUntrusted(TpmError):
    """No trusted TPM maker has issued the EK certificate."""

    code = "ek-cert-untrusted"
    remedy = (
        "If you trust this maker: tpm2cloud import-root FILE --sha256 FINGERPRINT, for its root, "
        "and import-root for what is between (docs/tpm-makers.md says where makers publish them)"
    )


class EkIssuerMissing(EkCertificateUntrusted):
    """A CA certificate between the EK certificate and the maker's root is not here."""

    code = "ek-issuer-missing"
    remedy = (
        "If you trust this maker: get {url}, and: tpm2cloud import-root FILE. Or let devices fetch "
        "it: tpm.fetch_from = ['{host}']"
    )


class EkCertificateExpired(TpmError):
    """The EK certificate is no longer valid; or the clock is years ahead, and will be set."""

    code, status = "ek-cert-expired", os.EX_TEMPFAIL
    remedy = (
        "Check the clock (timedatectl), it is tried again; else ask the TPM's maker for a new one"
    )


class EkIssuerExpired(TpmError):
    """A CA certificate between the EK certificate and the maker's root is no longer valid."""

    code, status = "ek-issuer-expired", os.EX_TEMPFAIL
    remedy = (
        "Check the clock (timedatectl), it is tried again; else get a newer certificate of this CA "
        "from the TPM's maker, and: tpm2cloud import-root FILE"
    )


class EkRootExpired(TpmError):
    """The root of the TPM's maker is no longer valid."""

    code, status = "ek-root-expired", os.EX_TEMPFAIL
    remedy = (
        "Check the clock (timedatectl), it is tried again; else get the maker's newer root, and: "
        "tpm2cloud import-root FILE --sha256 FINGERPRINT"
    )


class EkCertificateRevoked(TpmError):
    """The maker has revoked the EK certificate, or a CA above it."""

    code = "ek-cert-revoked"
    remedy = "Do not trust this TPM any more; ask its maker why: the CRL is in {path}"


class EkRevocationUnknown(TpmError):
    """Whether the EK certificate is revoked is not known, and here it must be."""

    code = "ek-revocation-unknown"
    remedy = "Put a current CRL of that CA into a directory of tpm.crls: curl -O {url}"


class IdevidAbsent(TpmError):
    """The TPM holds no IDevID key, or no certificate for it."""

    code = "idevid-absent"
    remedy = "This device did not go through the factory step; or set idevid.require = false"


class IdevidMismatch(TpmError):
    """The IDevID certificate in the TPM is not for the IDevID key."""

    code = "idevid-mismatch"
    remedy = "Key 0x81020000 and certificate 0x01C90000 do not belong together: back to the factory"


class IdevidInvalid(TpmError):
    """The IDevID certificate is garbled, or its key does not sign."""

    code = "idevid-invalid"
    remedy = (
        "Look at it: tpm2_nvread 0x01C90000 | openssl x509 -inform der -text (tpm2_nvread -C p, "
        "where only the platform may read it)"
    )


class IdevidKeyOther(TpmError):
    """The key at the IDevID's handle is not of the profile and kind that the factory asks for."""

    code = "idevid-key-other"
    remedy = (
        "Nothing replaces a key. If it is this board's IDevID, set idevid.profile and idevid.key "
        "to what it is; if nobody needs it: tpm2_evictcontrol -C o -c 0x81020000"
    )


class IdevidOther(TpmError):
    """The IDevID certificate names another board than the factory's configuration does."""

    code = "idevid-other"
    remedy = (
        "If this board's name was changed: tpm2cloud manufacture --force. If not, see what "
        "[idevid.subject] is made of (tpm2cloud config --factory)"
    )


class IdevidUntrusted(TpmError):
    """No CA in idevid.trust has issued the IDevID certificate."""

    code = "idevid-untrusted"
    remedy = "If this maker is yours, put its CA into the file that idevid.trust names"


class IdevidUnfit(TpmError):
    """The IDevID key is of a kind that a CA does not accept in TPM evidence."""

    code = "idevid-unfit"
    remedy = (
        "Evidence is for an IDevID key that idevid.profile = 'tcg' made; see the key with: "
        "tpm2_readpublic -c {handle}"
    )


class BootStateUnapproved(TpmError):
    """The IDevID works in approved boot states alone, and this is none of those."""

    code = "boot-state-unapproved"
    remedy = (
        "If {pcrs} may have changed (firmware, boot settings): the maker of this device signs the "
        "state that 'tpm2cloud boot-state' tells (docs/factory.md), and the approval goes into "
        "{path}. If not: back to the approved firmware, and do not trust this one"
    )


class ApprovalForged(TpmError):
    """The approval of this boot state has a signature that is not the maker's."""

    code = "approval-forged"
    remedy = (
        "Put the approval as the maker has released it into place, signed by the key that this "
        "board's IDevID was made for: {path}. If it was, do not trust this firmware"
    )


class PolicyKeyOther(TpmError):
    """The approvals on this device are another maker's than the one the IDevID answers to."""

    code = "policy-key-other"
    remedy = (
        "This is firmware of another maker, or for other boards: put the public key and approvals "
        "of this board's maker into {path}"
    )


class IdevidExpired(TpmError):
    """The IDevID certificate is no longer valid; or the clock is years ahead, and will be set."""

    code, status = "idevid-expired", os.EX_TEMPFAIL
    remedy = (
        "Check the clock (timedatectl), it is tried again; else the IDevID must be issued anew at "
        "the factory"
    )


# --- 75: later -----------------------------------------------------------------------------------


class Later(AgentError):
    """Something that takes time is not finished yet.

    `seconds`: how long the server asked us to stay away, or None.
    """

    code, status = "later", os.EX_TEMPFAIL
    remedy = "Nothing to do: it is tried again"

    def __init__(self, message: str, *, seconds: int | None = None, **fields: object) -> None:
        super().__init__(message, **fields)
        self.seconds = seconds


class Busy(Later):
    """Another run of tpm2cloud holds the state directory."""

    code = "busy"
    remedy = "Another run is at work; wait for it: systemctl status 'tpm2cloud-*'"


class TokenBusy(Later):
    """Another program is writing to the PKCS#11 store."""

    code = "token-busy"
    remedy = "See who uses it: fuser -v {path}; it is tried again"


class ClockImplausible(Later):
    """The clock says a time that cannot be: a certificate here is newer, or a server says so."""

    code = "clock-implausible"
    remedy = (
        "Set the clock (timedatectl set-ntp true); if it is right, the clock of the server that "
        "says it is later; it is tried again"
    )


class DiskFull(Later):
    """A file cannot be written: the disk is full, or fails."""

    code = "disk-full"
    remedy = "Make room, or look at the disk's health: df -h $(dirname {path}); dmesg"


class NetworkProcess(Later):
    """The process that talks to servers for this one ended, or does not answer."""

    code = "network-process"
    remedy = (
        "See what it says: journalctl -u 'tpm2cloud_network@*'; where nobody listens: systemctl "
        "restart tpm2cloud_network.socket; it is tried again"
    )


class Unreachable(Later):
    """A server cannot be reached."""

    code = "unreachable"
    remedy = "Check network, DNS and firewall between here and {host}; it is tried again"


class DnsFailed(Unreachable):
    """The address of a server cannot be found: DNS does not know its name, or does not answer."""

    code = "dns-failed"
    remedy = (
        "Is {host} the right name, and is there a DNS server here that knows it (resolvectl "
        "query)? It is tried again"
    )


class HubUnreachable(Unreachable):
    """The IoT hub cannot be reached, or the connection to it is lost."""

    code = "hub-unreachable"
    remedy = (
        "Is TCP 8883 open from here to {host}? Where only 443 is: hub.transport = 'websockets'; it "
        "is tried again"
    )


class TimedOut(Unreachable):
    """A server takes too long to answer."""

    code = "timed-out"
    remedy = "Is {host} overloaded, or does a firewall swallow packets? It is tried again"


class ReplyTruncated(Unreachable):
    """A server's answer ends in the middle."""

    code = "reply-truncated"
    remedy = "Look at the network and the proxies between here and {host}; it is tried again"


class ProxyUnreachable(Unreachable):
    """The HTTP proxy itself cannot be reached."""

    code = "proxy-unreachable"
    remedy = (
        "Is {proxy} the right proxy ([proxy], or HTTPS_PROXY), and does it run? It is tried again"
    )


class ProxyRefused(Unreachable):
    """The HTTP proxy does not let this device through to a server."""

    code = "proxy-refused"
    remedy = "Does the proxy {proxy} allow HTTPS to {host}? Its log tells; it is tried again"


class ProxyLogin(ProxyRefused):
    """The HTTP proxy does not accept this device's user name and password, or there are none."""

    code = "proxy-login"
    remedy = (
        "{proxy} wants a login (Basic): set username in [proxy], and put the password into "
        "/etc/credstore/proxy-password (chmod 0600); it is tried again"
    )


class TlsDates(Later):
    """A server's certificate is not valid now, by the clock of this device.

    Later, not Refused: the usual cause is our own clock, which heals by itself.
    """

    code = "tls-dates"
    remedy = (
        "Check the clock (timedatectl); if it is right, {host} needs a new certificate; "
        "it is tried again"
    )


class TlsExpiredSince(TlsDates):
    """A server's certificate is valid by our clock, but not at the time another server has said."""

    code = "tls-expired-since"
    remedy = (
        "Set the clock (timedatectl set-ntp true); then, if {host} has a valid certificate, and "
        "it was {by} that said a wrong time: rm /var/lib/tpm2cloud/clock.json"
    )


class ServerBusy(Later):
    """A server is there, and has trouble of its own (429, 5xx)."""

    code = "server-busy"
    remedy = "Tell whoever runs {host}; it is tried again"


class EstPending(Later):
    """The CA has the request, and has not decided yet."""

    code = "est-pending"
    remedy = "The CA wants to approve this device first (RFC 7030, 4.2.3); it is tried again"


class LdevidWaits(Later):
    """An LDevID that does not work any more was refused lately, and is not asked for yet."""

    code = "ldevid-waits"
    remedy = (
        "It is tried again; to try at once: rm {path}, then: systemctl restart tpm2cloud-firstboot"
    )


class DpsWaits(Later):
    """It is not this device's turn to register at DPS, or DPS was busy lately."""

    code = "dps-waits"
    remedy = (
        "Nothing to do: it is tried again. A single device need not wait for its turn in a fleet: "
        "tpm2cloud provision --reregister"
    )


class DpsBusy(ServerBusy):
    """DPS takes no more registrations at present (429)."""

    code = "dps-throttled"
    remedy = (
        "It is tried again. If it comes back: do more devices register at {host} than dps.fleet "
        "says? Other programs use up its limits, too"
    )


class DpsTrouble(ServerBusy):
    """DPS has trouble of its own (5xx, 408)."""

    code = "dps-trouble"
    remedy = "See Azure's status of {host} (https://status.azure.com); it is tried again"


class DpsForgot(ServerBusy):
    """DPS does not know any more of the registration that it had begun."""

    code = "dps-forgot"
    remedy = "Nothing to do: the device registers anew. If it comes back, ask whoever runs {host}"


class DpsAssigning(Later):
    """DPS has the registration, and has assigned no hub yet."""

    code = "dps-assigning"
    remedy = (
        "Does the custom allocation (a function), if there is one, answer? Are hubs linked to the "
        "service? It is tried again"
    )


class DpsClock(ClockImplausible):
    """DPS takes what this device signed for expired: the clock here is not the one there."""

    code = "dps-clock"


class IotedgeFailed(Later):
    """A command of IoT Edge (iotedge config apply, iotedge system reprovision) fails."""

    code = "iotedge-failed"
    remedy = "Look at: iotedge check; journalctl -u aziot-identityd -u aziot-certd -u aziot-keyd"


class IotedgeDown(IotedgeFailed):
    """A service of IoT Edge's fails, and is started again and again, or not any more."""

    code = "iotedge-down"
    remedy = "Look at: journalctl -u {unit}; iotedge check; then: iotedge system restart"


class SystemctlFailed(Later):
    """IoT Edge's services cannot be asked about, or started, through systemd or its journal."""

    code = "systemctl-failed"
    remedy = "Look at: systemctl status 'aziot-*'; journalctl -u 'aziot-*'; it is tried again"


class DataLimit(Later):
    """What the companion may send and receive in a day is used up."""

    code = "data-limit"
    remedy = "It goes on tomorrow, or when a certificate is overdue. See health.data_limit"


class CertificateStuck(Later):
    """A certificate or a service of IoT Edge's is stuck, and nothing more is done for now."""

    code = "certificate-stuck"
    remedy = (
        "Look at: journalctl -u {unit}; iotedge check. How much is done per day says "
        "health.interventions"
    )


class CertificateUnwell(Later):
    """A certificate that this device lives by is not as it should be, and is being looked after."""

    code = "certificate-unwell"
    remedy = "See what will be done about it, and when: tpm2cloud health --dry-run"


class HubNotReached(Later):
    """DPS assigned this device to an IoT hub, but IoT Edge could not ask that for its modules."""

    code = "hub-not-reached"
    remedy = (
        "Can {hub} be reached from here (DNS, TCP 443 and 8883)? See: journalctl -u "
        "aziot-identityd; it is tried again"
    )


class Stopped(Later):
    """The agent was told to stop while it waited."""

    code = "stopped"
    remedy = "Nothing to do: it goes on when it is started again"


class TelemetryUnfinished(Later):
    """Messages are left that the IoT hub has not acknowledged."""

    code = "telemetry-unfinished"
    remedy = "Send again what was not acknowledged, unless it was kept, once {hub} answers"


class NotProvisioned(Later):
    """IoT Edge has the configuration, but does not report this device as provisioned."""

    code = "not-provisioned"
    remedy = (
        "Look at: journalctl -u aziot-identityd. Is the CA of the operational certificate enrolled "
        "in DPS (a group, or this device by its registration id '{registration_id}')?"
    )


class AttestationFailed(NotProvisioned):
    """IoT Edge does not come to register this device at DPS by its TPM."""

    code = "attestation-failed"
    remedy = (
        "Is this TPM enrolled in DPS under the registration ID '{registration_id}', with the EK "
        "that this shows: tpm2cloud identity? See: journalctl -u aziot-identityd -u aziot-tpmd"
    )


class ReceiptAbsent(Later):
    """There is no receipt on this device: it is written when a provisioning is complete."""

    code = "receipt-absent"
    remedy = "See how far the provisioning is: tpm2cloud status"


class ReceiptNotWritten(Later):
    """What was done is done, but could not be written down in the receipt."""

    code = "receipt-not-written"
    remedy = "Look at what the message says; tpm2cloud-health tries again at each run"


# --- 76: a server said no ------------------------------------------------------------------------


class NeverProvisioned(Later):
    """There is nothing to look after yet: the first boot has not come to its end."""

    code = "never-provisioned"
    remedy = "See what is missing: tpm2cloud status"


class NotYetProvisioned(Later):
    """Nothing is wrong with what a provisioning needs; only, it has not come to its end."""

    code = "not-yet-provisioned"
    remedy = (
        "Have it done now: systemctl restart tpm2cloud-firstboot. If that is at work, wait for it: "
        "systemctl status tpm2cloud-firstboot"
    )


class Refused(AgentError):
    """A server refuses, for a reason that has no code of its own here."""

    code, status = "refused", os.EX_PROTOCOL
    remedy = "Look at the log of {host}"


class TlsUntrusted(Refused):
    """No trusted CA has issued the certificate that a server shows."""

    code = "tls-untrusted"
    remedy = (
        "{host} shows a certificate that '{trust}' does not vouch for. Wrong server, interception, "
        "a wrong clock, or the trust anchor needs an update"
    )


class TlsName(Refused):
    """The certificate that a server shows is for another name."""

    code = "tls-name"
    remedy = "{host} shows a certificate for another name: check the URL, and the server's own"


class TlsClientRefused(Refused):
    """A server does not accept the certificate that this device shows."""

    code = "tls-client-refused"
    remedy = "{host} does not accept our client certificate: does it trust the CA that issued it?"


class TlsFailed(Refused):
    """A server and this device cannot agree on TLS."""

    code = "tls-failed"
    remedy = "Does {host} speak TLS 1.2 or newer on this port? Does it want a client certificate?"


class HttpGarbled(Refused):
    """A server's answer is not HTTP."""

    code = "http-garbled"
    remedy = "Is {host} an HTTPS server, and is nothing in between that rewrites replies?"


class EstUnauthorized(Refused):
    """The EST server does not accept this device's credential (401)."""

    code = "est-unauthorized"
    remedy = (
        "{host} does not accept our credential: check `auth` below [ldevid.est] or [operational], "
        "at the factory below [idevid.est], and the credential"
    )


class EstForbidden(Refused):
    """The EST server does not issue to this device (403)."""

    code = "est-forbidden"
    remedy = "{host} knows this device, but will not issue: ask whoever runs the CA"


class EstNotFound(Refused):
    """There is no EST server at this path (404)."""

    code = "est-not-found"
    remedy = "Check the path of the EST URL, such as https://HOST/.well-known/est[/LABEL]"


class EstBadRequest(Refused):
    """The EST server rejects the certificate request (400, 415, 422)."""

    code = "est-bad-request"
    remedy = "The CA did not like our request; its log tells why. Does it allow this key type?"


class EstRefused(Refused):
    """The EST server refuses, with a status that has no code of its own here."""

    code = "est-refused"
    remedy = "Look at the log of {host}"


class EstNoTpmEnroll(EstNotFound):
    """The EST server has no tpmenroll (404, 405, 501)."""

    code = "est-no-tpmenroll"
    remedy = (
        "Only GlobalSign's EST has tpmenroll: check the path of the EST URL, or set "
        "idevid.est.enrol = 'simpleenroll'"
    )


class EstNoReenroll(EstNotFound):
    """The EST server has no simplereenroll (404, 405, 501)."""

    code = "est-no-simplereenroll"
    remedy = "Nothing to do: the certificate is renewed by simpleenroll instead"


class EstEkRefused(Refused):
    """The EST server cannot use this TPM's EK, or the EK certificate (422; if it is ECC, 500)."""

    code = "est-ek-refused"
    remedy = (
        "Is the EK certificate this TPM's own (tpm2cloud status), and for an RSA key? GlobalSign's "
        "EST takes no other: the log of {host} tells more. Or idevid.est.enrol = 'simpleenroll'"
    )


class EstRedirected(Refused):
    """The EST server sends this device to another address, where it does not go."""

    code = "est-redirected"
    remedy = "Set the EST URL to where the server really is; it sent us to '{location}'"


class EstGarbled(Refused):
    """The EST server's answer makes no sense."""

    code = "est-garbled"
    remedy = "Is {host} an EST server, and is nothing in between that rewrites replies?"


class DpsRefused(Refused):
    """DPS refuses, for a reason that has no code of its own here."""

    code = "dps-refused"
    remedy = "Give what it says, with its trackingId, to whoever runs the DPS ({host})"


class DpsNotEnrolled(DpsRefused):
    """DPS does not know this registration (404)."""

    code = "dps-not-enrolled"
    remedy = (
        "Enrol '{registration_id}' in the DPS of ID scope '{id_scope}' (tpm2cloud identity shows "
        "with what), or set dps.id_scope to the one that knows it; it is tried again"
    )


class DpsScope(DpsRefused):
    """There is no DPS with this ID scope (404)."""

    code = "dps-scope"
    remedy = "Set dps.id_scope to what the portal shows for the DPS; it is '{id_scope}' now"


class DpsBadRequest(DpsRefused):
    """DPS rejects the registration (400): mostly, another EK or certificate is enrolled."""

    code = "dps-bad-request"
    remedy = (
        "Compare the enrolment of '{registration_id}' with: tpm2cloud identity. Its EK, or its CA, "
        "must be this device's; for a payload, see dps.payload"
    )


class DpsApiVersion(DpsBadRequest):
    """DPS does not speak the version of its interface that dps.api_version names (400)."""

    code = "dps-api-version"
    remedy = "Take dps.api_version out of the configuration, or set it to one that {host} speaks"


class DpsUnauthorized(DpsRefused):
    """DPS does not accept this device's key or certificate (401)."""

    code = "dps-unauthorized"
    remedy = (
        "Is the CA of the device's certificate enrolled, or the EK of this very TPM, for "
        "'{registration_id}'? See: tpm2cloud identity; tpm2cloud status"
    )


class DpsDisabled(DpsRefused):
    """The enrolment of this device is disabled."""

    code = "dps-disabled"
    remedy = "Enable the enrolment of '{registration_id}' in DPS, if it is not disabled on purpose"


class DpsFailed(DpsRefused):
    """DPS could not register this device, for a reason that has no code of its own here."""

    code = "dps-failed"
    remedy = (
        "Look at the enrolment of '{registration_id}', its allocation and the hubs linked to the "
        "service; it is tried again"
    )


class DpsNoHub(DpsFailed):
    """DPS has no hub to assign this device to (400208)."""

    code = "dps-no-hub"
    remedy = (
        "Link an IoT Hub to the DPS, and select it in the enrolment of '{registration_id}'; it is "
        "tried again"
    )


class DpsHubDenied(DpsFailed):
    """The hub does not let DPS register this device (400209)."""

    code = "dps-hub-denied"
    remedy = (
        "Repair the link of the DPS to the hub (az iot dps linked-hub list): its shared access "
        "policy needs ServiceConnect and RegistryWrite; it is tried again"
    )


class DpsRedirected(DpsRefused):
    """DPS sends this device to another address, where it does not go."""

    code = "dps-redirected"
    remedy = (
        "{host} sent us to '{location}'. Is that a login page, something in between answers: let "
        "this device through without it. Else set dps.endpoint to where DPS really is"
    )


class DpsGarbled(DpsRefused):
    """The answer of DPS makes no sense."""

    code = "dps-garbled"
    remedy = "Is {host} a DPS, and is nothing in between that rewrites replies?"


class DpsDeviceName(DpsRefused):
    """DPS gives this device a name by which no messages can be sent over MQTT."""

    code = "dps-device-name"
    remedy = (
        "Have the enrolment at {host}, or its custom allocation, name '{registration_id}' without "
        "+ and #, which are wildcards in MQTT"
    )


class CaptivePortal(DpsRefused):
    """A web page comes instead of a server's answer: a captive portal, or a proxy's notice."""

    code = "captive-portal"
    remedy = (
        "Something between here and {host} answers in its place: let this device through without "
        "a login page"
    )


class DpsNoKey(DpsRefused):
    """DPS assigned this device to a hub, but sent no key for it."""

    code = "dps-no-hub-key"
    remedy = (
        "Is '{registration_id}' enrolled by TPM? If it is, tell whoever runs the DPS that it sends "
        "no authenticationKey"
    )


class ReplyTooLarge(Refused):
    """A server's answer is larger than any that makes sense."""

    code = "reply-too-large"
    remedy = "Is {host} the right server? No reply that makes sense is that large"


class IssuedWrong(Refused):
    """The CA issued a certificate, but not one that was asked for."""

    code = "issued-wrong"
    remedy = "The CA's profile for these devices must be corrected; the certificate was discarded"


class IssuedForAnotherKey(IssuedWrong):
    """The certificate that the CA issued is for another key."""

    code = "issued-for-another-key"


class IssuedByAnother(IssuedWrong):
    """The certificate that came back is not issued by the CA that is trusted to do so."""

    code = "issued-by-another-ca"
    remedy = "If this CA is meant, add its root to the file that the trust setting names"


class IssuedWithWrongName(IssuedWrong):
    """The certificate that the CA issued is for another name than this device's."""

    code = "issued-with-wrong-name"


class IssuedWithWrongDates(IssuedWrong):
    """The certificate that the CA issued is not valid now."""

    code = "issued-with-wrong-dates"
    remedy = "Check the clock here (timedatectl) and at the CA; the certificate was discarded"


class IssuedAsCa(IssuedWrong):
    """The certificate that the CA issued would make this device a CA."""

    code = "issued-as-ca"


class RenewalBringsNothing(IssuedWrong):
    """A renewed certificate does not last longer than the one it should take the place of."""

    code = "renewal-brings-nothing"
    remedy = (
        "The one in use stays. Is the CA's own certificate near its end, or the lifetime in its "
        "profile too short? Ask whoever runs the CA"
    )


class RenewedRefused(Refused):
    """The EST server does not accept the certificate that it has just issued."""

    code = "renewed-refused"
    remedy = (
        "The new certificate was discarded, the one in use stays. Does {host} trust the CA that "
        "issues now? Its log tells more"
    )


class HubRefused(Refused):
    """The IoT hub does not accept this device: its token or certificate, or its name."""

    code = "hub-refused"
    remedy = (
        "Is device '{device}' there and enabled at {hub}? Is the clock right (timedatectl)? Else "
        "have DPS assign it anew: tpm2cloud telemetry does by itself, if it is enrolled there"
    )


class MessageTooLarge(Refused):
    """A message is larger than an IoT hub takes."""

    code = "message-too-large"
    remedy = "Send less per line: an IoT hub takes 256 KB, with what comes along with the message"


class HubGarbled(Refused):
    """What answers in the place of the IoT hub does not speak MQTT, or not as a hub does."""

    code = "hub-garbled"
    remedy = "Is {hub} an IoT hub, and is nothing in between that answers in its place?"


class TcgCsrGarbled(Refused):
    """A file is not a TCG-CSR-IDEVID, or a damaged one."""

    code = "tcg-csr-garbled"
    remedy = "Make it anew: tpm2cloud manufacture --csr-out FILE"


class ChallengeGarbled(Refused):
    """A file is not a CA's challenge to this TPM, or a damaged one."""

    code = "challenge-garbled"
    remedy = "It is what tpm2_makecredential -o writes: have the CA send it again"


class ChallengeInvalid(Refused):
    """The key that DPS sent for this device's TPM makes no sense."""

    code = "dps-key-invalid"
    remedy = (
        "Does anything between here and DPS rewrite replies? DPS is asked anew; if it stays, ask "
        "whoever runs dps.endpoint"
    )


class ChallengeOfAnother(ChallengeInvalid):
    """The key that DPS sent is sealed for another TPM."""

    code = "dps-key-of-another-tpm"
    remedy = (
        "Compare the endorsement key in the enrolment with: tpm2cloud identity. Is it this TPM's, "
        "DPS is asked anew"
    )


class KeyImportRefused(ChallengeInvalid):
    """The key that DPS sent is for this TPM, which does not take it: it was damaged on the way."""

    code = "dps-key-not-taken"


class ReceiptInvalid(Refused):
    """A receipt was changed since it was signed: a line of it, or its end, is not as it was."""

    code = "receipt-invalid"
    remedy = "Get it again from the device; what differs there, too, was changed there"


class ReceiptUntrusted(Refused):
    """A receipt holds together, but nobody who is trusted vouches for the key that signed it."""

    code = "receipt-untrusted"
    remedy = (
        "Give the CA certificates of the maker of the device (signed by the IDevID), or of its TPM "
        "(signed by an attestation key): tpm2cloud receipt verify FILE --trust PEM"
    )


class ReceiptUnproven(Refused):
    """A receipt is signed by an attestation key, and nothing shows that it is in the TPM named."""

    code = "receipt-unproven"
    remedy = (
        "Challenge the device, once: tpm2cloud receipt challenge FILE --trust PEM; docs/receipt.md "
        "says how"
    )


class ReceiptOlder(Refused):
    """A receipt is sound, but an older one than what is known of this device, or of another."""

    code = "receipt-older"
    remedy = "Get the present one from the device: tpm2cloud receipt export"


# --- the operator's side: tpm2cloud-operator, on a workstation ------------------------------------


class OperatorConfigError(ConfigError):
    """The operator's configuration cannot be used; the message lists every problem found in it."""

    code = "operator-config-invalid"
    remedy = "Edit the file that --config names (operator.toml); docs/operator.md says how"


class OperatorSoftware(ConfigError):
    """Azure's packages for Python, which the operator's tool works with, are not installed."""

    code = "operator-software"
    remedy = "Install them, in a checkout of tpm2cloud: pip install '.[operator]'"


class DestroyUnconfirmed(ConfigError):
    """Nobody has confirmed that what was deployed in Azure is to be removed."""

    code = "destroy-unconfirmed"
    remedy = "Answer yes on a terminal; or, without being asked: tpm2cloud-operator destroy -y"


class AzureDiffers(ConfigError):
    """What is in Azure under a configured name is not ours, or cannot be made what it should be."""

    code = "azure-differs"
    remedy = (
        "Choose another name or place in operator.toml; or, if it is to be ours, which means that "
        "destroy removes it, give it the tag: "
        "az tag update --operation merge --tags tpm2cloud=GROUP --resource-id ID"
    )


class AzureLogin(Refused):
    """Azure does not know who we are: nobody is logged in, or the login has run out."""

    code = "azure-login"
    remedy = "Log in: az login; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and a credential"


class AzureForbidden(Refused):
    """Azure knows who we are, and does not permit it."""

    code = "azure-forbidden"
    remedy = (
        "Have the role Contributor given on the resource group; for dps.login = 'entra' also "
        "'Device Provisioning Service Data Contributor' on the provisioning service"
    )


class AzureNameTaken(Refused):
    """Somebody else in the world has a hub or a provisioning service of this name."""

    code = "azure-name-taken"
    remedy = "Choose another name in operator.toml"


class AzureUnregistered(Refused):
    """The subscription was never used for IoT hubs: Azure wants to be told that it is to be."""

    code = "azure-unregistered"
    remedy = (
        "Once for a subscription, then wait some minutes: "
        "az provider register --namespace Microsoft.Devices --wait"
    )


class AzureRefused(Refused):
    """Azure refuses, for a reason that its own words say."""

    code = "azure-refused"
    remedy = "See the activity log of the resource group in the Azure portal"


class AzureFailed(Refused):
    """Azure began the work, and says that it failed."""

    code = "azure-failed"
    remedy = "See the activity log of the resource group, then once more: tpm2cloud-operator deploy"


class AzureGarbled(Refused):
    """An answer of Azure's makes no sense."""

    code = "azure-garbled"
    remedy = "Try again; if it stays, see whether something in between answers in Azure's place"


class AzureCaUnverified(Refused):
    """DPS has a certificate of the operational CA, but does not count it as verified."""

    code = "azure-ca-unverified"
    remedy = (
        "Prove that the CA's key is yours: az iot dps certificate generate-verification-code, have "
        "the CA sign it, and az iot dps certificate verify"
    )


class OperationalCaUnusable(Refused):
    """What EST gives as the operational CA cannot be enrolled in DPS."""

    code = "operational-ca-unusable"
    remedy = "See what the server gives as /cacerts, and whether est.url is that of the right CA"


class AzureBusy(Later):
    """Azure is busy or has trouble, and stays so, though it was tried again."""

    code = "azure-busy"
    remedy = "Run it again later: it goes on where it was"


class AzureUnreachable(Later):
    """Azure cannot be reached, or the connection was lost."""

    code = "azure-unreachable"
    remedy = "See that the way is free (proxy, DNS, cloud.trust), then run it again: it goes on"


# What a wrong clock makes of things that are in order. None of these counts as a try that failed:
# who put the clock right must not wait because it was wrong.
MAYBE_THE_CLOCK: tuple[type[AgentError], ...] = (
    ClockImplausible,
    TlsDates,
    EkCertificateExpired,
    EkIssuerExpired,
    EkRootExpired,
    IdevidExpired,
)


def every_error(base: type[AgentError] = AgentError) -> Iterator[type[AgentError]]:
    """`base` and all below it, in the order they are written."""
    yield base
    for child in base.__subclasses__():
        yield from every_error(child)
