"""Every failure a person can meet, each with a stable code, an exit status and a remedy.

AgentError          70  a bug of ours; anything else below is the world's
├── ConfigError     78  the configuration or the image must be changed; retrying is pointless
├── TpmError        69  no TPM, or not one that can be used; needs a person
├── NoPermission    77  this user may not
├── Later           75  nobody answered, or "come back later"; systemd retries
└── Refused         76  a server answered, and the answer was no or made no sense

A class is one code. The first line of its docstring is what the code means; it and the remedy are
written here, once: the manual and the journal's catalog are made from them. `{fields}` of a remedy
are filled in by keyword: `raise HandleOccupied("cannot ...", handle="0x81000001")`. Each field goes
into the journal, too, as TPM2CLOUD_HANDLE=: never a secret.
"""

from collections.abc import Iterator

from agent.errors.base import *
from agent.errors.configuration import *
from agent.errors.dps import *
from agent.errors.identity import *
from agent.errors.later import *
from agent.errors.operator import *
from agent.errors.refused import *
from agent.errors.tpm import *

# What a wrong clock makes of things that are in order. None of these counts as a try that failed:
# who put the clock right must not wait because it was wrong.
MAYBE_THE_CLOCK: tuple[type[AgentError], ...] = (
    ClockImplausible,
    TlsDates,
    EkCertificateExpired,
    EkIssuerExpired,
    EkRootExpired,
    IdevidExpired,
)


def every_error(base: type[AgentError] = AgentError) -> Iterator[type[AgentError]]:
    """`base` and all below it, in the order they are written."""
    yield base
    for child in base.__subclasses__():
        yield from every_error(child)
