"""How a receipt is written: lines of canonical JSON, each with the SHA-256 of the one before, and a
last one with a quote by the TPM over all of them (docs/receipt.md says it for others to check).

What is here needs no TPM, and knows of no device. Canonical: ASCII, keys sorted, no blanks, no
number but integers; so each byte of a line counts, and there is one way to write what it says. The
digest of a line is over its bytes, the line end with them.
"""

import binascii
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.deviceid import registration_ids
from agent.errors import ReceiptInvalid, ReceiptNamesEk
from agent.receipt import attest
from agent.receipt.attest import Quote

FORMAT = 1
FIRST = "0" * 64  # what is before the first line
LARGEST = 8 << 20  # bytes of a receipt
SALT = 32  # bytes
Line = dict[str, Any]
PublicKey = RSAPublicKey | EllipticCurvePublicKey

HEADER: Mapping[str, tuple[type, ...]] = {
    "receipt": (int,),
    "n": (int,),
    "previous": (str,),
    "after": (str, type(None)),
    "signer": (str,),
    "key": (str,),
    "idevid": (list, type(None)),
    "ek": (str, type(None)),
    "srk": (str, type(None)),
}
EVENT: Mapping[str, tuple[type, ...]] = {
    "n": (int,),
    "previous": (str,),
    "at": (str,),
    "clock": (dict, type(None)),
    "did": (list,),
    "facts": (dict, type(None)),
}
SEAL: Mapping[str, tuple[type, ...]] = {
    "n": (int,),
    "previous": (str,),
    "quote": (str,),
    "signature": (str,),
    "pcrs": (list,),
}
OPENING = {"certificates", "public", "salt"}
SIGNERS = {"idevid": True, "iak": False}  # whether somebody has certified it


@dataclass(frozen=True)
class Ek:
    """What a receipt says of the EK: TPM2B_PUBLIC, and its certificate and the CAs that the TPM
    held besides, DER as they came; none, if the TPM's maker left none. `salt`: 32 random bytes."""

    public: bytes
    certificates: tuple[bytes, ...]
    salt: bytes

    @property
    def name(self) -> bytes:
        """nameAlg, and the digest of TPMT_PUBLIC (TPM 2.0 Library, part 1, 16). Raises
        ValueError."""
        algorithm = attest.HASHES.get(int.from_bytes(self.public[4:6], "big"))
        if algorithm is None:
            raise ValueError("the EK's name is of no known kind")
        return self.public[4:6] + bytes(algorithm(self.public[2:]).digest())

    def written(self) -> bytes:
        """What the header has the SHA-256 of."""
        found = {"certificates": [*map(text, self.certificates)], "public": text(self.public)}
        return canonical({**found, "salt": text(self.salt)})


@dataclass(frozen=True)
class Receipt:
    """One that holds together: nothing in it was changed since a key signed it. Whose key that is,
    it does not say (agent/receipt/proof.py). `ek` is None where it is withheld."""

    header: Line
    events: tuple[Line, ...]
    quote: Quote
    pcrs: Mapping[tuple[str, int], str]
    key: PublicKey
    idevid: tuple[bytes, ...]
    ek: Ek | None
    body: bytes  # all lines but the last

    @property
    def length(self) -> int:
        """Lines, the last one with them."""
        return len(self.events) + 2


# --- writing ---


def canonical(value: Mapping[str, Any]) -> bytes:
    """Raises ValueError for what has no canonical form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def chained(before: bytes, new: Iterable[Line]) -> bytes:
    """The lines in `before`, and the new ones behind them."""
    for each in new:
        before += canonical(each | _link(before)) + b"\n"
    return before


def sealed(
    body: bytes, quote: bytes, signature: bytes, pcrs: Sequence[bytes], ek: Ek | None
) -> bytes:
    """The whole receipt. `quote`: TPMS_ATTEST, for which the TPM was given `nonce(body)`;
    `signature`: DER, or RSASSA's; `pcrs`: their values, in the quote's order."""
    shown = {"ek": text(ek.written())} if ek else {}
    seal = {"quote": text(quote), "signature": text(signature), "pcrs": [p.hex() for p in pcrs]}
    return chained(body, [{**seal, **shown}])


def nonce(body: bytes) -> bytes:
    """What the TPM signs as qualifyingData."""
    return sha256(body).digest()


def without_ek(data: bytes) -> bytes:
    """A copy that withholds the EK, and is as good otherwise. Raises ReceiptInvalid; ReceiptNamesEk
    if the registration id is made of the EK."""
    found = parse(data)
    last = json.loads(data[len(found.body) :])
    if found.ek and any(name.encode() in found.body.lower() for name in _ids(found.ek)):
        raise ReceiptNamesEk("cannot withhold the EK: this device is named by it in the receipt")
    return found.body + canonical({name: last[name] for name in last if name != "ek"}) + b"\n"


def _ids(ek: Ek) -> list[str]:
    return [*registration_ids(ek.public).values(), ek.name.hex()]


def _link(before: bytes) -> Line:
    lines = before.splitlines(keepends=True)
    return {"n": len(lines), "previous": sha256(lines[-1]).hexdigest() if lines else FIRST}


def text(data: bytes) -> str:
    return b64encode(data).decode()


# --- reading ---


def parse(data: bytes) -> Receipt:
    """Raises ReceiptInvalid for one that does not hold together."""
    try:
        return _parse(data)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ReceiptInvalid(f"cannot believe the receipt: {e}") from e


def _parse(data: bytes) -> Receipt:
    rows = _rows(data)
    lines = [_line(number, row) for number, row in enumerate(rows)]
    _follow(rows, lines)
    header, *events, seal = lines
    _shaped(header, HEADER)
    if header["receipt"] != FORMAT:
        raise ValueError(f"it is of format {header['receipt']}, not {FORMAT}")
    if SIGNERS.get(header["signer"]) is not bool(header["idevid"]):
        raise ValueError("its certificate is not of the kind of its signer")
    for event in events:
        _shaped(event, EVENT)
        if not all(_texts(each, 2) for each in (event["facts"], event["clock"], *event["did"])):
            raise ValueError(f"line {event['n']} says what is no text")
    _shaped({name: seal[name] for name in seal if name != "ek" or seal[name] is None}, SEAL)
    body = b"".join(rows[:-1])
    key = _key(blob(header["key"]))
    quote = _quoted(body, seal, key)
    idevid = tuple(map(blob, header["idevid"] or ()))
    pcrs, ek = _pcrs(quote, seal["pcrs"]), _opened(header["ek"], seal.get("ek"))
    return Receipt(header, tuple(events), quote, pcrs, key, idevid, ek, body)


def _rows(data: bytes) -> list[bytes]:
    if len(data) > LARGEST:
        raise ValueError(f"it has {len(data)} bytes")
    if not data.endswith(b"\n"):
        raise ValueError("it does not end with its last line")
    rows = [row + b"\n" for row in data.split(b"\n")[:-1]]
    if len(rows) < 2:
        raise ValueError("it has no more than one line")
    return rows


def _line(number: int, row: bytes) -> Line:
    """A line says each thing once, in the one way that it is written in."""
    try:
        found = json.loads(row)
        if isinstance(found, dict) and canonical(found) + b"\n" == row:
            return found
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"line {number} is not as it was written")


def _follow(rows: Sequence[bytes], lines: Sequence[Line]) -> None:
    before = FIRST
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        if line.get("n") != number or line.get("previous") != before:
            raise ValueError(f"line {number} does not follow the one before")
        before = sha256(row).hexdigest()


def _shaped(line: Line, shape: Mapping[str, tuple[type, ...]]) -> None:
    if set(line) != set(shape) or not all(type(line[name]) in shape[name] for name in shape):
        raise ValueError(f"line {line.get('n')} has other parts than it must have")


def _texts(found: object, deep: int) -> bool:
    """Whether it is a text, none, or so deep objects of such: whoever shows it needs no more."""
    if isinstance(found, dict):
        return deep > 0 and all(_texts(each, deep - 1) for each in found.values())
    return found is None or isinstance(found, str)


def blob(found: object) -> bytes:
    """Base64 (RFC 4648, 4), in the one way that it is written in. Raises ValueError."""
    try:
        data = b64decode(str(found), validate=True)
    except binascii.Error as e:
        raise ValueError(f"something is no base64 ({e})") from e
    if found != text(data):
        raise ValueError("something is base64, but not as it was written")
    return data


def _key(data: bytes) -> PublicKey:
    key = load_der_public_key(data)
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise ValueError("its key is of no known kind")
    return key


def _quoted(body: bytes, seal: Line, key: PublicKey) -> Quote:
    quote, signature = blob(seal["quote"]), blob(seal["signature"])
    try:
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, quote, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, quote, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as e:
        raise ValueError("its signature does not verify") from e
    found = attest.parse(quote)
    if found.nonce != nonce(body):
        raise ValueError("its signature is over something else")
    return found


def _pcrs(quote: Quote, values: Sequence[object]) -> dict[tuple[str, int], str]:
    """The digest in a quote is of the hash of its signature: SHA-256. It is over all of them, and
    does not tell where one ends."""
    if len(values) != len(quote.pcrs) or not all(isinstance(value, str) for value in values):
        raise ValueError("it has other PCRs than were quoted")
    shown = [str(value) for value in values]
    found = [bytes.fromhex(value) for value in shown]
    sizes = [hashlib.new(bank).digest_size for bank, _ in quote.pcrs]
    written = [each.hex() for each in found] == shown and [*map(len, found)] == sizes
    if not written or sha256(b"".join(found)).digest() != quote.digest:
        raise ValueError("its PCRs have other values than were quoted")
    return dict(zip(quote.pcrs, shown, strict=True))


def _opened(commitment: str | None, shown: object) -> Ek | None:
    if shown is None:
        return None
    data = blob(shown)
    if sha256(data).hexdigest() != commitment:
        raise ValueError("what it says of the EK is not what was signed")
    found = _line(0, data + b"\n")
    if set(found) != OPENING or not isinstance(found["certificates"], list):
        raise ValueError("what it says of the EK has other parts than it must have")
    ek = Ek(blob(found["public"]), tuple(map(blob, found["certificates"])), blob(found["salt"]))
    if len(ek.salt) != SALT:
        raise ValueError("what it says of the EK has no salt")
    _ = ek.name
    return ek
