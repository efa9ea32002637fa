"""With what time a device starts that has no clock of its own, or one that lost it."""

from collections.abc import Iterator
from datetime import UTC, datetime

from agent import RELEASED, inputs, x509
from agent.config import Config
from agent.errors import TrustUnreadable
from agent.lint import trust
from agent.lint.image import Image, Unseen
from agent.lint.rules import ERROR, WARNING, Finding, Rule

# Whose time of change systemd starts with at least (systemd(1), System Clock Epoch).
EPOCHS = ("/usr/lib/clock-epoch", "/var/lib/systemd/timesync/clock")
FAKE = "/etc/fake-hwclock.data"

CLOCK_FUTURE = Rule(
    "clock-floor-future",
    ERROR,
    "Devices would start with a time that is still to come.",
    "touch {at}",
)
CLOCK_OLD = Rule(
    "clock-floor-old",
    WARNING,
    "A device without a battery for its clock starts with a time that tpm2cloud cannot accept, and "
    "waits for NTP.",
    "touch {at}",
)


def floor(image: Image, conf: Config | None) -> Iterator[Finding]:
    now, floors = datetime.now(UTC), dict(_floors(image))
    if now < RELEASED:
        why = f"the clock here says {now:%Y-%m-%d}, before this software was released"
        raise Unseen(EPOCHS[0], why)
    for path, at in floors.items():
        if at > now + x509.SKEW:
            why = f"it is of {at:%Y-%m-%d %H:%M}Z, which is still to come"
            yield CLOCK_FUTURE.at(image, path, why)
    needed = max([RELEASED, *_oldest(image, conf)])
    if not floors or max(floors.values()) < needed:
        why = f"without a clock of its own a device starts before {needed:%Y-%m-%d %H:%M}Z"
        yield CLOCK_OLD.at(image, EPOCHS[0], why)


def _floors(image: Image) -> Iterator[tuple[str, datetime]]:
    for path in EPOCHS:
        if found := image.stat(path):
            yield path, datetime.fromtimestamp(found.st_mtime, UTC)
    if text := image.text(FAKE):
        try:
            yield FAKE, datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
        except ValueError as e:
            raise Unseen(FAKE, str(e)) from e


def _oldest(image: Image, conf: Config | None) -> Iterator[datetime]:
    """What the agent takes for a lower bound; files that cannot be read are told elsewhere."""
    for path in map(str, inputs.trust_files(conf)) if conf else ():
        try:
            found = x509.oldest_not_before(trust.certificates(image, path))
        except (TrustUnreadable, Unseen):
            continue
        if found is not None:
            yield found


CHECKS = (floor,)
