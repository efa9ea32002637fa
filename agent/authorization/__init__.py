"""The passwords of the TPM's hierarchies that this device has made: kept, escrowed, given up."""
