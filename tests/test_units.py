"""The unit of the first boot, and what our services have in common: in order for systemd, in a
sandbox, at their place in a boot, true to the agent. The companion's: test_units_health.py."""

import ast
import re
from pathlib import Path

import pytest

from agent import config, dps, hub, schema, turn
from agent.errors import (
    MAYBE_THE_CLOCK,
    ConfigError,
    HubKeyNotKept,
    NoPermission,
    PcrMoved,
    TpmError,
    TpmLockout,
    TpmShared,
    every_error,
)
from tests.lab import units

SERVICE = units.ours(units.FIRSTBOOT)
EVERY_FILE = [path for path in units.OURS.rglob("*") if path.is_file()]
GROWING = units.OURS / "since-254"
OURS = [units.FIRSTBOOT, "tpm2cloud.target", units.HEALTH, *units.TIMERS]
AZIOT = [f"aziot-{name}.service" for name in (*units.DAEMONS, "edged")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return units.tree(tmp_path_factory.mktemp("units") / "root")


def seconds(key: str) -> float:
    return schema.duration(SERVICE[f"Service.{key}"][0]).total_seconds()


# --- what systemd says ---


@pytest.mark.parametrize("unit", [*OURS, *AZIOT, *units.SOCKETS])
def test_systemd_has_nothing_to_complain_of(root: Path, unit: str) -> None:
    done = units.verify(root, unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_delay_grows_where_systemd_knows_how_and_only_there(tmp_path: Path) -> None:
    done = units.verify(units.tree(tmp_path / "root", also=GROWING), units.FIRSTBOOT)
    complaints = done.stdout + done.stderr
    assert ("'RestartSteps'" in complaints) is (units.version() < 254)
    assert (complaints == "") is (units.version() >= 254)


@pytest.mark.parametrize("service", [units.FIRSTBOOT, units.HEALTH])
def test_its_exposure_is_at_most_one_and_a_half(root: Path, service: str) -> None:
    done = units.exposure(root, service, at_most=15)
    assert done.returncode == 0, done.stdout


# --- its place in a boot ---


def test_nobodys_boot_waits_for_it(root: Path) -> None:
    boot = units.transaction(root)
    assert units.FIRSTBOOT in boot, "it is started"
    assert "tpm2cloud.target" in boot["multi-user.target"]["Wants"]
    waiting = {
        unit for unit, settings in boot.items() if units.FIRSTBOOT in settings.get("After", [])
    }
    after_it = {f"aziot-{name}.service" for name in units.DAEMONS} | {units.HEALTH}
    assert waiting - {"shutdown.target"} == after_it


def test_iot_edges_other_services_wait_for_the_local_work_but_edged_does_not() -> None:
    """multi-user.target waits for aziot-edged.service: what that waits for, everybody does."""
    assert units.words(SERVICE, "Unit.Before") == [f"aziot-{n}.service" for n in units.DAEMONS]


def test_it_waits_for_network_and_tpm_and_starts_without_them_too() -> None:
    for wanted in ("network-online.target", "dev-tpmrm0.device"):
        assert wanted in units.words(SERVICE, "Unit.Wants")
        assert wanted in units.words(SERVICE, "Unit.After")
    for device in ("dev-tpmrm0.device", "dev-tpm0.device"):  # the other is tpm2-abrmd's
        assert units.drop_in(device) == {"Unit.JobRunningTimeoutSec": ["30s"]}
    assert not {"Unit.Requires", "Unit.BindsTo", "Unit.Requisite"} & SERVICE.keys()


def test_a_service_of_iot_edge_and_its_sockets_begin_with_their_configuration() -> None:
    """On the same conditions: a socket whose service does not start hits its trigger limit."""
    for socket in units.SOCKETS:
        name = socket.split(".")[0].removeprefix("aziot-")
        for unit in (socket, units.service_of(socket)):
            given = {k: v for k, v in units.drop_in(unit).items() if k.startswith("Unit.Condition")}
            assert given == {
                "Unit.ConditionPathExists": [f"|/etc/aziot/{name}/config.toml"],
                "Unit.ConditionPathExistsGlob": [f"|/etc/aziot/{name}/config.d/*.toml"],
            }, unit


def test_the_preset_enables_what_starts_us_and_nothing_that_sockets_start() -> None:
    lines = (units.OURS / "80-tpm2cloud.preset").read_text().splitlines()
    enabled = {line.split()[1] for line in lines if line.startswith("enable ")}
    disabled = {line.split()[1] for line in lines if line.startswith("disable ")}
    assert enabled == {units.FIRSTBOOT, *units.words(SERVICE, "Install.Also")}
    others = {f"aziot-{name}.service" for name in units.DAEMONS}
    assert disabled == {*others, "tpm2cloud-telemetry.socket"}


# --- true to the agent ---


def test_it_is_tried_again_unless_a_person_is_needed() -> None:
    given_up = {int(word) for word in units.words(SERVICE, "Service.RestartPreventExitStatus")}
    for error in every_error():
        needs_a_person = issubclass(error, TpmError | NoPermission | ConfigError)
        # It expires; it is left alone; it is on the disk; the clock is put right.
        passing = (TpmLockout, TpmShared, PcrMoved, HubKeyNotKept, *MAYBE_THE_CLOCK)
        needs_a_person &= error not in passing
        assert (error.status in given_up) is needs_a_person, error
    assert SERVICE["Service.Restart"] == ["on-failure"]
    assert SERVICE["Unit.StartLimitIntervalSec"] == ["0"]


def test_it_has_more_time_than_the_agent_gives_itself() -> None:
    """Before READY=1: the TPM, its keys, and EST: cacerts, csrattrs, simpleenroll, one more try;
    without IoT Edge, DPS and a login at the hub. After it: answer, apply, answer, apply,
    reprovision, confirm."""
    slow_chip = 600
    est = config.LdevidEst(url="https://est.example").timeout.total_seconds()
    azure = turn.NEAR + dps.PATIENCE + 2 * hub.PATIENCE
    ours = config.Tpm().wait.total_seconds() + slow_chip + 4 * est
    assert seconds("TimeoutStartSec") > ours + azure
    assert seconds("RuntimeMaxSec") > 6 * config.Aziot().timeout.total_seconds()


def test_every_secret_the_agent_asks_for_can_be_put_into_the_credential_store() -> None:
    """By its mere name: then systemd looks for it in /etc/credstore, and does without. The
    factory's are none of the service's."""
    every = {name for file in (units.TOP / "agent").rglob("*.py") for name in asked_for(file)}
    asked = {name for name in every if not name.startswith("factory-")}
    assert len(asked) == 7
    assert set(SERVICE["Service.LoadCredential"]) == asked


def asked_for(file: Path) -> set[str]:
    """First arguments of credentials.read() and .optional(); {name} is a hierarchy."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("credentials"), attr="read" | "optional"),
                args=[name, *_],
            ):
                text = ast.unparse(name).lstrip("f").strip("'\"")
                found |= {text.format(name=each) for each in config.HIERARCHIES}
    return found


def test_the_places_where_the_agent_writes_by_default_are_writable() -> None:
    state = Path("/var/lib", SERVICE["Service.StateDirectory"][0])
    assert state == config.VAR
    writable = [state, *map(Path, re.findall("-(/.+?)(?: |$)", writes()))]
    aziot = config.Aziot()
    for place in (config.Pkcs11().store, aziot.directory, aziot.state):
        assert any(place.is_relative_to(each) for each in writable), place


def writes() -> str:
    """Each is optional ("-"): IoT Edge may be installed later."""
    places = units.words(SERVICE, "Service.ReadWritePaths")
    assert all(place.startswith("-/") for place in places)
    return " ".join(places)


def test_the_default_tpm_is_the_one_device_that_is_there() -> None:
    tpm = config.Tpm().tcti.removeprefix("device:")
    assert SERVICE["Service.BindPaths"] == [f"-{tpm}"]
    assert SERVICE["Service.DeviceAllow"] == ["char-tpm rw"]


def test_the_key_service_finds_the_store_and_with_the_tpm_service_may_use_the_tpm() -> None:
    keyd = units.drop_in("aziot-keyd.service")
    store = f"TPM2_PKCS11_STORE={config.Pkcs11().store}"
    assert keyd["Service.Environment"] == [store, "TPM2_PKCS11_TCTI=tabrmd:"]
    for settings in (keyd, units.drop_in("aziot-tpmd.service")):
        assert settings["Service.SupplementaryGroups"] == ["tss"]
    assert keyd["Unit.After"] == keyd["Unit.Wants"] == ["tpm2-abrmd.service"]


def test_the_journal_is_on_disk_when_the_local_work_is_done_and_when_something_failed() -> None:
    for when in ("ExecStartPost", "ExecStopPost"):
        assert SERVICE[f"Service.{when}"] == ["-/usr/bin/journalctl --sync"]


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.relative_to(units.OURS)))
def test_each_file_begins_with_why_it_exists(path: Path) -> None:
    comment = path.read_text().partition("\n\n")[0].splitlines()
    assert len(comment) >= 2
    assert all(line.startswith("#") for line in comment)
