"""The units of telemetry: an example that nothing enables, and that needs nobody once it is."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from agent.errors import ConfigError, NoPermission, every_error
from agent.hub import PATIENCE
from tests.lab import units

NAME, SOCKET = "tpm2cloud-telemetry.service", "tpm2cloud-telemetry.socket"
SERVICE, PIPE = units.ours(NAME), units.read(units.OURS / SOCKET)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return units.tree(tmp_path_factory.mktemp("units") / "root")


def test_systemd_has_nothing_to_complain_of_and_its_exposure_is_at_most_one_and_a_half(
    root: Path,
) -> None:
    done = units.verify(root, NAME, SOCKET)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = units.exposure(root, NAME, at_most=15)
    assert done.returncode == 0, done.stdout


def test_no_boot_starts_it_unless_somebody_has_enabled_it(root: Path) -> None:
    boot = units.transaction(root)
    assert not {NAME, SOCKET} & boot.keys()
    preset = (units.OURS / "80-tpm2cloud.preset").read_text().splitlines()
    assert f"disable {SOCKET}" in preset, "a first boot enables what no preset names"
    assert not any(key.startswith("Install.") for key in SERVICE)


def test_it_waits_for_lines_and_starts_on_the_same_conditions_as_its_pipe() -> None:
    assert SERVICE["Service.StandardInput"] == ["socket"]
    assert SERVICE["Service.ExecStart"] == ["/usr/bin/tpm2cloud telemetry --patience forever"]
    for key in ("Unit.ConditionPathExists", "Unit.ConditionPathExistsGlob"):
        assert SERVICE[key] == PIPE[key]


def test_it_is_tried_again_unless_a_person_is_needed() -> None:
    given_up = {int(word) for word in units.words(SERVICE, "Service.RestartPreventExitStatus")}
    for error in every_error():
        if issubclass(error, NoPermission | ConfigError):
            assert error.status in given_up, error
        else:
            assert error.status not in given_up, error


def test_it_has_more_time_to_end_than_a_login_and_an_acknowledgement_take() -> None:
    assert SERVICE["Service.TimeoutStopSec"] == ["2min"]
    assert PATIENCE + 60 < 120


def test_what_was_written_before_the_pipe_was_there_is_not_in_its_way_and_not_lost(
    tmp_path: Path,
) -> None:
    (line,) = PIPE["Socket.ExecStartPre"]
    command = shlex.split(line.replace("/run/tpm2cloud", str(tmp_path)))
    assert subprocess.check_output(command) == b"", "nothing is there, as always"
    file = tmp_path / "telemetry"
    file.write_text("early\n")
    assert b"telemetry.not-sent" in subprocess.check_output(command)
    assert (tmp_path / "telemetry.not-sent").read_text() == "early\n"
    assert not file.exists()
    os.mkfifo(file)
    assert subprocess.check_output(command) == b""
    assert file.is_fifo()
