"""What happened on a machine, by its journal: who began when, what each step took."""

from dataclasses import dataclass
from typing import Self

from tests.vm.journal import Entry, Journal

UNIT = "tpm2cloud-firstboot.service"
COMPANION = "tpm2cloud-health.service"
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"  # SD_MESSAGE_UNIT_STARTING
WARNING = 4


@dataclass(frozen=True)
class Step:
    """Seconds since the unit was started; what was done, and with what result."""

    name: str
    at: float
    message: str

    @property
    def was_done(self) -> bool:
        return "already done:" in self.message


@dataclass(frozen=True)
class Story:
    """One boot, as far as it concerns us; not what a second start of the service did in it."""

    began: float  # seconds since the kernel was started
    steps: list[Step]
    ours: list[Entry]

    @classmethod
    def of(cls, journal: Journal, boot: int) -> Self:
        """Of the Nth boot in this journal."""
        which = f"--boot={boot}"
        began, *again = journal.entries(which, f"MESSAGE_ID={STARTING}", f"UNIT={UNIT}")
        end = seconds(again[0]) if again else float("inf")
        every = journal.entries(which, "SYSLOG_IDENTIFIER=tpm2cloud")
        ours = [entry for entry in every if seconds(entry) < end]
        told = [e for e in ours if "TPM2CLOUD_STEP" in e and "TPM2CLOUD_SECONDS" in e]
        start = seconds(began)
        steps = [Step(e["TPM2CLOUD_STEP"], seconds(e) - start, e["MESSAGE"]) for e in told]
        return cls(start, steps, ours)

    def table(self) -> str:
        """For a reader: each step and how long it took from the end of the one before."""
        rows = [f"{self.began:6.2f} s after the kernel's start: systemd starts the service"]
        before = 0.0
        for step in self.steps:
            rows.append(f"{step.at:6.2f} s (+{step.at - before:5.2f})  {step.message}")
            before = step.at
        return "\n".join(rows)


def seconds(entry: Entry) -> float:
    return int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6


def complaints(entries: list[Entry]) -> list[str]:
    """Messages that are warnings or worse."""
    return [e["MESSAGE"] for e in entries if int(e.get("PRIORITY", 6)) <= WARNING]
