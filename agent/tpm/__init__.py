"""The TPM in our words: the only package that imports tpm2_pytss."""

from agent.tpm.device import Tpm
from agent.tpm.objects import Public, Transient

__all__ = ["Public", "Tpm", "Transient"]
