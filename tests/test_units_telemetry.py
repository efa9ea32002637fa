"""The units of telemetry: an example that nothing enables, and that needs nobody once it is."""

from pathlib import Path

import pytest

from agent.errors import ConfigError, NoPermission, TpmError, TpmLockout, TpmShared, every_error
from agent.hub import PATIENCE
from tests.lab import units

NAME, SOCKET = "tpm2cloud-telemetry.service", "tpm2cloud-telemetry.socket"
SERVICE, PIPE = units.ours(NAME), units.read(units.OURS / SOCKET)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return units.tree(tmp_path_factory.mktemp("units") / "root")


def test_systemd_has_nothing_to_complain_of_and_its_exposure_is_at_most_two(root: Path) -> None:
    done = units.verify(root, NAME, SOCKET)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = units.exposure(root, NAME, at_most=20)
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
        needs_a_person = issubclass(error, TpmError | NoPermission | ConfigError)
        if needs_a_person and error not in (TpmLockout, TpmShared):
            assert error.status in given_up or error.status == 75, error


def test_it_has_more_time_to_end_than_a_login_and_an_acknowledgement_take() -> None:
    assert SERVICE["Service.TimeoutStopSec"] == ["2min"]
    assert PATIENCE + 60 < 120
