"""Who vouches for a receipt; on any machine, with no TPM and no network.

By the IDevID it is signed by a key that the board's maker has certified. By the IAK it is not: an
EK, which the TPM's maker has certified, cannot sign, so nothing in a file can show that the two are
in one TPM. That takes a challenge, once for a TPM: a secret that only the TPM with that EK, and
with that very IAK in it, can open (TPM2_ActivateCredential; TPM 2.0 Library, part 1, 24).
"""

import hmac
import json
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.x509 import Certificate

from agent import makers, x509, x509_der, x509_ek, x509_path
from agent.errors import (
    ReceiptInvalid,
    ReceiptOfAnother,
    ReceiptOlder,
    ReceiptUnchallenged,
    ReceiptUnproven,
    ReceiptUntrusted,
)
from agent.receipt.lines import PublicKey, Receipt
from agent.x509_der import Issued

SECRET = 32  # bytes: as many as a credential for a key named by SHA-256 may have
# TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 7.3.4, H-2: TPMT_PUBLIC of the IAK up
# to its point. A key with this name signs what the TPM says, and nothing else.
IAK = bytes.fromhex(
    "0023000b000500f2"
    "0020" "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"
    "0010" "0018000b" "0003" "0010"
)  # fmt: skip
ENDORSEMENT = bytes.fromhex("4000000b")  # TPM_RH_ENDORSEMENT is its own name (part 1, 16)
SHA256 = bytes.fromhex("000b")
MAGIC, VERSION = 0xBADCC0DE, 1  # of the files of tpm2-tools


@dataclass(frozen=True)
class Answer:
    """What the device made of a challenge, and what it should have made: as `challenge` wrote it
    (JSON)."""

    given: bytes
    expected: bytes


# --- whose key ---


def proven(receipt: Receipt, trust: Path, answer: Answer | None = None) -> list[str]:
    """What vouches for the key that signed it, in sentences. `trust`: a file of CA certificates.
    Raises TrustUnreadable, ReceiptUntrusted, ReceiptUnproven, ReceiptInvalid."""
    if receipt.header["signer"] == "idevid":
        chain = _by_idevid(receipt, trust)
        whose = f"{x509.describe(chain[0])}, certified by {x509.describe(chain[-1])}"
        return [f"signed by the IDevID of {whose}"]
    path = ek_path(receipt, trust)
    if answer is None:
        raise ReceiptUnproven(
            "cannot tell whose receipt it is: it is signed by an attestation key, and nothing "
            "shows that it is in the TPM whose EK is named"
        )
    _answered(receipt, path[0], answer)
    maker = x509_ek.maker(path[0].read)
    return [
        "signed by an attestation key that signs only what its TPM says",
        f"which is in the TPM of this EK: {maker}, certified by {x509.describe(path[-1].read)}",
    ]


def _by_idevid(receipt: Receipt, trust: Path) -> list[Certificate]:
    try:
        leaf, *others = [x509.parse(der)[0] for der in receipt.idevid]
        same = leaf.public_key() == receipt.key
    except x509.NONSENSE as e:
        raise ReceiptInvalid(f"cannot believe the receipt: its IDevID: {e}") from e
    if not same:
        raise ReceiptInvalid("cannot believe the receipt: it is signed by another key's IDevID")
    try:
        return x509.chain(leaf, x509.anchors(trust), others, datetime.now(UTC))
    except x509.Untrusted as e:
        raise ReceiptUntrusted(f"cannot trust the IDevID that signed the receipt: {e}") from e


# --- which TPM ---


def ek_path(receipt: Receipt, trust: Path) -> list[Issued]:
    """From the EK's certificate to a root of the TPM's maker. Raises TrustUnreadable,
    ReceiptUntrusted, ReceiptUnproven, ReceiptInvalid."""
    if receipt.ek is None or not receipt.ek.certificates:
        raise ReceiptUnproven("cannot tell which TPM signed the receipt: it says nothing of its EK")
    try:
        leaf, *others = [x509_der.read(der) for der in receipt.ek.certificates]
        misuse = x509_ek.misuse(leaf.read)
        x509_ek.maker(leaf.read)
    except x509.NONSENSE as e:
        raise ReceiptInvalid(f"cannot believe the receipt: its EK certificate: {e}") from e
    if misuse:
        raise ReceiptUntrusted(f"cannot trust the EK certificate in the receipt: {misuse}")
    known = makers.read(trust)
    try:
        return x509_path.find(leaf, makers.roots(known), [*known, *others])
    except (x509_path.Broken, ValueError) as e:
        why = e.why if isinstance(e, x509_path.Broken) else e
        raise ReceiptUntrusted(f"cannot trust the EK certificate in the receipt: {why}") from e


def iak_name(key: PublicKey) -> bytes:
    """The name (part 1, 16) that a P-256 key has, if it is the TCG's IAK. Raises ReceiptInvalid."""
    if not (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)):
        raise ReceiptInvalid("cannot believe the receipt: its key is of another kind than an IAK")
    point = key.public_numbers()
    sized = (struct.pack(">H", 32) + each.to_bytes(32, "big") for each in (point.x, point.y))
    return SHA256 + sha256(IAK + b"".join(sized)).digest()


def challenge(receipt: Receipt, trust: Path) -> tuple[bytes, bytes]:
    """For the device, as tpm2_makecredential writes it; and what to keep here, JSON, and secret.
    Raises as `proven` does, and ReceiptUnchallenged."""
    if receipt.header["signer"] != "iak":
        raise ReceiptUnchallenged("cannot challenge the device: its IDevID has signed the receipt")
    path, name = ek_path(receipt, trust), iak_name(receipt.key)
    if receipt.quote.signer != SHA256 + sha256(ENDORSEMENT + name).digest():
        raise ReceiptInvalid("cannot believe the receipt: its key is no primary key")
    secret = secrets.token_bytes(SECRET)
    credential, wrapped = _sealed(receipt, path[0], name, secret)
    head = struct.pack(">IIH", MAGIC, VERSION, len(credential))
    sealed = head + credential + struct.pack(">H", len(wrapped)) + wrapped
    return sealed, json.dumps({"secret": secret.hex(), **_about(receipt, path[0])}).encode() + b"\n"


def _about(receipt: Receipt, leaf: Issued) -> dict[str, str]:
    """Whom a challenge is for. With the EK's name, for who verifies does not look into the EK."""
    name = receipt.ek.name.hex() if receipt.ek else ""
    return {"ek": leaf.fingerprint, "name": name, "key": iak_name(receipt.key).hex()}


def _sealed(receipt: Receipt, leaf: Issued, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    from agent.tpm import make_credential, unmarshalled  # its libraries; but no TPM is opened

    try:
        ek = unmarshalled(receipt.ek.public if receipt.ek else b"")
    except ValueError as e:
        raise ReceiptInvalid(f"cannot believe the receipt: its EK: {e}") from e
    if ek.key != leaf.read.public_key():
        raise ReceiptInvalid("cannot believe the receipt: its EK is not what its certificate says")
    return make_credential(ek, name, secret)


def _answered(receipt: Receipt, leaf: Issued, answer: Answer) -> None:
    try:
        kept = json.loads(answer.expected)
        about = {name: kept[name] for name in ("ek", "name", "key")}
        secret = bytes.fromhex(kept["secret"])
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        why = "what was kept of the challenge is damaged"
        raise ReceiptUnproven(f"cannot tell whose receipt it is: {why}") from e
    if about != _about(receipt, leaf):
        why = "the challenge was for another device"
        raise ReceiptUnproven(f"cannot tell whose receipt it is: {why}")
    if len(secret) != SECRET or not hmac.compare_digest(secret, answer.given):
        raise ReceiptUnproven("cannot tell whose receipt it is: the answer is not the right one")


# --- the newest? ---


def follows(
    receipt: Receipt, former: bytes | None, earlier: Receipt | None, least: int
) -> list[str]:
    """Nothing in a receipt tells that there is a newer one; what is known besides does. `former`,
    `earlier`: one that was kept, as it came, and read. `least`: lines. In sentences, by what it is
    of the same device, if another key has signed. Raises ReceiptOlder, ReceiptOfAnother."""
    if receipt.length < least:
        why = f"it has {receipt.length} lines, and there were {least}"
        raise ReceiptOlder(f"cannot take this receipt for the present one: {why}")
    if former is None or earlier is None or receipt.body.startswith(earlier.body):
        return []
    told = _same_device(receipt, earlier)
    if receipt.header["after"] != sha256(former).hexdigest():
        why = "it does not go on from the one that was kept"
        raise ReceiptOlder(f"cannot take this receipt for the present one: {why}")
    return told


def _same_device(receipt: Receipt, earlier: Receipt) -> list[str]:
    """A disk takes its receipt with it, and the next one is begun after that: by another board."""
    if receipt.header["key"] == earlier.header["key"]:
        return []
    before, now = _signer(earlier), _signer(receipt)
    if receipt.ek is None or earlier.ek is None or receipt.ek.name != earlier.ek.name:
        raise ReceiptOfAnother(
            "cannot take this receipt for one of the same device: the one that was kept is signed "
            f"by {before}, this one by {now}, and they do not name the same EK"
        )
    return [f"names the same EK as the one that was kept, which is signed by {before}"]


def _signer(receipt: Receipt) -> str:
    digest = sha256(x509.spki(receipt.key)).hexdigest()
    try:
        of = f"the IDevID of {x509.describe(x509.parse(receipt.idevid[0])[0])}, "
    except (IndexError, *x509.NONSENSE):
        of = ""
    return f"{of}key sha256:{digest}"
