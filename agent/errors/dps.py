"""Status 76: the Device Provisioning Service said no."""

from agent.errors.base import Refused


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
