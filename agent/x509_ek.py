"""What an EK certificate says (TCG EK Credential Profile 2.5, 3): whose TPM, and what it is for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509 import Certificate
from cryptography.x509.oid import AuthorityInformationAccessOID

from agent.x509 import extension

EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
MANUFACTURER, MODEL, VERSION = (x509.ObjectIdentifier(f"2.23.133.2.{n}") for n in (1, 2, 3))


@dataclass(frozen=True)
class Maker:
    """What the maker says of the TPM: its vendor id as text ("IFX", "STM", "NTC"; TCG Vendor ID
    Registry), the part number, the firmware version. '' for what is not said."""

    manufacturer: str = ""
    model: str = ""
    version: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.manufacturer, self.model, self.version))) or "no name"


def maker(certificate: Certificate) -> Maker:
    """From subjectAltName's directoryName (3.2.9). Raises what x509.NONSENSE lists."""
    names = extension(certificate, x509.SubjectAlternativeName)
    found = {
        attribute.oid: str(attribute.value)
        for name in (names.get_values_for_type(x509.DirectoryName) if names else [])
        for attribute in name
    }
    manufacturer, model, version = (_line(found.get(o, "")) for o in (MANUFACTURER, MODEL, VERSION))
    return Maker(vendor(manufacturer), model, version)


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def vendor(text: str) -> str:
    """The four bytes of "id:49465800" as the text they are, "IFX"; anything else as it is."""
    if not re.fullmatch("id:[0-9A-Fa-f]{8}", text):
        return text
    name = bytes.fromhex(text[3:]).rstrip(b"\0 ")
    return name.decode() if name.isascii() and name.decode().isprintable() and name else text


def misuse(certificate: Certificate) -> str | None:
    """Why it is not for an EK, which decrypts and signs nothing; None if it is.

    The extensions that say so are required (3.2.12, 3.2.16), but some makers leave them out; what
    they say is binding, if they are there.
    """
    basic = extension(certificate, x509.BasicConstraints)
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    usage = extension(certificate, x509.KeyUsage)
    if basic and basic.ca:
        return "it is a CA's"
    if purposes and EK_CERTIFICATE not in purposes:
        return "it is for something else (no 2.23.133.8.1 among its extended key usages)"
    if usage and not (usage.key_encipherment or usage.key_agreement):
        return "its key may not be used to encrypt anything"
    return None


def says_it_is_for_an_ek(certificate: Certificate) -> bool:
    return extension(certificate, x509.ExtendedKeyUsage) is not None


def issuer_urls(certificate: Certificate) -> Iterator[str]:
    """Where its issuer's certificate is, by http or https (RFC 5280, 4.2.2.1: also LDAP)."""
    for each in extension(certificate, x509.AuthorityInformationAccess) or ():
        place = each.access_location
        if each.access_method != AuthorityInformationAccessOID.CA_ISSUERS:
            continue
        if isinstance(place, x509.UniformResourceIdentifier) and place.value.startswith("http"):
            yield place.value
