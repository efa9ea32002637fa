"""The TPM in our words: the only package that imports tpm2_pytss."""

from agent.tpm.device import Tpm
from agent.tpm.objects import Public, Transient
from agent.tpm.provider import TlsKey

__all__ = ["Public", "TlsKey", "Tpm", "Transient"]
