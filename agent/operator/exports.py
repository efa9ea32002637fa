"""What `tpm2cloud identity` has written, of any number of devices: read one by one."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from agent import identity_csv
from agent.deviceid import LEGAL
from agent.operator import endorsement

CHUNK = 1 << 16  # characters read at once
LONGEST = 1 << 20  # characters of one export
COLUMNS = ("dps_registration_id", "dps_endorsement_key", "ek_certificates")


@dataclass(frozen=True)
class Device:
    """`key`: TPM2B_PUBLIC of its EK, base64. `where` it is written."""

    where: str
    registration_id: str
    key: str


@dataclass(frozen=True)
class Bad:
    """What is at `where` cannot be enrolled; `name`: of the device, if that much can be read."""

    where: str
    why: str
    name: str = ""


def every(files: Sequence[Path]) -> Iterator[Device | Bad]:
    """In the order they are written. In memory is one export at a time, whatever the files'
    size; a file that cannot be read further is one `Bad`."""
    for file in files:
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:  # as Excel writes
                yield from _of(file, stream)
        except OSError as e:
            yield Bad(str(file), f"cannot be read: {e.strerror or e}")
        except UnicodeDecodeError:
            yield Bad(str(file), "is not UTF-8")


def _of(file: Path, stream: TextIO) -> Iterator[Device | Bad]:
    first = stream.read(1)
    while first.isspace():
        first = stream.read(1)
    stream.seek(0)
    if not first:
        yield Bad(str(file), "is empty")
    elif first == "{":
        yield from _of_json(file, stream)
    elif first == "[":
        yield Bad(str(file), "is a list; wanted is one device after the other: jq -c '.[]' FILE")
    else:
        yield from _of_csv(file, stream)


# --- JSON: values, one after the other ---


def _of_json(file: Path, stream: TextIO) -> Iterator[Device | Bad]:
    try:
        for number, value in enumerate(_values(stream), 1):
            yield _export(f"{file}:{number}", value)
    except (ValueError, RecursionError) as e:
        yield Bad(str(file), f"is no JSON from here on: {e}")


def _values(stream: TextIO) -> Iterator[Any]:
    decoder, text, more = json.JSONDecoder(), "", True
    while more or text:
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError:
            if not more or len(text) > LONGEST:
                raise
            chunk = stream.read(CHUNK)
            more, text = bool(chunk), (text + chunk).lstrip()
        else:
            yield value
            text = text[end:].lstrip()


def _export(where: str, value: Any) -> Device | Bad:
    name = value.get("registration_id") if isinstance(value, dict) else None
    try:
        found = identity_csv.checked(value)
        who, key = identity_csv.enrolled(found)
        row = identity_csv.row(found)
        return _device(where, who, key, row["ek_certificates"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return Bad(where, str(e), str(name or ""))


# --- CSV: the table of `identity --csv` and `identity --merge` ---


def _of_csv(file: Path, stream: TextIO) -> Iterator[Device | Bad]:
    reader = csv.DictReader(stream, strict=True)
    try:
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        for row in reader:
            yield _row(f"{file}:{reader.line_num}", row)
    except (ValueError, csv.Error) as e:
        yield Bad(str(file), f"is no table of 'tpm2cloud identity --csv': {e}")


def _row(where: str, row: dict[str, str]) -> Device | Bad:
    who, key, certificates = (row[name] or "" for name in COLUMNS)
    try:
        return _device(where, who, key, certificates)
    except ValueError as e:
        return Bad(where, str(e), who)


def _device(where: str, who: str, key: str, certificates: str) -> Device:
    if not LEGAL.fullmatch(who):
        raise ValueError(f"its registration id is not legal: {who!r}")
    endorsement.fits(endorsement.rsa(key), certificates.split())
    return Device(where, who, key)
