"""Who signs a receipt: the IDevID; on a device without one the IAK, which the TPM makes anew.

Both are of the endorsement hierarchy, so they are the board's, and stay what they are whoever owns
it. The IAK of TCG's template (TPM 2.0 Keys for Device Identity and Attestation 1.0, 7.3.4) is the
same key each time, so there is nothing to keep; nobody has certified it (docs/receipt.md).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from agent import x509
from agent.config import Config
from agent.errors import IdevidInvalid, TpmError
from agent.receipt import attest, lines
from agent.receipt.lines import Ek
from agent.steps import idevid
from agent.tpm import Public, Tpm, Transient, pcr
from agent.tpm.templates import KeyType

TRIES = 3  # a register may be extended after it was quoted, and before it is read
IAK: KeyType = "ecc256"  # every TPM can make it (TCG PC Client Platform TPM Profile 1.05, 4.7)


@dataclass(frozen=True)
class Signer:
    """`kind`: "idevid" or "iak". `spki`: DER. `leaf`: the certificate, DER, if there is one;
    `chain`: it, and those above it."""

    kind: str
    key: int | Transient
    spki: bytes
    leaf: bytes | None
    chain: Callable[[], list[Certificate]]


@contextlib.contextmanager
def signer(conf: Config, tpm: Tpm) -> Iterator[Signer]:
    """Raises TpmError, and what reading the IDevID certificate does."""
    if conf.dps.attestation == "x509" and tpm.public(idevid.HANDLE) is not None:
        yield _idevid(conf, tpm)
    else:
        with tpm.iak(IAK) as key:
            yield Signer("iak", key, _spki(key.public), None, list)


def _idevid(conf: Config, tpm: Tpm) -> Signer:
    leaf = idevid.certificate(tpm, conf.idevid.certificate)
    idevid.check_key(tpm, leaf)
    der = leaf.public_bytes(Encoding.DER)
    spki = x509.spki(leaf.public_key())
    return Signer(
        "idevid", idevid.HANDLE, spki, der, lambda: idevid.trusted(leaf, conf.idevid.trust)
    )


def _spki(public: Public) -> bytes:
    if public.key is None:
        raise IdevidInvalid("cannot sign a receipt: the TPM's attestation key has no public half")
    return x509.spki(public.key)


def sealed(tpm: Tpm, by: Signer, body: bytes, pcrs: str, ek: Ek | None) -> bytes:
    """The lines in `body`, with the TPM's word for them behind. Raises TpmError."""
    bank, _, numbers = pcrs.partition(":")
    wanted = pcr.Selection(bank, tuple(sorted(set(map(int, numbers.split(","))))))
    for _ in range(TRIES):
        quote, signature = tpm.quote(by.key, lines.nonce(body), wanted)
        found = _read(quote)
        values = _values(tpm, found, bank)
        if sha256(b"".join(values)).digest() == found.digest:
            return lines.sealed(body, quote, signature, values, ek)
    raise TpmError(f"cannot sign a receipt: the registers {wanted} do not stay as they are", rc="")


def _read(quote: bytes) -> attest.Quote:
    try:
        return attest.parse(quote)
    except ValueError as e:
        raise TpmError(f"cannot sign a receipt: what the TPM says of itself: {e}", rc="") from e


def _values(tpm: Tpm, quote: attest.Quote, bank: str) -> list[bytes]:
    """Of those registers that the TPM has."""
    numbers = tuple(number for _, number in quote.pcrs)
    found = pcr.read(tpm, pcr.Selection(bank, numbers)) if numbers else {}
    return [found[number] for number in numbers]
