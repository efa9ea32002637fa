"""A quote, read without a TPM or its libraries: TPMS_ATTEST, big-endian (TPM 2.0 Library, part 2,
10.12.8), as TPM2_Quote makes it."""

import struct
from dataclasses import dataclass
from hashlib import sha1, sha256, sha384, sha512

GENERATED, QUOTE = 0xFF544347, 0x8018  # TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
HASHES = {0x0004: sha1, 0x000B: sha256, 0x000C: sha384, 0x000D: sha512}  # TPM_ALG_ID
LARGEST = 2048  # bytes; a real one has about 150
BANKS, SELECT = 16, 4  # at most so many banks of PCRs, and bytes that say which of one


@dataclass(frozen=True)
class Quote:
    """`signer`: the qualified name of the key. `nonce`: qualifyingData. `clock`: milliseconds that
    the TPM was switched on, ever since it was cleared; `resets` and `restarts` of it; `safe`: the
    clock was never more than this. `firmware`: as the maker counts. `pcrs`: which, each with the
    name of its bank; `digest`: over their values, in this order."""

    signer: bytes
    nonce: bytes
    clock: int
    resets: int
    restarts: int
    safe: bool
    firmware: int
    pcrs: tuple[tuple[str, int], ...]
    digest: bytes


def parse(data: bytes) -> Quote:
    """Raises ValueError."""
    if len(data) > LARGEST:
        raise ValueError(f"it has {len(data)} bytes")
    try:
        return _quote(data)
    except struct.error as e:
        raise ValueError("it is cut off") from e


def _quote(data: bytes) -> Quote:
    magic, kind = struct.unpack_from(">IH", data)
    if (magic, kind) != (GENERATED, QUOTE):
        raise ValueError("it is no quote of a TPM")
    signer, at = _sized(data, 6)
    nonce, at = _sized(data, at)
    clock, resets, restarts, safe, firmware = struct.unpack_from(">QIIBQ", data, at)
    if safe > 1:
        raise ValueError("it has a flag that is neither yes nor no")
    pcrs, at = _selection(data, at + 25)
    digest, at = _sized(data, at)
    if at != len(data):
        raise ValueError("something is behind it")
    return Quote(signer, nonce, clock, resets, restarts, bool(safe), firmware, pcrs, digest)


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """A TPM2B, and where it ends."""
    (size,) = struct.unpack_from(">H", data, at)
    found = data[at + 2 : at + 2 + size]
    if len(found) != size:
        raise ValueError("it is cut off")
    return found, at + 2 + size


def _selection(data: bytes, at: int) -> tuple[tuple[tuple[str, int], ...], int]:
    """TPML_PCR_SELECTION, and where it ends."""
    (count,), at = struct.unpack_from(">I", data, at), at + 4
    if count > BANKS:
        raise ValueError(f"it speaks of {count} banks of PCRs")
    found = list[tuple[str, int]]()
    for _ in range(count):
        algorithm, size = struct.unpack_from(">HB", data, at)
        bits = int.from_bytes(data[at + 3 : at + 3 + size], "little")
        if algorithm not in HASHES or size > SELECT or at + 3 + size > len(data):
            raise ValueError("it speaks of PCRs of no known bank")
        bank = HASHES[algorithm]().name
        found += [(bank, number) for number in range(8 * size) if bits >> number & 1]
        at += 3 + size
    return tuple(found), at
