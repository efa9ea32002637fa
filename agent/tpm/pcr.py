"""Platform configuration registers: what the firmware has measured on the way to this system, and
the policy that asks for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

from tpm2_pytss.constants import TPM2_CC
from tpm2_pytss.types import TPM2B_DIGEST, TPML_PCR_SELECTION

from agent.errors import PcrBankAbsent, PcrMoved
from agent.tpm import policies
from agent.tpm.chip import Chip
from agent.tpm.esys import TRIES, speaking

BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes of a register
LAST = 23  # of a PC's or a server's TPM (TCG PC Client Platform TPM Profile, 4.6)
ABSENT = {0x1C4: PcrBankAbsent}  # parameter 1: a hash that this TPM does not know
SELECTION = re.compile(r"(sha1|sha256|sha384|sha512):([0-9]{1,2}(?:,[0-9]{1,2})*)")
Values = Mapping[int, bytes]  # by the number of the register


@dataclass(frozen=True)
class Selection:
    """Registers of one bank: `bank` is the name of its hash, `registers` sorted numbers, 0 to 23.

    As a text it is what tpm2-tools take: "sha256:0,2,7".
    """

    bank: str
    registers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        found = SELECTION.fullmatch(text)
        numbers = [int(each) for each in found[2].split(",")] if found else []
        if found is None or max(numbers) > LAST or len(set(numbers)) != len(numbers):
            why = f"must be a bank and registers from 0 to {LAST}, like 'sha256:0,2,7'"
            raise ValueError(f"{why}, not {text!r}")
        return cls(found[1], tuple(sorted(numbers)))

    def __str__(self) -> str:
        return f"{self.bank}:{','.join(map(str, self.registers))}"

    @property
    def size(self) -> int:
        """Bytes of a register."""
        return BANKS[self.bank]

    def only(self, registers: tuple[int, ...]) -> TPML_PCR_SELECTION:
        return TPML_PCR_SELECTION.parse(f"{self.bank}:{','.join(map(str, registers))}")

    @property
    def list(self) -> TPML_PCR_SELECTION:
        return self.only(self.registers)


def read(tpm: Chip, selection: Selection) -> dict[int, bytes]:
    """The registers as they are now, all of one moment: nothing was changed meanwhile, or, where
    something always is (the kernel's IMA extends a register for each program), what was read twice
    is the same, for no register comes back to a value (but 16 and 23, which say nothing). Raises
    PcrBankAbsent, PcrMoved, TpmError."""
    before = None
    for _ in range(TRIES):
        found, counters = _read(tpm, selection)
        if len(counters) == 1 or found == before:
            return found
        before = found
    raise PcrMoved(f"cannot read the registers {selection}: they change all the time")


def _read(tpm: Chip, selection: Selection) -> tuple[dict[int, bytes], set[int]]:
    """A TPM answers some registers at a time, and each answer says how often any was changed."""
    found: dict[int, bytes] = {}
    counters = set()
    while left := tuple(each for each in selection.registers if each not in found):
        with speaking(f"read the registers {selection}", ABSENT, bank=selection.bank):
            counter, said, digests = tpm.esys.pcr_read(selection.only(left))
        got = _registers(said)
        if not got:
            raise PcrBankAbsent(
                f"cannot read the registers {selection}: the TPM has no such bank, or not these",
                bank=selection.bank,
            )
        found |= {each: bytes(digest) for each, digest in zip(got, digests, strict=True)}
        counters.add(int(counter))
    return {each: found[each] for each in selection.registers}, counters


def _registers(said: TPML_PCR_SELECTION) -> list[int]:
    bits = b"".join(bytes(each.pcrSelect)[: each.sizeofSelect] for each in said)
    number = int.from_bytes(bits, "little")
    return [each for each in range(8 * len(bits)) if number >> each & 1]


def digest_of(selection: Selection, values: Values) -> bytes:
    """SHA-256 of the registers' values, one after the other (TPM 2.0 Library, part 3, 23.7)."""
    return sha256(b"".join(values[each] for each in selection.registers)).digest()


def policy_digest(selection: Selection, values: Values) -> bytes:
    """What a policy session of SHA-256 comes to by PolicyPCR alone, with these values: 32 bytes."""
    selected = bytes(selection.list.marshal())
    return policies.extended(
        sha256, bytes(32), TPM2_CC.PolicyPCR, selected + digest_of(selection, values)
    )


def satisfy(esys: Any, session: Any, selection: Selection, values: Values) -> None:
    """PolicyPCR in `session`; the TPM refuses (RC_VALUE_1) if a register has another value now."""
    esys.policy_pcr(session, TPM2B_DIGEST(digest_of(selection, values)), selection.list)
