"""The companion's units: when they run it, what they take for a success, and that nobody waits."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from agent import config, schema
from agent.errors import every_error
from tests.lab import units

SERVICE = units.ours(units.HEALTH)
FIRSTBOOT = units.ours(units.FIRSTBOOT)
HOURLY, AT_BOOT, AT_JUMP = (units.read(units.OURS / timer) for timer in units.TIMERS)
# What may differ between our services: the rest is what they have in common.
OF_ITS_OWN = {
    *("Unit.Description", "Unit.Before", "Unit.After", "Unit.StartLimitIntervalSec"),
    *("Service.Type", "Service.RemainAfterExit", "Service.NotifyAccess"),
    *("Service.ExecStart", "Service.ExecStartPost", "Service.ExecStopPost"),
    *("Service.Restart", "Service.RestartSec", "Service.RestartPreventExitStatus"),
    *("Service.SuccessExitStatus", "Service.TimeoutStartSec", "Service.RuntimeMaxSec"),
    *("Service.RuntimeDirectory", "Service.RuntimeDirectoryMode"),
    *("Service.RuntimeDirectoryPreserve", "Service.ReadWritePaths"),
    *("Install.WantedBy", "Install.Also"),
}


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, units.Settings]:
    return units.transaction(units.tree(tmp_path_factory.mktemp("units") / "root"))


def span(settings: units.Settings, key: str) -> timedelta:
    return schema.duration(settings[key][0].replace("1h", "60min"))


# --- what it may do ---


def test_it_may_do_what_the_first_boot_may_and_says_so_in_one_place() -> None:
    differing = {key for key in {*SERVICE, *FIRSTBOOT} if SERVICE.get(key) != FIRSTBOOT.get(key)}
    assert differing <= OF_ITS_OWN, differing - OF_ITS_OWN
    common = units.read(units.COMMON)
    for service in (units.HEALTH, units.FIRSTBOOT):
        twice = units.read(units.OURS / service).keys() & common.keys()
        assert twice <= {"Unit.After", "Service.ReadWritePaths"}


def test_it_may_write_what_the_first_boot_may_and_prometheus_metrics() -> None:
    more = set(units.words(SERVICE, "Service.ReadWritePaths"))
    more -= set(units.words(FIRSTBOOT, "Service.ReadWritePaths"))
    assert more == {"-/var/lib/prometheus/node-exporter"}


def test_its_summary_is_for_everybody_and_stays() -> None:
    assert SERVICE["Service.RuntimeDirectory"] == ["tpm2cloud"]
    assert SERVICE["Service.RuntimeDirectoryMode"] == ["0755"]
    assert SERVICE["Service.RuntimeDirectoryPreserve"] == ["yes"]


# --- when it runs ---


def test_it_runs_once_per_hour_at_a_minute_of_the_devices_own() -> None:
    assert HOURLY["Timer.OnCalendar"] == ["hourly"]
    assert HOURLY["Timer.FixedRandomDelay"] == AT_BOOT["Timer.FixedRandomDelay"] == ["yes"]
    late = span(HOURLY, "Timer.RandomizedDelaySec") + span(HOURLY, "Timer.AccuracySec")
    assert timedelta(minutes=59) <= late < timedelta(hours=1)  # a full hour: every other is missed


def test_no_run_is_without_a_delay_of_the_devices_own() -> None:
    """As those are that the clock's change starts: and all get the time in one moment."""
    for timer in (HOURLY, AT_BOOT):
        assert timer.get("Timer.OnClockChange", ["no"]) == ["no"]
        assert "Timer.OnTimezoneChange" not in timer
        assert span(timer, "Timer.RandomizedDelaySec") >= timedelta(minutes=10)


def test_when_the_clock_jumps_the_timer_with_the_delay_counts_anew() -> None:
    assert AT_JUMP["Timer.OnClockChange"] == ["yes"]
    [counts] = AT_JUMP["Timer.Unit"]
    [command] = units.read(units.OURS / counts)["Service.ExecStart"]
    assert command == f"/usr/bin/systemctl --no-block restart {units.TIMERS[1]}"


def test_it_runs_when_a_run_was_missed_and_soon_after_a_boot() -> None:
    assert HOURLY["Timer.Persistent"] == ["yes"]
    assert AT_BOOT["Timer.Unit"] == [units.HEALTH]
    first = span(AT_BOOT, "Timer.OnActiveSec")
    assert first + span(AT_BOOT, "Timer.RandomizedDelaySec") <= timedelta(minutes=15)


def test_a_boot_starts_the_timers_and_nobody_waits_for_them_or_it(
    boot: dict[str, units.Settings],
) -> None:
    started = {unit for unit, of in boot.items() if "Action" in of}
    assert {*units.TIMERS, units.FIRSTBOOT} <= started
    assert units.HEALTH not in started
    for each in (units.HEALTH, *units.TIMERS):
        waiting = {unit for unit, of in boot.items() if each in of.get("After", [])}
        assert waiting <= {"shutdown.target", "timers.target", units.HEALTH, *AT_JUMP["Timer.Unit"]}
    assert not {unit for unit, of in boot.items() if "timers.target" in of.get("After", [])}


def test_who_enables_the_first_boot_enables_the_companion(tmp_path: Path) -> None:
    root = units.tree(tmp_path / "root")  # FIRSTBOOT is what it enables
    for timer in units.TIMERS:
        assert (root / "etc/systemd/system/timers.target.wants" / timer).is_symlink()
    preset = (units.OURS / "80-tpm2cloud.preset").read_text()
    assert {f"enable {timer}" for timer in units.TIMERS} <= {*preset.splitlines()}


def test_it_looks_after_provisioning_had_its_turn_but_does_not_need_it() -> None:
    assert units.FIRSTBOOT in units.words(SERVICE, "Unit.After")
    assert units.FIRSTBOOT not in units.words(SERVICE, "Unit.Wants")
    assert not {"Unit.Requires", "Unit.BindsTo", "Unit.Requisite"} & SERVICE.keys()


# --- true to the agent ---


def test_what_is_daily_business_is_no_failure_and_what_needs_a_person_is() -> None:
    fine = {int(word) for word in units.words(SERVICE, "Service.SuccessExitStatus")}
    assert fine == {3, 75}
    assert {error.status for error in every_error()} - fine == {69, 70, 76, 77, 78}
    assert "Service.Restart" not in SERVICE  # the timer does that


def test_it_has_the_time_that_its_longest_run_takes() -> None:
    """A new key and its certificate as at a first boot; renewed, refused, got back by another
    login; then IoT Edge: as in the first boot's unit."""
    slow_chip = timedelta(minutes=10)
    est = config.LdevidEst(url="https://est.example").timeout
    longest = config.Tpm().wait + slow_chip + 12 * est + 6 * config.Aziot().timeout
    assert span(SERVICE, "Service.TimeoutStartSec") > longest


def test_what_it_says_while_it_works_reaches_systemd() -> None:
    assert SERVICE["Service.Type"] == ["oneshot"]
    assert SERVICE["Service.NotifyAccess"] == ["main"]


def test_every_comment_names_units_that_there_are() -> None:
    for path in units.OURS.rglob("*.*"):
        if path.is_file():
            named = re.findall(
                r"tpm2cloud[a-z_-]*@?\.(?:service|socket|timer|target)\b(?!\.d)", path.read_text()
            )
            assert all((units.OURS / name).exists() for name in named), path
