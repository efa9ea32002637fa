"""The link between DPS and the IoT hub: a connection string, which DPS never shows again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LINK = "tpm2cloud-link"  # a tag on DPS: by which key it is linked with the hub, as `Link.mark`
OWNER = "iothubowner"  # the policy of the hub by which DPS makes devices there, as the portal does


@dataclass(frozen=True)
class Link:
    """How DPS gets into the hub."""

    host: str
    connection: str = field(repr=False)  # it holds the key
    location: str

    @property
    def mark(self) -> str:
        """For everybody to see: of a key of 256 random bits, nobody finds it by this."""
        return hashlib.sha256(self.connection.encode()).hexdigest()[:32]

    def among(self, links: Sequence[Any]) -> list[Any]:
        """The links of DPS with this one; what else is set of them stays."""
        ours = [each for each in links if str(each.name).lower() == self.host.lower()]
        for each in ours:
            each.connection_string = self.connection
        return [*links, *([] if ours else [self.body])]

    @property
    def body(self) -> dict[str, str]:
        return {"connectionString": self.connection, "location": self.location}


def opening(host: str, key: str, location: str) -> Link:
    """By a key of the hub's, as the portal links them."""
    said = f"HostName={host};SharedAccessKeyName={OWNER};SharedAccessKey={key}"
    return Link(host, said, location)
