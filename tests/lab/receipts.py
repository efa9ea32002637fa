"""Receipts: devices that have some, and what somebody might do to one."""

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.lab.device import AGENT, Device

FIRST = "0" * 64


def rows(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(row) for row in rows(data)]


def written(lines: list[dict[str, Any]]) -> bytes:
    """As a receipt is, each line with the digest of the one before: all but the signature."""
    data, previous = b"", FIRST
    for number, line in enumerate(lines):
        line = {**line, "n": number, "previous": previous}
        row = json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        data, previous = data + row, sha256(row).hexdigest()
    return data


# --- mutations ---

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def _bit(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _byte_less(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + 1 :]


def _byte_more(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.choice(b' "0aA=,\n')]) + data[at:]


def _swapped_bytes(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data) - 1)
    return data[:at] + data[at + 1 : at + 2] + data[at : at + 1] + data[at + 2 :]


def _cut_off(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _line_dropped(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = rows(data)
    lines.pop(chance.randrange(len(lines)))
    return b"".join(lines)


def _line_twice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = rows(data)
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return b"".join(lines)


def _lines_moved(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = rows(data)
    chance.shuffle(lines)
    return b"".join(lines)


def _line_of_another(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = rows(data)
    lines[chance.randrange(len(lines))] = chance.choice(rows(other))
    return b"".join(lines)


def _rewritten(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Something else is said, and the chain put right: only the signature is left to tell."""
    lines = read(data)
    event = chance.choice(lines[1:-1])
    lies = {"at": "2020-02-02T00:00:00+00:00", "did": ["provisioned", "x"], "facts": {}}
    name = chance.choice(list(lies))
    event[name] = lies[name]
    return written(lines)


def _shortened(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """A line is dropped, and the chain put right."""
    lines = read(data)
    lines.pop(chance.randrange(1, len(lines) - 1))
    return written(lines)


MUTATIONS: tuple[Mutation, ...] = (
    _bit,
    _byte_less,
    _byte_more,
    _swapped_bytes,
    _cut_off,
    _line_dropped,
    _line_twice,
    _lines_moved,
    _line_of_another,
    _rewritten,
    _shortened,
)


def mutated(data: bytes, other: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many, none of which is `data` or `other`, each with the name of what was done. `other`:
    another receipt of the same device."""
    chance, made = random.Random(seed), 0  # noqa: S311  (to be the same each time)
    while made < count:
        mutation = MUTATIONS[made % len(MUTATIONS)]
        if (found := mutation(chance, data, other)) not in (data, other):
            made += 1
            yield mutation.__name__.strip("_"), found


# --- who judges them ---


def makers(device: Device, at: Path) -> Path:
    """The TPM maker's roots, in one file."""
    found = sorted((device.etc / "tpm-roots.d").iterdir())
    at.write_bytes(b"".join(file.read_bytes() for file in found))
    return at


def verified(device: Device, data: bytes, *options: str) -> subprocess.CompletedProcess[str]:
    """By who has the file, the CA, and nothing else of the device."""
    path = device.directory / "handed-over.jsonl"
    path.write_bytes(data)
    trust = str(device.etc / "idevid-ca.pem")
    return device.agent("receipt", "verify", str(path), "--trust", trust, *options)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- who types the documentation's commands ---


def typing(device: Device, at: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A script for bash, in the directory `at`, with `tpm2cloud` of this device."""
    programs = at / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    shim = programs / "tpm2cloud"
    shim.write_text(f'#!/bin/sh\nexec {AGENT} --config {device.config} "$@"\n')
    shim.chmod(0o755)
    environment = device.environment()
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
        cwd=at,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
