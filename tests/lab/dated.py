"""Certificates for any dates, past or to come: for what is asked what it would say then."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate

from tests.lab import pki

DAY = timedelta(days=1)
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 11, tzinfo=UTC)  # 100 days
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5
KEY = pki.new_key()


class Ca:
    """Valid from the day before START."""

    def __init__(self, title: str, above: "Ca | None" = None, until: datetime = FOREVER) -> None:
        self.name, self.key = pki.name(title), pki.new_key()
        by = above or self
        self.certificate = by.issue(self.key, START - DAY, until, subject=self.name, ca=True)

    def issue(
        self,
        key: pki.PrivateKey = KEY,
        start: datetime = START,
        end: datetime = END,
        *,
        subject: x509.Name | None = None,
        ca: bool = False,
        extra: x509.ExtensionType | None = None,
    ) -> Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or pki.name("device-1"))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(pki.usage(ca=ca), critical=True)
        )
        basic = x509.BasicConstraints(ca=ca, path_length=None)
        return builder.add_extension(extra or basic, critical=True).sign(self.key, hashes.SHA256())
