"""The exports of many devices in one table: checked before a back office's database has them."""

import csv
import io
import json
import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from agent.deviceid import registration_ids
from agent.errors import ExportInvalid
from agent.identity_csv import merge, row, table
from tests.conftest import MakeDevice
from tests.lab import documented
from tests.lab.device import AGENT
from tests.lab.process import TOP
from tests.test_identity import SAMPLE_EK, by_tools, from_file, told


def exported(name: str, ek: bytes = b"") -> dict[str, Any]:
    """What a device like that would tell; `ek`: contents of its TPM2B_PUBLIC."""
    public = b64decode(SAMPLE_EK) if not ek else len(ek).to_bytes(2, "big") + ek
    ids = registration_ids(public)
    key = {"public": b64encode(public).decode(), "sha256": ids["sha256_hex"]}
    return {
        "format": 1,
        "tpm2cloud": "0.1.0",
        "registration_id": name,
        "hostname": "raspberrypi",
        "serial": None,
        "tpm": "IFX 7.85",
        "endorsement_key": {**key, "registration_ids": ids, "handle": None, "certificate": None},
        "endorsement_key_azure": None,
        "endorsement_certificates": [],
        "endorsement_chain": [],
        "idevid": None,
    }


def files(directory: Path, *devices: dict[str, Any]) -> list[Path]:
    paths = [directory / f"{n}.json" for n in range(len(devices))]
    for path, found in zip(paths, devices, strict=True):
        path.write_text(json.dumps(found))
    return paths


def test_many_devices_become_one_table(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(id="board-7")
    own = told(device)
    merged = device.run(
        [str(AGENT), "identity", "--merge", *map(str, files(tmp_path, own, exported("board-8")))]
    )
    assert merged.returncode == 0, merged.stderr
    first, second = csv.DictReader(io.StringIO(merged.stdout))
    assert (first["registration_id"], second["registration_id"]) == ("board-7", "board-8")
    assert second["endorsement_key"] == SAMPLE_EK
    assert first["ek_base32"] == own["endorsement_key"]["registration_ids"]["base32"]
    assert len(first["ek_certificates"].split()) == 2
    assert second["serial"] == second["ek_certificates"] == second["idevid_certificate"] == ""

    alone = device.agent("identity", "--csv").stdout
    assert alone == "".join(line + "\n" for line in merged.stdout.splitlines()[:2])


AZ = """#!/bin/sh
printf '%s\\n' "$*" >>"$0.calls"
cat >"$0.stdin"  # whatever else there is to read would be lost
case "$*" in *board-8*) exit 1 ;; esac
"""


def test_the_loop_of_the_documentation_enrols_each_device_of_a_table(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    """As `tpm2cloud identity` says to enrol it; one that is refused is noted, and none left out."""
    device = make_device(id="board-7")
    azure = {**exported("board-9", b"EK")["endorsement_key"], "handle": "0x81010001"}
    odd = {**exported("board-9", b"TCG"), "serial": 'x, "y"', "endorsement_key_azure": azure}
    unnamed = {**exported("", b"another"), "registration_id": None}
    base32 = unnamed["endorsement_key"]["registration_ids"]["base32"]
    exports = files(tmp_path, told(device), exported("board-8"), odd, unnamed)
    (tmp_path / "az").write_text(AZ)
    (tmp_path / "az").chmod(0o755)
    (tmp_path / "devices.csv").write_text(merge(exports) + "\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", documented_loop()], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PATH": path}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    own, eighth, ninth, nameless = (tmp_path / "az.calls").read_text().splitlines()
    [line] = [each for each in device.agent("identity").stdout.splitlines() if "az iot" in each]
    assert sorted(["az", *own.split()]) == sorted([*line.split(), "--output", "none"])
    assert f"--endorsement-key {SAMPLE_EK} " in eighth
    assert f"--endorsement-key {azure['public']} " in ninth  # the one that is kept
    assert f"--enrollment-id {base32} " in nameless
    assert (tmp_path / "failed.txt").read_text() == "board-8\n"


def documented_loop() -> str:
    """What an operator copies."""
    every = documented.blocks(TOP / "docs/enrolment.md")
    [block] = [block.text for block in every if "csv.DictReader" in block.text]
    return block.partition("\n\n")[2]  # behind the table being made


def test_the_certificates_of_a_table_are_der(make_device: MakeDevice) -> None:
    device = make_device()
    by_tools(device, "tpm2_nvread 0x01C00002 -o rsa.der", "tpm2_nvread 0x01C90000 -C p -o id.der")
    [line] = csv.DictReader(io.StringIO(device.agent("identity", "--csv").stdout))
    assert b64decode(line["ek_certificates"].split()[0]) == from_file(device, "rsa.der")
    assert b64decode(line["idevid_certificate"]) == from_file(device, "id.der")


def test_one_file_may_hold_all_that_a_line_has_made(tmp_path: Path) -> None:
    """As `tpm2cloud manufacture >>line.json` collects them."""
    indented = json.dumps(exported("c", b"c"), indent=2)
    lines = [json.dumps(exported("a")), json.dumps(exported("b", b"b")), indented]
    (tmp_path / "line.json").write_text("\n".join(lines) + "\n")
    found = list(csv.DictReader(io.StringIO(merge([tmp_path / "line.json"]))))
    assert [each["registration_id"] for each in found] == ["a", "b", "c"]

    again = json.dumps({**exported("b", b"b"), "serial": "now it has one"})
    (tmp_path / "line.json").write_text("\n".join([*lines, again]))
    found = list(csv.DictReader(io.StringIO(merge([tmp_path / "line.json"]))))
    assert {each["serial"] for each in found if each["registration_id"] == "b"} == {
        "now it has one"
    }
    assert len(found) == 3

    (tmp_path / "line.json").write_text("\n".join([*lines, json.dumps(exported("b", b"d")), "[]"]))
    with pytest.raises(ExportInvalid) as e:
        merge([tmp_path / "line.json"])
    where = tmp_path / "line.json"
    after = 3 + len(indented.splitlines())
    assert f"{where}:{after}: has the same registration_id as {where}:2: b" in str(e.value)
    assert f"{where}:{after + 1}: is no export" in str(e.value)


def test_what_a_serial_number_may_hold_does_not_break_a_table() -> None:
    odd = {**exported("a"), "serial": 'x,"y"'}
    [line] = csv.DictReader(io.StringIO(table([row(odd)])))
    assert line["serial"] == 'x,"y"'


def test_a_device_that_is_there_twice_is_refused_and_no_half_table_comes_out(
    tmp_path: Path,
) -> None:
    paths = files(tmp_path, exported("a"), exported("b", b"EK"), exported("B", b"EK2"))
    done = subprocess.run(
        [AGENT, "identity", "--merge", *paths, shutil.copy(paths[0], tmp_path / "copy.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{paths[2]}: has the same registration_id as {paths[1]}: b" in done.stderr
    assert f"copy.json: has the same ek_sha256 as {paths[0]}: 9232c2fa" in done.stderr
    assert "[export-invalid]" in done.stderr


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in exported("x").items() if key != name}


BROKEN: dict[str, tuple[Any, str]] = {
    "not an object": ([1], "is no export"),
    "something else": ({"a": 1}, "is no export"),
    "an older export": (without("format"), "its format is not 1: none"),
    "a newer export": ({**exported("x"), "format": 2}, "its format is not 1: 2"),
    "cut off": (without("idevid"), "is incomplete: KeyError: 'idevid'"),
    "an illegal name": (exported("a b"), "its registration_id is not legal: 'a b'"),
    "a number for a name": ({**exported("x"), "registration_id": 5}, "is incomplete"),
    "a formula": ({**exported("x"), "serial": "=1+2"}, "its serial is odd"),
    "a line end": ({**exported("x"), "hostname": "a\nb"}, "its hostname is odd"),
    "a key cut off": (
        {**exported("x"), "endorsement_key": {"public": "AAAA", "registration_ids": {}}},
        "its endorsement key is no TPM2B_PUBLIC",
    ),
    "another's key": (
        {**exported("x", b"EK"), "endorsement_key_azure": {
            **exported("x")["endorsement_key"],
            "registration_ids": registration_ids(b""),
        }},
        "its registration ids are not those of its endorsement key",
    ),
    "a certificate that is none": (
        {**exported("x"), "idevid": {"pem": "-----BEGIN\nAAAA\n-----END"}},
        "a certificate in it is none",
    ),
}  # fmt: skip


def test_every_broken_file_is_named_and_all_are_named_at_once(tmp_path: Path) -> None:
    paths = dict(
        zip(BROKEN, files(tmp_path, *(found for found, _ in BROKEN.values())), strict=True)
    )
    (tmp_path / "text").write_text("{")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    more = {"text": "is no JSON", "binary": "is no JSON", "empty": "is empty"}
    more["absent"] = "cannot be read: No such file"
    with pytest.raises(ExportInvalid) as e:
        merge([*paths.values(), *(tmp_path / name for name in more)])
    lines = str(e.value).splitlines()
    for path, why in [(paths[name], why) for name, (_, why) in BROKEN.items()] + [
        (tmp_path / name, why) for name, why in more.items()
    ]:
        [line] = [line for line in lines if line.strip().startswith(f"{path}: ")]
        assert why in line
