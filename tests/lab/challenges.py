"""Keys from DPS as no DPS sends them, each tried on a TPM that must bear it.

    python -m tests.lab.challenges 10000 SEED

makes a TPM, and says what became of each.
"""

import contextlib
import hmac
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.errors import ChallengeInvalid
from agent.tpm import HUB_KEY, Challenge, Tpm, Transient
from tests.lab import dps_tpm, swtpm

EK, SRK = 0x81010001, 0x81000001
DATA = b"scope%2Fregistrations%2Fsensor-1\n1700000000"
KEPT, OTHER = bytes(range(32)), bytes(range(64, 112))
SIZES = (0, 1, 2, 31, 33, 0x7FFF, 0x8000, 0xFFFF)
Parts = list[bytes]


def parents(tpm: Tpm, ek: int = EK, srk: int = SRK) -> dps_tpm.Parents:
    """What DPS is told of a TPM; the SRK is made, if there is none."""
    if tpm.public(srk) is None:
        with tpm.srk("rsa2048") as made:
            tpm.persist(made, srk)
    blobs = [found.blob for handle in (ek, srk) if (found := tpm.public(handle)) is not None]
    return dps_tpm.Parents(*blobs)


def of(tpm: Tpm, key: bytes = KEPT) -> bytes:
    """The authenticationKey that DPS sends to this TPM."""
    return b"".join(dps_tpm.wrapped(parents(tpm), key))


def socket(tpm: Tpm) -> Path:
    return Path(tpm.tcti.partition("=")[2])


def signs(tpm: Tpm, key: bytes, where: int | Transient = HUB_KEY) -> bool:
    return tpm.hmac(where, DATA) == hmac.digest(key, DATA, "sha256")


@contextlib.contextmanager
def another(tpm: Tpm, key: bytes = OTHER) -> Iterator[Transient]:
    with tpm.load(SRK, *tpm.imported(of(tpm, key), EK, SRK)) as loaded:
        yield loaded


# --- what can be wrong with one ---


class Spoiler:
    """Blobs made of sound ones by chance; the same for the same seed."""

    def __init__(self, seed: int, sound: Sequence[Parts]) -> None:
        self.chance, self._sound = random.Random(seed), sound  # noqa: S311 (no secret)
        self._ways: Sequence[Callable[[Parts], bytes]] = (
            self._flipped, self._cut, self._resized, self._spliced, self._shuffled, self._inserted,
            self._of_chance,
        )  # fmt: skip

    def blob(self) -> bytes:
        parts = list(self.chance.choice(self._sound))
        return self.chance.choice(self._ways)(parts)

    def _flipped(self, parts: Parts) -> bytes:
        """A few bits, anywhere, or in one part, so that small ones get their share."""
        at = self.chance.randrange(len(parts))
        if self.chance.random() < 0.5:
            parts[at] = self._flip(parts[at])
            return b"".join(parts)
        return self._flip(b"".join(parts))

    def _flip(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 1, 2, 8))):
            flipped[self.chance.randrange(len(flipped))] ^= 1 << self.chance.randrange(8)
        return bytes(flipped)

    def _cut(self, parts: Parts) -> bytes:
        whole = b"".join(parts)
        return whole[: self.chance.randrange(len(whole))]

    def _resized(self, parts: Parts) -> bytes:
        """A length that is not that of what follows, or is of what was cut to it."""
        at = self.chance.randrange(len(parts))
        size = int.from_bytes(parts[at][:2], "big")
        size = self.chance.choice((*SIZES, size - 1, size + 1, self.chance.randrange(1 << 16)))
        size &= 0xFFFF
        body = parts[at][2:]
        if self.chance.random() < 0.5:
            body = body[:size].ljust(min(size, 2000), b"\0")
        parts[at] = size.to_bytes(2, "big") + body
        return b"".join(parts)

    def _spliced(self, parts: Parts) -> bytes:
        """With a part of another's, which is for another TPM, perhaps; or from there on."""
        other, at = self.chance.choice(self._sound), self.chance.randrange(len(parts))
        if self.chance.random() < 0.5:
            return b"".join([*parts[:at], *other[at:]])
        return b"".join([*parts[:at], other[at], *parts[at + 1 :]])

    def _shuffled(self, parts: Parts) -> bytes:
        a, b = self.chance.sample(range(len(parts)), 2)
        parts[a], parts[b] = parts[b], self.chance.choice((parts[a], b"", parts[b]))
        return b"".join(parts)

    def _inserted(self, parts: Parts) -> bytes:
        whole, more = b"".join(parts), self.chance.randbytes(self.chance.choice((1, 2, 99, 9000)))
        at = self.chance.randrange(len(whole) + 1)
        return whole[:at] + more + whole[at:]

    def _of_chance(self, parts: Parts) -> bytes:
        """Bytes that mean nothing, or whose parts have the sizes that they should."""
        if self.chance.random() < 0.3:
            return self.chance.randbytes(self.chance.randrange(2000))
        at = self.chance.randrange(len(parts))
        parts[at] = parts[at][:2] + self.chance.randbytes(len(parts[at]) - 2)
        return b"".join(parts)


# --- tried ---


def sound(tpm: Tpm, another: Tpm) -> list[Parts]:
    """For this TPM twice, for another one, and for the EK of the one with the SRK of the other."""
    ours, theirs = parents(tpm), parents(another)
    mixed = (
        dps_tpm.Parents(ours.ek, theirs.srk),
        dps_tpm.Parents(theirs.ek, ours.srk),
    )
    whose = (ours, ours, theirs, *mixed)
    return [
        dps_tpm.wrapped(each, key) for each, key in zip(whose, [KEPT, *[OTHER] * 4], strict=True)
    ]


def tried(tpm: Tpm, blobs: Iterator[bytes], count: int) -> Counter[str]:
    """What became of each: its code, or "imported". After each that the TPM has seen, nothing is
    left in a slot, and the key at 0x81000100 is there; after every tenth, it signs. Raises what is
    no ChallengeInvalid."""
    found, kept = Counter[str](), tpm.public(HUB_KEY)
    for _ in range(count):
        blob = next(blobs)
        found["all"] += 1
        if (code := _parsed(blob)) is None:
            found["parsed"] += 1
            code = _imported(tpm, blob)
            assert tpm.loaded() == set(), blob.hex()
            assert tpm.public(HUB_KEY) == kept, blob.hex()
            assert found["parsed"] % 10 or signs(tpm, KEPT), blob.hex()
        found[code] += 1
    assert signs(tpm, KEPT)
    return found


def _parsed(blob: bytes) -> str | None:
    try:
        Challenge.parse(blob)
    except ChallengeInvalid as e:
        return e.code
    return None


def _imported(tpm: Tpm, blob: bytes) -> str:
    """A key that is taken is one that was sent."""
    try:
        blobs = tpm.imported(blob, EK, SRK)
    except ChallengeInvalid as e:
        return f"{e.code} by the TPM"
    with tpm.load(SRK, *blobs) as loaded:
        assert any(signs(tpm, key, loaded) for key in (KEPT, OTHER)), blob.hex()
    return "imported"


def keep(tpm: Tpm) -> None:
    with another(tpm, KEPT) as loaded:
        tpm.keep_instead(loaded, HUB_KEY)


@contextlib.contextmanager
def made(directory: Path, name: str) -> Iterator[Tpm]:
    swtpm.make(directory / name, directory / f"{name}-ca")
    with swtpm.running(directory / name) as tcti, Tpm(tcti) as tpm:
        yield tpm


def spoilt(seed: int, sound: Sequence[Parts]) -> Iterator[bytes]:
    spoiler = Spoiler(seed, sound)
    while True:
        yield spoiler.blob()


def main(count: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        tpm, another = (stack.enter_context(made(Path(name), each)) for each in ("one", "two"))
        blobs = spoilt(seed, sound(tpm, another))
        keep(tpm)
        for what, times in sorted(tried(tpm, blobs, count).items()):
            sys.stdout.write(f"{times:6} {what}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
