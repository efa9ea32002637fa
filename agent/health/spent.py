"""The bytes of a day, and their limit."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent import traffic
from agent.errors import DataLimit

log = logging.getLogger(__name__)


def today(kept: Mapping[str, Any], now: datetime) -> dict[str, int]:
    """Bytes "sent" and "received" on this day (UTC), this run's with them. `kept`: by earlier runs
    of the day that it names."""
    ours = traffic.traffic()
    same = kept if kept.get("day") == _day(now) else {}
    earlier = {name: int(same.get(name, 0)) for name in ("sent", "received")}
    return {"sent": earlier["sent"] + ours.sent, "received": earlier["received"] + ours.received}


def to_keep(kept: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """For the next run; a day without traffic needs no line."""
    spent = today(kept, now)
    return {"day": _day(now), **spent} if any(spent.values()) else dict(kept)


def may_ask(limit: int, spent: int, *, late: bool) -> None:
    """Raises DataLimit; a device that would be lost is worth more than what its bytes cost."""
    if not limit or spent < limit:
        return
    why = f"{spent} bytes were sent and received today, and {limit} are allowed"
    if not late:
        raise DataLimit(f"cannot ask a server: {why}")
    log.warning("%s; going on all the same: it is late", why)


def _day(now: datetime) -> str:
    return f"{now:%Y-%m-%d}"
