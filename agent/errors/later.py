"""Status 75: nobody answered, or it takes time."""

from agent.errors.base import Later


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
