"""What an EK certificate says (TCG EK Credential Profile 2.5, 3.2): whose TPM, which model."""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509 import Certificate

from agent.x509 import extension

MANUFACTURER, MODEL, VERSION = (x509.ObjectIdentifier(f"2.23.133.2.{n}") for n in (1, 2, 3))


@dataclass(frozen=True)
class Maker:
    """What the maker says of the TPM: its vendor id as text ("IFX", "STM", "NTC"; TCG Vendor ID
    Registry), the part number, the firmware version. '' for what is not said."""

    manufacturer: str = ""
    model: str = ""
    version: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.manufacturer, self.model, self.version))) or "unnamed"


def maker(certificate: Certificate) -> Maker:
    """From subjectAltName's directoryName (3.2.9). Raises what x509.NONSENSE lists."""
    names = extension(certificate, x509.SubjectAlternativeName)
    found = {
        attribute.oid: str(attribute.value)
        for name in (names.get_values_for_type(x509.DirectoryName) if names else [])
        for attribute in name
    }
    said = (found.get(oid, "") for oid in (MANUFACTURER, MODEL, VERSION))
    manufacturer, model, version = said
    return Maker(vendor(manufacturer), model, version)


def vendor(text: str) -> str:
    """The four bytes of "id:49465800" as the text they are, "IFX"; anything else as it is."""
    if not re.fullmatch("id:[0-9A-Fa-f]{8}", text):
        return text
    name = bytes.fromhex(text[3:]).rstrip(b"\0 ")
    return name.decode() if name.isascii() and name.decode().isprintable() and name else text
