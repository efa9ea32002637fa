"""The TPM in our words: the only package that imports tpm2_pytss."""

from agent.tpm.device import Tpm
from agent.tpm.endorsement import make_credential
from agent.tpm.inventory import Budget
from agent.tpm.nv import NvPublic
from agent.tpm.objects import Attestor, Public, Transient
from agent.tpm.provider import TlsKey

__all__ = [
    "Attestor",
    "Budget",
    "NvPublic",
    "Public",
    "TlsKey",
    "Tpm",
    "Transient",
    "make_credential",
]
