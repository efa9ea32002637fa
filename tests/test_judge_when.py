"""When a certificate is to be renewed: the LDevID by its device, the others as certd has it."""

from datetime import datetime, timedelta

import pytest

from agent.health.judge import window, window_of_certd
from tests.lab.dated import DAY, END, FOREVER, START, Ca

SECOND = timedelta(seconds=1)
CA = Ca("Devices")
LEAF = CA.issue()
SEED = b"device-4"


# --- when: the LDevID ----------------------------------------------------------------------------


def test_the_window_of_a_device_is_its_own_and_always_the_same() -> None:
    """Also over releases: what a fleet's servers see must not jump with an update."""
    its = window(LEAF, 0.7, 0.1, SEED)
    assert its == window(LEAF, 0.7, 0.1, SEED)
    assert its.start != window(LEAF, 0.7, 0.1, b"device-2").start
    assert f"{its.start:%Y-%m-%d %H:%M:%S}" == "2026-03-16 02:48:59"
    assert its.late - its.start == its.end - its.late
    assert its.end == END


@pytest.mark.parametrize("seed", [b"", b"device-1", bytes(1000)])
def test_the_spread_is_a_share_of_the_lifetime_too(seed: bytes) -> None:
    for leaf in (LEAF, CA.issue(end=START + 10 * SECOND), CA.issue(end=FOREVER)):
        life = leaf.not_valid_after_utc - START
        begin = window(leaf, 0.7, 0.1, seed).start
        assert START + 0.7 * life <= begin < START + 0.8 * life


@pytest.mark.parametrize("share", [0.7, 0.99, 1.0, 5.0])
def test_a_window_never_opens_after_the_end(share: float) -> None:
    for leaf in (LEAF, CA.issue(end=START), CA.issue(end=FOREVER)):
        its = window(leaf, share, 0.9, SEED)
        assert START <= its.start <= its.late <= its.end == leaf.not_valid_after_utc


# --- when: certd's -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "retry", "start", "late"),
    [
        ("80%", "4%", START + 80 * DAY, START + 88 * DAY),
        ("1%", "1%", START + DAY, START + 3 * DAY),
        ("99%", "99%", START + 99 * DAY, END),  # no later than the end
        ("90day", "30min", START + 10 * DAY, START + 10 * DAY + timedelta(hours=1)),
        ("1day", "1day", END - DAY, END),
        ("30min", "1min", END - timedelta(minutes=30), END - timedelta(minutes=28)),
        ("101day", "4%", START, START + 8 * DAY),  # longer than it lives: at once
        ("99999999999999999999day", "99999999999999999999day", START, END),
    ],
)
def test_certd_renews_as_its_policy_says(
    threshold: str, retry: str, start: datetime, late: datetime
) -> None:
    its = window_of_certd(LEAF, threshold, retry)
    assert (its.start, its.late, its.end, its.by) == (start, late, END, "aziot-certd")


def test_certd_waits_a_second_at_least() -> None:
    its = window_of_certd(CA.issue(end=START + 10 * SECOND), "80%", "1%")
    assert (its.start, its.late) == (START + 8 * SECOND, START + 10 * SECOND)


@pytest.mark.parametrize(
    "policy", ["", "%", "0%", "100%", "80", "-1day", "1.5%", "1h", "1 day", "0min"]
)
def test_a_policy_that_certd_would_refuse_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="is meant"):
        window_of_certd(LEAF, policy, "4%")
    with pytest.raises(ValueError, match="is meant"):
        window_of_certd(LEAF, "80%", policy)


@pytest.mark.parametrize("policy", ["80%", "90day", "30min"])
def test_odd_dates_make_no_odd_windows(policy: str) -> None:
    for leaf in (CA.issue(end=START), CA.issue(end=FOREVER)):
        its = window_of_certd(leaf, policy, policy)
        assert START <= its.start <= its.late <= its.end == leaf.not_valid_after_utc
