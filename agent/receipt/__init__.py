"""The receipt: what was done to this device, a chain that its TPM signs (docs/receipt.md)."""
