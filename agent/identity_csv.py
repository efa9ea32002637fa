"""The exports of many devices, checked and brought into one table; no TPM, no configuration."""

import csv
import hashlib
import io
import json
from base64 import b32encode, b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from agent.deviceid import LEGAL
from agent.errors import ExportInvalid

FORMAT = 1  # of the JSON; a reader of one refuses the next
LARGEST = 1 << 20  # bytes; an export has some 10,000
FORMULA = tuple("=+-@")  # what a spreadsheet would compute
Row = dict[str, str]


def registration_ids(blob: bytes) -> dict[str, str]:
    """The two names that devices are enrolled under by their EK (`blob`: TPM2B_PUBLIC, with its two
    size bytes). `base32`: of its SHA-256, RFC 4648, lower case, no padding, 52 characters, as the C
    SDK's tpm_device_provision and the Node SDK have it; `sha256_hex`: 64 characters, as IoT Edge's
    documentation makes it of `tpm2_readpublic -o ek.pub`."""
    digest = hashlib.sha256(blob)
    base32 = b32encode(digest.digest()).decode().rstrip("=").lower()
    return {"base32": base32, "sha256_hex": digest.hexdigest()}


def row(found: dict[str, Any]) -> Row:
    """One device. Certificates are DER in base64, several with a blank between them; what there is
    none of is empty."""
    own, azure = found["endorsement_key"], found["endorsement_key_azure"]
    return {
        **{name: found[name] or "" for name in ("registration_id", "hostname", "serial", "tpm")},
        **_key(own, ""),
        **_key(azure, "azure_"),
        "ek_certificates": " ".join(map(_der, found["endorsement_certificates"])),
        "ek_chain": " ".join(map(_der, found["endorsement_chain"])),
        "idevid_certificate": _der(found["idevid"]) if found["idevid"] else "",
        "tpm2cloud": found["tpm2cloud"],
    }


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
    """One table of all these exports. Raises ExportInvalid with all that is wrong with any."""
    problems: list[str] = []
    found: list[tuple[Path, Row]] = []
    for file in files:
        try:
            found.append((file, row(_checked(_parsed(file)))))
        except OSError as e:
            problems.append(f"{file}: cannot be read: {e.strerror}")
        except ValueError as e:
            problems.append(f"{file}: {e}")
    for column in ("registration_id", "ek_sha256", "azure_ek_sha256"):
        problems += _twice(found, column)
    if problems:
        raise ExportInvalid("cannot merge:\n  " + "\n  ".join(problems))
    return table([cells for _, cells in found])


def _twice(found: Sequence[tuple[Path, Row]], column: str) -> Iterator[str]:
    """To DPS upper and lower case are the same."""
    first: dict[str, Path] = {}
    for file, cells in found:
        value = cells[column].lower()
        if value in first:
            yield f"{file}: has the same {column} as {first[value]}: {value}"
        elif value:
            first[value] = file


def _parsed(file: Path) -> dict[str, Any]:
    with file.open("rb") as f:
        data = f.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError("is too large for an export of one device")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"is no JSON: {e}") from e
    if not isinstance(found, dict) or "endorsement_key" not in found:
        raise ValueError("is no export of 'tpm2cloud identity --json'")
    if found.get("format") != FORMAT:
        which = found.get("format", "none, it is of an older version")
        raise ValueError(f"its format is not {FORMAT}: {which}")
    return found


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """What is shown to be another device's, or was cut or edited, must not get into a database.
    Raises ValueError."""
    try:
        _check_names(found)
        for key in (found["endorsement_key"], found["endorsement_key_azure"]):
            if key is not None and registration_ids(_public(key)) != key["registration_ids"]:
                raise ValueError("its registration ids are not those of its endorsement key")
        for certificate in _all_certificates(found):
            x509.load_der_x509_certificate(b64decode(_der(certificate), validate=True))
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
