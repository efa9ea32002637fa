"""Faults at DPS, at the hub and of IoT Edge, and what each gets."""

from datetime import timedelta

from tests.lab import fault_cloud as cloud
from tests.lab import fault_servers as servers
from tests.lab.fault import Row
from tests.lab.fault_cloud import another_hub, crashing, dps, failing, group_disabled, hub
from tests.lab.fault_net import away, breaks, no_dns, unknown_name
from tests.lab.fault_servers import bare, chain_gap, instead, showing, wrong_login
from tests.lab.hostile import cut, http, moved, reset, whole

DAY = timedelta(days=1)
REGISTER = "register?api-version=2021-06-01"
BACK, MENDED = "it comes back", "whoever runs it has mended it"
PASSWORD = "edge, password"  # noqa: S105 (a kind of device)
DEVICE, DEVICE_TPM, TPM = "device", "device, TPM", "edge, TPM"
AGAIN = "[Ii]t is tried again"


def either(odd: str) -> dict[str, str]:
    return {"challenge": odd, "register": odd}


ROWS = [
    # the way to DPS
    Row("DPS is away", DEVICE_TPM, "unreachable", away("dps"), AGAIN, BACK),
    Row("DPS resets connections", DEVICE, "unreachable", breaks("dps", 0, "reset"), AGAIN, BACK),
    Row("DPS accepts, and nothing comes", DEVICE_TPM, "timed-out", breaks("dps", 0, "stall"),
        AGAIN, BACK),
    Row("DPS has a wrong name", DEVICE_TPM, "dns-failed", unknown_name("dps"), "the right name",
        "it is set right"),
    Row("No DNS server knows DPS", DEVICE, "dns-failed", no_dns("dps"),
        "a DNS server here that knows it", "one does"),
    Row("TLS is intercepted", DEVICE_TPM, "tls-untrusted", servers.intercepted, "interception",
        "this device is let through without"),
    Row("The certificate of DPS has expired", DEVICE_TPM, "tls-dates",
        showing("dps", starts=-9 * DAY, lasts=DAY), "needs a new certificate", "it has a new one"),
    Row("The certificate of DPS is for another name", DEVICE, "tls-name",
        showing("dps", name="other.example"), "and the server's own", "it has the right one"),
    Row("A gap in the chain of DPS", DEVICE_TPM, "tls-untrusted", chain_gap("dps"),
        "Wrong server", "the server sends the whole chain"),
    Row("No TLS on the port of DPS", DEVICE, "tls-failed", bare("dps", plain=True),
        "TLS 1.2 or newer", "it is set right"),
    Row("A captive portal in the place of DPS", DEVICE_TPM, "captive-portal",
        instead("dps", whole(servers.PORTAL), REGISTER), "without a login page", "it lets us pass"),
    Row("A redirect to a login page", DEVICE, "dps-redirected",
        instead("dps", whole(moved("https://portal.example/login", 302)), REGISTER),
        "let this device through", "it lets us pass"),
    Row("511: a network wants a login", DEVICE_TPM, "captive-portal", dps(odd=either("511")),
        "without a login page", "it lets us pass"),
    Row("An answer of DPS that breaks off", DEVICE_TPM, "reply-truncated",
        instead("dps", cut(http(401, b"x" * 100)), REGISTER), AGAIN, MENDED),
    Row("The connection to DPS ends without an answer", DEVICE, "unreachable",
        instead("dps", reset, REGISTER), AGAIN, MENDED),
    Row("JSON of DPS cut in the middle", DEVICE_TPM, "dps-garbled", dps(odd=either("truncated")),
        "Is .* a DPS", MENDED),
    # who is asked for, and is it enrolled
    Row("Another ID scope", DEVICE_TPM, "dps-scope", cloud.scope, r"Set dps\.id_scope",
        "it is set right"),
    Row("Another ID scope, with a certificate", DEVICE, "dps-scope", cloud.scope,
        r"Set dps\.id_scope", "it is set right"),
    Row("An api-version that DPS does not know", DEVICE, "dps-api-version", cloud.api_version,
        r"Take dps\.api_version out", "it is taken out"),
    Row("The TPM is not enrolled", DEVICE_TPM, "dps-not-enrolled", cloud.not_enrolled,
        "Enrol", "it is enrolled"),
    Row("The enrolment is disabled", DEVICE_TPM, "dps-disabled", cloud.disabled,
        "Enable the enrolment", "it is enabled"),
    Row("Another TPM is enrolled", DEVICE_TPM, "dps-bad-request", cloud.other_ek,
        "must be this device's", "this one is"),
    Row("The enrolment group is disabled", DEVICE, "dps-disabled", group_disabled("owner"),
        "Enable the enrolment", "it is enabled"),
    Row("Another certificate is enrolled", DEVICE, "dps-unauthorized", cloud.other_certificate,
        "Is the CA of the device's certificate enrolled", "that enrolment is deleted"),
    # DPS itself
    Row("DPS is busy", DEVICE_TPM, "dps-throttled", cloud.busy, AGAIN,
        "the time that it named passes"),
    Row("DPS has trouble", DEVICE, "dps-trouble", dps(odd=either("500")), AGAIN, BACK),
    Row("DPS forgets what it had begun", DEVICE, "dps-forgot", dps(forgets=True), "registers anew",
        "it does not any more"),
    Row("DPS has no hub", DEVICE_TPM, "dps-no-hub", failing(400208), "Link an IoT Hub",
        "one is linked"),
    Row("The hub does not let DPS in", DEVICE, "dps-hub-denied", failing(400209),
        "Repair the link", "it is repaired"),
    Row("DPS fails otherwise", DEVICE_TPM, "dps-failed", failing(400999),
        "Look at the enrolment", MENDED),
    Row("The key from DPS is for another TPM", DEVICE_TPM, "dps-key-of-another-tpm",
        dps(challenge="other-ek"), "Compare the endorsement key", MENDED),
    Row("The key from DPS is damaged", DEVICE_TPM, "dps-key-invalid", dps(challenge="truncated"),
        "rewrite replies", MENDED),
    Row("The hub key is damaged", DEVICE_TPM, "dps-key-not-taken",
        dps(hub_key="flipped-private"), "rewrite replies", MENDED),
    Row("DPS sends no hub key", DEVICE_TPM, "dps-no-hub-key", dps(hub_key="missing"),
        "enrolled by TPM", MENDED),
    Row("DPS gives a name with a wildcard", DEVICE, "dps-device-name",
        dps(state={"deviceId": "plus+plus"}), r"without \+ and #", "it gives another"),
    Row("The clock is two hours behind that of DPS", DEVICE_TPM, "dps-clock", dps(skew=7200),
        "Set the clock", "both agree"),
    # the hub
    Row("The hub is away", DEVICE_TPM, "hub-unreachable", hub(close=True), "TCP 8883", BACK),
    Row("The hub does not let the device in", DEVICE, "hub-refused", cloud.disabled_at_hub,
        "there and enabled", "it is enabled there"),
    Row("The hub has trouble", DEVICE_TPM, "server-busy", hub(refuse=3), AGAIN, BACK),
    Row("The hub is not in DNS", DEVICE, "dns-failed", another_hub("nobody.invalid"),
        "the right name", "DPS assigns the right one"),
    # IoT Edge: what it does itself, it says itself
    Row("Another ID scope, with IoT Edge", "edge", "iotedge-failed", cloud.scope,
        r"Set dps\.id_scope", "it is set right", verdict="dps-scope"),
    Row("DPS is away, with IoT Edge", "edge", "iotedge-failed", away("dps"), AGAIN, BACK,
        verdict="unreachable"),
    Row("DPS has a wrong name, with IoT Edge", "edge", "iotedge-failed", unknown_name("dps"),
        "the right name", "it is set right", verdict="dns-failed"),
    Row("TLS is intercepted, with IoT Edge", "edge", "iotedge-failed", servers.intercepted,
        "interception", "this device is let through without", verdict="tls-untrusted"),
    Row("The operational EST server is away", "edge", "iotedge-failed", away("operational"), AGAIN,
        BACK, verdict="unreachable"),
    Row("The operational EST server is mute", "edge", "iotedge-failed",
        bare("operational", mute=True), AGAIN, MENDED, verdict="timed-out"),
    Row("The operational EST server has a wrong name", "edge", "iotedge-failed",
        unknown_name("operational"), "the right name", "it is set right", verdict="dns-failed"),
    Row("IoT Edge's password is wrong", PASSWORD, "iotedge-failed",
        wrong_login("operational-password"), "the credential", "the right one is given",
        verdict="est-unauthorized"),
    Row("The group of the operational CA is disabled", "edge", "iotedge-failed",
        group_disabled("operations"), "iotedge check", "it is enabled"),
    Row("The TPM is not enrolled, with IoT Edge", TPM, "attestation-failed", cloud.not_enrolled,
        "Enrol", "it is enrolled", verdict="dps-not-enrolled"),
    Row("The enrolment is disabled, with IoT Edge", TPM, "attestation-failed", cloud.disabled,
        "Enable the enrolment", "it is enabled", verdict="dps-disabled"),
    Row("Another TPM is enrolled, with IoT Edge", TPM, "attestation-failed", cloud.other_ek,
        "must be this device's", "this one is", verdict="dps-bad-request"),
    Row("A key index that IoT Edge does not take", TPM, "aziot-config-invalid",
        cloud.hub_key_index, "Repair", "it is a number"),
    Row("IoT Edge's identity service crashes", "edge", "iotedge-failed",
        crashing("aziot-identityd"), "iotedge check", "it is repaired"),
    Row("IoT Edge's certificate service crashes", "edge", "iotedge-failed",
        crashing("aziot-certd"), "iotedge check", "it is repaired"),
]  # fmt: skip
