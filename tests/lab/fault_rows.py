"""All faults, and what each gets."""

from tests.lab import fault_setup, fault_tpm
from tests.lab.fault import Row

ROWS: list[Row] = [*fault_setup.ROWS, *fault_tpm.ROWS]
