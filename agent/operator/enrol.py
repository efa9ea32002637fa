"""Individual enrolments by TPM, in bulk: what the files say is compared with what DPS has.

What DPS has is the only journal: a run that was cut off is gone on with by the next one, which
finds what is enrolled. What is known of devices is in a table on disk, not in memory.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from agent.errors import AzureRefused, DiskFull
from agent.operator import exports, shapes
from agent.operator.exports import Bad, Device
from agent.operator.service import BULK, Record, Service

log = logging.getLogger(__name__)
FEW = 30  # of so many, each is asked for; of more, all that DPS has is looked through
OFTEN = 500  # devices: after so many it is told how far it is
CREATE, UPDATE = "create", "updateIfMatchETag"
DONE = {CREATE: "new", UPDATE: "changed"}
CONFLICT = {CREATE: "409", UPDATE: "412"}  # how the code of an error begins
TABLE = """
CREATE TABLE device (id TEXT, key TEXT, name TEXT, place TEXT, why TEXT, there TEXT,
                     PRIMARY KEY (id, key)) WITHOUT ROWID;
CREATE INDEX by_key ON device (key);
"""
TWICE = """
UPDATE device SET why = 'is in the files twice, with different endorsement keys'
    WHERE id IN (SELECT id FROM device GROUP BY id HAVING COUNT(*) > 1);
UPDATE device SET why = 'its endorsement key is in the files twice, under different names'
    WHERE key IN (SELECT key FROM device GROUP BY key HAVING COUNT(*) > 1);
"""


@dataclass(frozen=True)
class Outcome:
    """`result`: "new", "changed", "unchanged" or "refused", then with `why`."""

    result: str
    registration_id: str
    where: str
    why: str = ""


Wish = tuple[Device, Record]  # a device, and the record that is sent for it
Tell = Callable[[Outcome], None]


class Devices:
    """What the files say; all of it before anything is sent, to find what contradicts itself. In a
    file of SQLite's own, which is gone at the end."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.executescript(TABLE)

    def close(self) -> None:
        self._db.close()

    def read(self, files: Sequence[Path]) -> Iterator[Bad]:
        """Of a device that is there twice with the same key, the last counts."""
        for each in exports.every(files):
            if isinstance(each, Bad):
                yield each
                continue
            row = (each.registration_id.lower(), each.key, each.registration_id, each.where)
            insert = "INSERT OR REPLACE INTO device (id, key, name, place) VALUES (?, ?, ?, ?)"
            self._db.execute(insert, row)
        self._db.executescript(TWICE)

    def count(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM device").fetchone()[0])

    def names(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT name FROM device WHERE why IS NULL")]

    def there(self, record: Record) -> None:
        """What DPS has, if it is of one of these."""
        name = str(record.get("registrationId", "")).lower()
        self._db.execute("UPDATE device SET there = ? WHERE id = ?", (json.dumps(record), name))

    def every(self) -> Iterator[tuple[Device, str | None, Record | None]]:
        """Each device, what is wrong with it, and what DPS has."""
        for name, key, place, why, there in self._db.execute(
            "SELECT name, key, place, why, there FROM device ORDER BY id"
        ):
            yield Device(place, name, key), why, json.loads(there) if there else None


def enrol(
    shape: shapes.Shape, service: Service, files: Sequence[Path], tell: Tell, *, replace: bool
) -> None:
    """`tell` is given what became of each device. `replace`: one that is enrolled with another EK
    gets this one: its board was changed. Raises DiskFull, and what `Service` does, after what was
    done until then was told."""
    devices = Devices()
    try:
        for bad in devices.read(files):
            tell(Outcome("refused", bad.name, bad.where, bad.why))
        _look(service, devices)
        run = _Run(shape, service, tell, replace)
        run.settled(devices)
        for mode in (CREATE, UPDATE):
            for some in _tens(run.wishes(devices, mode)):
                run.write(mode, some)
    except sqlite3.OperationalError as e:
        path = Path(os.environ.get("TMPDIR") or "/var/tmp", "sqlite")  # noqa: S108 (SQLite's own)
        raise DiskFull(f"cannot keep in mind what the files say: {e}", path=path) from e
    finally:
        devices.close()


def _look(service: Service, devices: Devices) -> None:
    if devices.count() <= FEW:
        for name in devices.names():
            if (found := service.enrolment(name)) is not None:
                devices.there(found)
        return
    for n, record in enumerate(service.every_enrolment(), 1):
        devices.there(record)
        if n % OFTEN == 0:
            log.info("looked at %d enrolments", n)


def _tens(wishes: Iterable[Wish]) -> Iterator[list[Wish]]:
    each = iter(wishes)
    while some := list(islice(each, BULK)):
        yield some


class _Run:
    """What is to be written, and writing it."""

    def __init__(self, shape: shapes.Shape, service: Service, tell: Tell, replace: bool) -> None:
        self._shape, self._service, self._replace = shape, service, replace
        self._tell, self._written = tell, 0

    def wishes(self, devices: Devices, mode: str) -> Iterator[Wish]:
        """Those to be written in this way. What is not to be written is told by `settled`."""
        for device, why, there in devices.every():
            wanted = self._wanted(device)
            if why or self._against(wanted, there):
                continue
            if there is None and mode == CREATE:
                yield device, shapes.new(wanted)
            elif there is not None and mode == UPDATE and not shapes.within(wanted, there):
                yield device, shapes.over(there, wanted)

    def settled(self, devices: Devices) -> None:
        """Tells of those that nothing is to be written for."""
        for device, why, there in devices.every():
            wanted = self._wanted(device)
            if refused := why or self._against(wanted, there):
                self._refused(device, refused)
            elif there is not None and shapes.within(wanted, there):
                self._tell(Outcome("unchanged", device.registration_id, device.where))

    def _wanted(self, device: Device) -> Record:
        return self._shape.individual(device.registration_id, device.key)

    def _against(self, wanted: Record, there: Record | None) -> str:
        """Why what is enrolled is not changed, or ''."""
        if there is None:
            return ""
        enrolled = there.get("attestation") or {}
        if enrolled.get("type") != "tpm":
            return f"is enrolled, but not by its TPM: by {enrolled.get('type')}"
        if not shapes.within(wanted["attestation"], enrolled) and not self._replace:
            return "is enrolled with another endorsement key; if its board was changed: --replace"
        return ""

    def write(self, mode: str, some: Sequence[Wish]) -> None:
        """What DPS refuses as a whole for one of them is sent one by one."""
        try:
            errors = self._service.bulk(mode, [record for _, record in some])
        except AzureRefused as e:
            if len(some) == 1:
                self._refused(some[0][0], str(e))
                return
            for wish in some:
                self.write(mode, [wish])
            return
        for device, record in some:
            self._told(mode, device, record, errors.get(device.registration_id.lower()))
        self._progress(len(some))

    def _told(
        self, mode: str, device: Device, record: Record, error: tuple[int, str] | None
    ) -> None:
        if error is None:
            self._tell(Outcome(DONE[mode], device.registration_id, device.where))
        elif str(error[0]).startswith(CONFLICT[mode]):
            self._conflict(mode, device, record, error)
        else:
            self._refused(device, f"{error[1]} ({error[0]})")

    def _conflict(self, mode: str, device: Device, record: Record, error: tuple[int, str]) -> None:
        """It is there, or changed, by now: by a request of ours whose answer got lost, or by
        somebody else."""
        there: Any = self._service.enrolment(device.registration_id)
        sent = {name: value for name, value in record.items() if name != "etag"}
        if there is not None and shapes.within(sent, there):
            self._tell(Outcome(DONE[mode], device.registration_id, device.where))
        else:
            self._refused(device, f"{error[1]} ({error[0]}): somebody else is enrolling, run again")

    def _refused(self, device: Device, why: str) -> None:
        self._tell(Outcome("refused", device.registration_id, device.where, why))

    def _progress(self, more: int) -> None:
        before, self._written = self._written, self._written + more
        if self._written // OFTEN > before // OFTEN:
            log.info("wrote %d enrolments", self._written)
