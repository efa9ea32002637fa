"""TCG_CSR_IDEVID as a CA reads it; the specification's names, none of the agent's code.

TCG "TPM 2.0 Keys for Device Identity and Attestation", 1.0 revision 12, 13.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.lab import tpm_wire
from tests.lab.tpm_wire import Reader

LARGEST = 0x10000
FIELDS = (
    "prodModel",
    "prodSerial",
    "prodCaData",
    "bootEvntLog",
    "ekCert",
    "attestPub",
    "atCreateTkt",
    "atCertifyInfo",
    "atCertifyInfoSignature",
    "signingPub",
    "sgnCertifyInfo",
    "sgnCertifyInfoSignature",
    "pad",
)
RSA_OID, ECDSA_OID = "06092a864886f70d01010b", "06082a8648ce3d040302"


class Refused(Exception):
    """`reason` is one word; one for each thing that can be wrong."""

    def __init__(self, reason: str, why: object = "") -> None:
        super().__init__(f"{reason}: {why}" if why else reason)
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """TCG_CSR_IDEVID, taken apart: `fields` by their names in 13.1."""

    signed: bytes
    signature: bytes
    fields: Mapping[str, bytes]


def parse(data: bytes) -> Request:
    if len(data) > LARGEST:
        raise Refused("oversized", len(data))
    reader = Reader(data)
    try:
        version, size, signature_size = (reader.number(4) for _ in range(3))
        if version != 0x01000100:
            raise Refused("version", hex(version))
        signed, signature = reader.take(size), reader.take(signature_size)
        reader.end()
    except ValueError as e:
        raise Refused("structure", e) from e
    return Request(signed, signature, _contents(signed))


def _contents(signed: bytes) -> Mapping[str, bytes]:
    reader = Reader(signed)
    try:
        version, algorithm = reader.number(4), reader.number(4)
        if version != 0x00000100:
            raise Refused("version", hex(version))
        if algorithm not in tpm_wire.HASHES:
            raise Refused("hash-algorithm", hex(algorithm))
        digest = reader.sized(4)
        if digest != tpm_wire.digest(algorithm, reader.rest):
            raise Refused("digest")
        sizes = [reader.number(4) for _ in FIELDS]
        fields = {name: reader.take(size) for name, size in zip(FIELDS, sizes, strict=True)}
        reader.end()
    except ValueError as e:
        raise Refused("structure", e) from e
    if len(signed) % 16 or len(fields["pad"]) > 15:
        raise Refused("padding", len(signed))
    return fields


def signature_value(der: bytes, *, of_rsa: bool) -> bytes:
    """Of SEQUENCE { SEQUENCE { algorithm, parameters }, BIT STRING }."""
    algorithm = f"300d{RSA_OID}0500" if of_rsa else f"300a{ECDSA_OID}"
    try:
        outer = Reader(der)
        inside = Reader(_tlv(outer, 0x30))
        outer.end()
        if inside.take(len(algorithm) // 2).hex() != algorithm:
            raise Refused("request-algorithm", der[:20].hex())
        bits = _tlv(inside, 0x03)
        inside.end()
    except ValueError as e:
        raise Refused("request-algorithm", e) from e
    if bits[:1] != b"\0":
        raise Refused("request-algorithm", "a signature of no whole bytes")
    return bits[1:]


def _tlv(reader: Reader, tag: int) -> bytes:
    if (found := reader.number(1)) != tag:
        raise ValueError(f"{found:#x} in place of {tag:#x}")
    if (size := reader.number(1)) >= 0x80:
        width = size & 0x7F
        size = reader.number(width)
        if size < max(0x80, 1 << 8 * (width - 1)):
            raise ValueError(f"{size} in {width} bytes")  # DER has but one way to say it
    return reader.take(size)
