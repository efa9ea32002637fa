"""The TPM in our words: the only package that imports tpm2_pytss."""

from agent.tpm.device import Tpm
from agent.tpm.endorsement import make_credential
from agent.tpm.imported import HUB_KEY, Challenge, is_hub_key
from agent.tpm.inventory import Budget
from agent.tpm.nv import NvPublic
from agent.tpm.objects import Attestor, Public, Transient, unmarshalled
from agent.tpm.provider import TlsKey

__all__ = [
    "HUB_KEY",
    "Attestor",
    "Budget",
    "Challenge",
    "NvPublic",
    "Public",
    "TlsKey",
    "Tpm",
    "Transient",
    "is_hub_key",
    "make_credential",
    "unmarshalled",
]
