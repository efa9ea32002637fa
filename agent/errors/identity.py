"""Status 69: the TPM is not the one it should be: its EK, its IDevID, its boot state."""

import os

from agent.errors.base import TpmError


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
