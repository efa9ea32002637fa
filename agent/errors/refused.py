"""Status 76: a server answered, and the answer was no, or made no sense."""

from agent.errors.base import Refused


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
    """A receipt is sound, but an older one than what is known of this device."""

    code = "receipt-older"
    remedy = "Get the present one from the device: tpm2cloud receipt export"


class ReceiptOfAnother(Refused):
    """A receipt is sound, but nothing shows that it is of the same device as the one before it."""

    code = "receipt-of-another"
    remedy = (
        "Compare it with what was kept of the same device (tpm2cloud receipt show FILE). If a disk "
        "was moved, or TPM and IDevID are other ones: it is the receipt of another; without --after"
    )
