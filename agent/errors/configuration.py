"""Status 78 and 77: somebody must edit something, or be let in."""

from agent.errors.base import ConfigError, NoPermission


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
        "Give it the configuration of its new owner (dps.id_scope or dps.endpoint), then: "
        "systemctl restart tpm2cloud-firstboot. If it is to be the same owner's again, or one's "
        "with the same DPS: tpm2cloud provision --again"
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


class ReadOnly(NoPermission):
    """A place that must be written to is on a read-only file system, or the service may not."""

    code = "read-only"
    remedy = (
        "Make the file system of {path} writable. Of a writable one, the service sees as read-only "
        "what its unit does not name: ReadWritePaths= in /etc/systemd/system/tpm2cloud-.service.d/"
    )
