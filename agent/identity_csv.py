"""The exports of many devices, checked and brought into one table; no TPM, no configuration."""

import csv
import io
import json
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.deviceid import LEGAL, registration_ids
from agent.errors import ExportInvalid
from agent.x509 import first_der

FORMAT = 1  # of the JSON; a reader of one refuses the next
WHITE = re.compile(r"[ \t\r\n]*")  # RFC 8259, 2
FORMULA = tuple("=+-@")  # what a spreadsheet would compute
Row = dict[str, str]


def row(found: dict[str, Any]) -> Row:
    """One device. Certificates are DER in base64, several with a blank between them; what there is
    none of is empty."""
    own, azure = found["endorsement_key"], found["endorsement_key_azure"]
    who, key = enrolled(found)
    return {
        **{name: found[name] or "" for name in ("registration_id", "hostname", "serial", "tpm")},
        **_key(own, ""),
        **_key(azure, "azure_"),
        "ek_certificates": " ".join(map(_der, found["endorsement_certificates"])),
        "ek_chain": " ".join(map(_der, found["endorsement_chain"])),
        "idevid_certificate": _der(found["idevid"]) if found["idevid"] else "",
        "tpm2cloud": found["tpm2cloud"],
        "dps_registration_id": who,
        "dps_endorsement_key": key,
    }


def enrolled(found: dict[str, Any]) -> tuple[str, str]:
    """Under which registration id, and with which EK (TPM2B_PUBLIC, base64), DPS lets it in by its
    TPM. The EK is the one at the handle, because clients show that, and make one only if none is
    there; the id the configured one, or the one that Azure's SDKs make of the EK."""
    own, azure = found["endorsement_key"], found["endorsement_key_azure"]
    shown = azure if azure and azure["handle"] else own
    return found["registration_id"] or shown["registration_ids"]["base32"], shown["public"]


def _key(key: dict[str, Any] | None, prefix: str) -> Row:
    ids = key["registration_ids"] if key else {"base32": "", "sha256_hex": ""}
    public = key["public"] if key else ""
    names = f"{prefix}ek_base32", f"{prefix}ek_sha256", f"{prefix}endorsement_key"
    return dict(zip(names, (ids["base32"], ids["sha256_hex"], public), strict=True))


def _der(certificate: dict[str, Any]) -> str:
    return "".join(certificate["pem"].strip().splitlines()[1:-1])


def table(rows: Sequence[Row]) -> str:
    """RFC 4180, the names of the columns first; but lines end as those of other programs do."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().removesuffix("\n")


# --- many ---


def merge(files: Sequence[Path]) -> str:
    """One table of all these exports, one or several in a file, one after the other; of a device
    that is in one file twice, the last counts: the factory step was run again. Raises ExportInvalid
    with all that is wrong with any."""
    problems: list[str] = []
    last: dict[tuple[Path, str], tuple[str, Row]] = {}
    for file in files:
        for where, export in _of(file, problems):
            try:
                cells = row(checked(export))
                last[file, cells["ek_sha256"]] = (where, cells)
            except ValueError as e:
                problems.append(f"{where}: {e}")
    found = list(last.values())
    for column in ("registration_id", "ek_sha256", "azure_ek_sha256"):
        problems += _twice(found, column)
    if problems:
        raise ExportInvalid("cannot merge:\n  " + "\n  ".join(problems))
    return table([cells for _, cells in found])


def _twice(found: Sequence[tuple[str, Row]], column: str) -> Iterator[str]:
    """To DPS upper and lower case are the same."""
    first: dict[str, str] = {}
    for where, cells in found:
        value = cells[column].lower()
        if value in first:
            yield f"{where}: has the same {column} as {first[value]}: {value}"
        elif value:
            first[value] = where


def _of(file: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """The values in a file, each with what to call it."""
    try:
        text = file.read_text("utf-8")
        found = list(_values(text))
    except OSError as e:
        problems.append(f"{file}: cannot be read: {e.strerror}")
    except (ValueError, RecursionError) as e:
        problems.append(f"{file}: is no JSON: {e}")
    else:
        if not found:
            problems.append(f"{file}: is empty")
        for line, value in found:
            yield f"{file}:{line}" if len(found) > 1 else str(file), value


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """JSON values, white space between them, each with its line; json itself takes but one."""
    at, line, decoder = _after_white(text, 0), 1, json.JSONDecoder()
    seen = 0
    while at < len(text):
        line, seen = line + text.count("\n", seen, at), at
        value, at = decoder.raw_decode(text, at)
        yield line, value
        at = _after_white(text, at)


def _after_white(text: str, at: int) -> int:
    found = WHITE.match(text, at)
    return found.end() if found else at


def checked(found: Any) -> dict[str, Any]:
    """What is shown to be another device's, or was cut or edited, must not get into a database.
    Raises ValueError."""
    if not isinstance(found, dict) or "endorsement_key" not in found:
        raise ValueError("is no export of 'tpm2cloud identity --json'")
    if found.get("format") != FORMAT:
        which = found.get("format", "none, it is of an older version")
        raise ValueError(f"its format is not {FORMAT}: {which}")
    try:
        _check_names(found)
        for key in (found["endorsement_key"], found["endorsement_key_azure"]):
            if key is not None and registration_ids(_public(key)) != key["registration_ids"]:
                raise ValueError("its registration ids are not those of its endorsement key")
        for certificate in _all_certificates(found):
            _check_certificate(_der(certificate))
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"is incomplete: {type(e).__name__}: {e}") from e
    return found


def _check_names(found: dict[str, Any]) -> None:
    who = found["registration_id"]
    if who is not None and not LEGAL.fullmatch(who):
        raise ValueError(f"its registration_id is not legal: {who!r}")
    for name in ("hostname", "serial", "tpm", "tpm2cloud"):
        text = found[name] or ""
        if not text.isprintable() or text.startswith(FORMULA):
            raise ValueError(f"its {name} is odd: {text!r}")


def _check_certificate(base64: str) -> None:
    """Some makers' are no strict DER; what must not be is one cut off, or something else."""
    der = b64decode(base64, validate=True)
    if not der or first_der(der) != der:
        raise ValueError("a certificate in it is none, or cut off")


def _public(key: dict[str, Any]) -> bytes:
    blob = b64decode(key["public"], validate=True)
    if len(blob) < 2 or int.from_bytes(blob[:2], "big") != len(blob) - 2:
        raise ValueError("its endorsement key is no TPM2B_PUBLIC")
    return blob


def _all_certificates(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from found["endorsement_certificates"]
    yield from found["endorsement_chain"]
    if found["idevid"] is not None:
        yield found["idevid"]
