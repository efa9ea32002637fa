"""What every error is: a code, an exit status and a remedy; and the six kinds there are."""

import os


class AgentError(Exception):
    """This program itself is wrong; the message says what it did not expect."""

    code = "internal"
    status = os.EX_SOFTWARE
    remedy = "This is a bug of tpm2cloud: please report it, with: journalctl -t tpm2cloud"
    step: str | None = None  # where in the plan it happened
    seconds: int | None = None  # before that it is of no use to try again, if that is known

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.remedy = type(self).remedy.format(**fields)
        self.fields = {name: str(value) for name, value in fields.items()}


class CsrInvalid(AgentError):
    """The certificate request that the TPM's key signed does not verify."""

    code = "csr-invalid"
    remedy = "The key signed wrongly: report it, with: tpm2_getcap properties-fixed"


class ConfigError(AgentError):
    """The configuration cannot be used; the message lists every problem found in it."""

    code, status = "config-invalid", os.EX_CONFIG
    remedy = "Edit the file (man tpm2cloud.toml says how), then: tpm2cloud config"


class NoPermission(AgentError):
    """The user who runs this may not open what it needs."""

    code, status = "no-permission", os.EX_NOPERM
    remedy = "Run it as root (sudo), or let this user open {path}"


class TpmError(AgentError):
    """The TPM answers with an error that has no code of its own here."""

    code, status = "tpm-error", os.EX_UNAVAILABLE
    remedy = "Power the device off and on; if it stays, look up the code with: tpm2_rc_decode {rc}"


class Later(AgentError):
    """Something that takes time is not finished yet.

    `seconds`: how long the server asked us to stay away, or None.
    """

    code, status = "later", os.EX_TEMPFAIL
    remedy = "Nothing to do: it is tried again"

    def __init__(self, message: str, *, seconds: int | None = None, **fields: object) -> None:
        super().__init__(message, **fields)
        self.seconds = seconds


class Refused(AgentError):
    """A server refuses, for a reason that has no code of its own here."""

    code, status = "refused", os.EX_PROTOCOL
    remedy = "Look at the log of {host}"
