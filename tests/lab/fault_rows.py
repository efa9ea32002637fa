"""All faults, and what each gets."""

from tests.lab import fault_cloud_rows, fault_net_rows, fault_setup_rows, fault_tpm_rows
from tests.lab.fault import Row

ROWS: list[Row] = [
    *fault_setup_rows.ROWS,
    *fault_tpm_rows.ROWS,
    *fault_net_rows.ROWS,
    *fault_cloud_rows.ROWS,
]
