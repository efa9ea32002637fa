"""All faults, and what each gets."""

from tests.lab.fault import Row
from tests.lab.fault_setup import ROWS as SETUP

ROWS: list[Row] = [*SETUP]
