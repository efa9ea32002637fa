"""Every failure a person can meet, each with a stable code, an exit status and a remedy.

AgentError          70  a bug of ours; anything else below is the world's
├── ConfigError     78  the configuration or the image must be changed; retrying is pointless
├── TpmError        69  no TPM, or not one that can be used; needs a person
├── NoPermission    77  this user may not
├── Later           75  nobody answered, or "come back later"; systemd retries
└── Refused         76  a server answered, and the answer was no or made no sense

A class is one code. The remedy is written here, once; `{fields}` in it are filled in by keyword:
`raise HandleOccupied("cannot ...", handle="0x81000001")`.
"""

import os
from collections.abc import Iterator


class AgentError(Exception):
    """A failure we can explain: what happened, and what to do about it."""

    code = "internal"
    status = os.EX_SOFTWARE
    remedy = "This is a bug of tpm2cloud: please report it, with: journalctl -u tpm2cloud-firstboot"
    step: str | None = None  # where in the plan it happened

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.remedy = type(self).remedy.format(**fields)


class CsrInvalid(AgentError):
    code = "csr-invalid"
    remedy = "The key signed wrongly: report it, with: tpm2_getcap properties-fixed"


# --- 78: somebody must edit something ------------------------------------------------------------


class ConfigError(AgentError):
    code, status = "config-invalid", os.EX_CONFIG
    remedy = "Edit the file (README, Configuration), then: tpm2cloud config"


class SecretUnreadable(ConfigError):
    code = "secret-unreadable"
    remedy = (
        "Provide it as the credential '{name}' (LoadCredential={name}:FILE in the unit), or name a "
        "file that only its owner can read (chmod 0600) in '{setting}'"
    )


class TrustUnreadable(ConfigError):
    code = "trust-unreadable"
    remedy = "Put the CA certificates, PEM, one or several, into {path}"


class ProxyUnusable(ConfigError):
    code = "proxy-unusable"
    remedy = "Set HTTPS_PROXY (systemctl edit tpm2cloud-firstboot) to http://HOST:PORT"


class DeviceIdInvalid(ConfigError):
    code = "device-id-invalid"
    remedy = "Set device.id in the configuration to a text that gives 1 to 64 of [A-Za-z0-9._:-]"


class AziotConfigInvalid(ConfigError):
    code = "aziot-config-invalid"
    remedy = "Repair {path}, or move it away: a whole one is then written"


class IotedgeMissing(ConfigError):
    code = "iotedge-missing"
    remedy = (
        "Install IoT Edge (apt install aziot-edge), then: systemctl restart tpm2cloud-firstboot"
    )


class ModuleMissing(ConfigError):
    code = "pkcs11-module-missing"
    remedy = "Install it (apt install libtpm2-pkcs11-1), or name it in pkcs11.library"


class PathUnusable(ConfigError):
    code = "path-unusable"
    remedy = "See what is there (ls -ld {path}); if nobody needs it, move it away"


class UserMissing(ConfigError):
    code = "user-missing"
    remedy = "Install IoT Edge (apt install aziot-edge), or set {setting} to an existing user"


class TokenForeign(ConfigError):
    """A PKCS#11 store or token that somebody else made, for something else."""

    code = "token-foreign"
    remedy = (
        "Find out whose it is: tpm2_ptool listtokens --pid 1 --path $(dirname {path}). If nobody "
        "needs it, move {path} away: a new one is then made"
    )


class TokenUnreadable(ConfigError):
    code = "token-unreadable"
    remedy = (
        "Is it of a newer tpm2-pkcs11? Else, if tpm2_ptool listtokens cannot read it either, move "
        "{path} away: a new one is then made, and IoT Edge makes new keys in it"
    )


class TlsProvider(ConfigError):
    code = "tls-provider"
    remedy = (
        "Run it with a Python that uses the system's OpenSSL 3, as Debian's does: "
        "python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)'"
    )


class TlsCertificateUnusable(ConfigError):
    code = "tls-cert-unusable"
    remedy = "{path} must hold this key's certificate, PEM, and after it those of the CAs above it"


# --- 77 ------------------------------------------------------------------------------------------


class NoPermission(AgentError):
    code, status = "no-permission", os.EX_NOPERM
    remedy = "Run it as root (sudo), or let this user open {path}"


# --- 69: no usable TPM ---------------------------------------------------------------------------


class TpmError(AgentError):
    code, status = "tpm-error", os.EX_UNAVAILABLE
    remedy = "Power the device off and on; if it stays, look up the code with: tpm2_rc_decode {rc}"


class TpmUnavailable(TpmError):
    code = "tpm-unavailable"
    remedy = "Check tpm.tcti, that the TPM is enabled (firmware, device tree), and: ls -l /dev/tpm*"


class TpmLockout(TpmError):
    code = "tpm-lockout"
    remedy = "Wait for the lockout to expire, or: tpm2_dictionarylockout --clear-lockout"


class TpmAuth(TpmError):
    code = "tpm-auth"
    remedy = (
        "The owner or endorsement hierarchy has a password: provide it as the credential "
        "'tpm-owner-auth' or 'tpm-endorsement-auth'"
    )


class NvLocked(TpmError):
    code = "nv-locked"
    remedy = (
        "The factory must define {index} as readable by others too: ownerread|authread|no_da. "
        "Until then, let the firmware leave the platform hierarchy without a password"
    )


class TpmDisabled(TpmError):
    code = "tpm-hierarchy-disabled"
    remedy = "Enable the storage and endorsement hierarchies in the firmware set-up"


class TpmPssSalt(TpmError):
    code = "tpm-pss-salt"
    remedy = (
        "Use ECC keys with this TPM, or update its firmware: its RSA signatures do not suit TLS"
    )


class TpmFull(TpmError):
    code = "tpm-full"
    remedy = "See what fills it: tpm2_getcap handles-persistent handles-transient handles-nv-index"


class HandleOccupied(TpmError):
    code = "handle-occupied"
    remedy = (
        "Find out whose it is: tpm2_readpublic -c {handle}. If nobody needs it: "
        "tpm2_evictcontrol -C o -c {handle}"
    )


class LdevidKeyLost(TpmError):
    code = "ldevid-key-lost"
    remedy = (
        "If the key at {handle} was this device's LDevID in an earlier life: "
        "tpm2_evictcontrol -C o -c {handle}, and a new one is made"
    )


class KeyOfAnotherTpm(TpmError):
    code = "key-of-another-tpm"
    remedy = (
        "The TPM was cleared, or this disk comes from another device: to begin anew, move "
        "/var/lib/tpm2cloud away"
    )


class TokenPinsLost(TpmError):
    code = "token-pins-lost"
    remedy = (
        "If nothing else uses the token, move '{path}' away, and a new one is made; the keys in it "
        "are lost"
    )


class EkCertificateAbsent(TpmError):
    code = "ek-cert-absent"
    remedy = "This TPM has no EK certificate: ask its maker for one, or use a TPM that has"


class EkCertificateInvalid(TpmError):
    code = "ek-cert-invalid"
    remedy = "Look at it: tpm2_nvread {index} | openssl x509 -inform der -text; ask the TPM's maker"


class EkCertificateMismatch(TpmError):
    code = "ek-cert-mismatch"
    remedy = "The certificate is another TPM's: do not trust this device; ask its maker"


class EkCertificateUntrusted(TpmError):
    code = "ek-cert-untrusted"
    remedy = "If you trust this maker, put its root into a directory of tpm.manufacturer_roots"


class IdevidAbsent(TpmError):
    code = "idevid-absent"
    remedy = "This device did not go through the factory step; or set idevid.require = false"


class IdevidMismatch(TpmError):
    code = "idevid-mismatch"
    remedy = "Key 0x81020000 and certificate 0x01C90000 do not belong together: back to the factory"


class IdevidInvalid(TpmError):
    code = "idevid-invalid"
    remedy = "Look at it: tpm2_nvread -C p 0x01C90000 | openssl x509 -inform der -text"


class IdevidUntrusted(TpmError):
    code = "idevid-untrusted"
    remedy = "If this maker is yours, put its CA into the file that idevid.trust names"


class IdevidExpired(TpmError):
    code = "idevid-expired"
    remedy = "Check the clock (timedatectl); else the IDevID must be issued anew at the factory"


# --- 75: later -----------------------------------------------------------------------------------


class Later(AgentError):
    """`seconds`: how long the server asked us to stay away, or None."""

    code, status = "later", os.EX_TEMPFAIL
    remedy = "Nothing to do: it is tried again"

    def __init__(self, message: str, *, seconds: int | None = None, **fields: object) -> None:
        super().__init__(message, **fields)
        self.seconds = seconds


class Busy(Later):
    code = "busy"
    remedy = "Another run is at work; wait for it: systemctl status tpm2cloud-firstboot"


class TokenBusy(Later):
    code = "token-busy"
    remedy = "See who uses it: fuser -v {path}; it is tried again"


class ClockImplausible(Later):
    code = "clock-implausible"
    remedy = "Set the clock (timedatectl set-ntp true); it is tried again"


class DiskFull(Later):
    code = "disk-full"
    remedy = "Make room, or look at the disk's health: df -h $(dirname {path}); dmesg"


class Unreachable(Later):
    code = "unreachable"
    remedy = "Check network, DNS and firewall between here and {host}; it is tried again"


class TimedOut(Unreachable):
    code = "timed-out"
    remedy = "Is {host} overloaded, or does a firewall swallow packets? It is tried again"


class ReplyTruncated(Unreachable):
    code = "reply-truncated"
    remedy = "Look at the network and the proxies between here and {host}; it is tried again"


class TlsDates(Later):
    """Later, not Refused: the usual cause is our own clock, which heals by itself."""

    code = "tls-dates"
    remedy = (
        "Check the clock (timedatectl); if it is right, {host} needs a new certificate; "
        "it is tried again"
    )


class ServerBusy(Later):
    """429, 5xx: the server is there, and has trouble of its own."""

    code = "server-busy"
    remedy = "Tell whoever runs {host}; it is tried again"


class EstPending(Later):
    code = "est-pending"
    remedy = "The CA wants to approve this device first (RFC 7030, 4.2.3); it is tried again"


class IotedgeFailed(Later):
    code = "iotedge-failed"
    remedy = "Look at: iotedge check; journalctl -u aziot-identityd -u aziot-certd -u aziot-keyd"


class NotProvisioned(Later):
    code = "not-provisioned"
    remedy = (
        "Look at: journalctl -u aziot-identityd. Is the CA of the operational certificate enrolled "
        "in DPS (a group, or this device by its registration id '{registration_id}')?"
    )


# --- 76: a server said no ------------------------------------------------------------------------


class Refused(AgentError):
    code, status = "refused", os.EX_PROTOCOL
    remedy = "Look at the log of {host}"


class TlsUntrusted(Refused):
    code = "tls-untrusted"
    remedy = (
        "{host} shows a certificate that '{trust}' does not vouch for. Wrong server, interception, "
        "a wrong clock, or the trust anchor needs an update"
    )


class TlsName(Refused):
    code = "tls-name"
    remedy = "{host} shows a certificate for another name: check the URL, and the server's own"


class TlsClientRefused(Refused):
    code = "tls-client-refused"
    remedy = "{host} does not accept our client certificate: does it trust the CA that issued it?"


class TlsFailed(Refused):
    code = "tls-failed"
    remedy = "Does {host} speak TLS 1.2 or newer on this port? Does it want a client certificate?"


class HttpGarbled(Refused):
    code = "http-garbled"
    remedy = "Is {host} an HTTPS server, and is nothing in between that rewrites replies?"


class EstUnauthorized(Refused):
    code = "est-unauthorized"
    remedy = "{host} does not accept our credential: check ldevid.est.auth and the credential"


class EstForbidden(Refused):
    code = "est-forbidden"
    remedy = "{host} knows this device, but will not issue: ask whoever runs the CA"


class EstNotFound(Refused):
    code = "est-not-found"
    remedy = "Check the path of the EST URL, such as https://HOST/.well-known/est[/LABEL]"


class EstBadRequest(Refused):
    code = "est-bad-request"
    remedy = "The CA did not like our request; its log tells why. Does it allow this key type?"


class EstRefused(Refused):
    code = "est-refused"
    remedy = "Look at the log of {host}"


class EstRedirected(Refused):
    code = "est-redirected"
    remedy = "Set the EST URL to where the server really is; it sent us to '{location}'"


class EstGarbled(Refused):
    code = "est-garbled"
    remedy = "Is {host} an EST server, and is nothing in between that rewrites replies?"


class ReplyTooLarge(Refused):
    code = "reply-too-large"
    remedy = "Is {host} an EST server? No reply of one is that large"


class IssuedWrong(Refused):
    """A certificate came back, but not the one that was asked for."""

    code = "issued-wrong"
    remedy = "The CA's profile for these devices must be corrected; the certificate was discarded"


class IssuedForAnotherKey(IssuedWrong):
    code = "issued-for-another-key"


class IssuedByAnother(IssuedWrong):
    code = "issued-by-another-ca"
    remedy = "If this CA is meant, add its root to the file that the trust setting names"


class IssuedWithWrongName(IssuedWrong):
    code = "issued-with-wrong-name"


class IssuedWithWrongDates(IssuedWrong):
    code = "issued-with-wrong-dates"
    remedy = "Check the clock here (timedatectl) and at the CA; the certificate was discarded"


class IssuedAsCa(IssuedWrong):
    code = "issued-as-ca"


def every_error(base: type[AgentError] = AgentError) -> Iterator[type[AgentError]]:
    """`base` and all below it, in the order they are written."""
    yield base
    for child in base.__subclasses__():
        yield from every_error(child)
