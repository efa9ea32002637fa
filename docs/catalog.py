"""The journal's catalog: what `journalctl -x` says about an entry (systemd.io/CATALOG)."""

import textwrap

from agent import events
from agent.errors import every_error

HEADER = """\
Defined-By: tpm2cloud
Support: whoever builds the image of this device
Documentation: man:tpm2cloud(8)
"""


def catalog() -> str:
    """One entry for each event and each error code."""
    known = [*events.every_event(), *(events.failed(kind) for kind in every_error())]
    return "\n".join(map(_entry, known))


def _entry(event: events.Event) -> str:
    text = "\n\n".join(
        textwrap.fill(each, 78, break_on_hyphens=False, break_long_words=False)
        for each in event.meaning.split("\n\n")
    )
    entry = f"-- {event.message_id}\nSubject: {event.subject}\n{HEADER}\n{text}\n"
    return entry.replace("@TPM2CLOUD_", "@TPMCLOUD_")  # journalctl would leave it as it is
