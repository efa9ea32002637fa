"""What the companion says: to a person, to programs, to Prometheus, and by its exit status."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import status
from agent.errors import AgentError, EstForbidden, TpmUnavailable, Unreachable
from agent.health.judge import CONDITIONS, US, Condition, Found, Judged, Window, judge
from agent.health.shown import Report, as_json, as_text, changes, textfile, verdict
from agent.tpm import Budget, Tpm
from tests.lab.dated import DAY, END, FOREVER, KEY, START, Ca

CA = Ca("Devices")
WINDOW = Window(START + 70 * DAY, START + 85 * DAY, END, "70 % of its lifetime")
ROOM = Budget(
    persistent_used=4,
    persistent_available=20,
    nv_indices=3,
    nv_bytes=2048,
    nv_index_max=2048,
    transient_used=0,
    transient_available=3,
    sessions_used=0,
    sessions_available=3,
    lockout_counter=1,
    lockout_max=32,
    lockout_interval=7200,
    in_lockout=False,
    passwords=frozenset({"owner"}),
    disabled=frozenset({"platform"}),
)
HOST = "est.example"
AWAY = Unreachable("cannot reach est.example: connection refused", host=HOST)
REFUSED = EstForbidden("cannot enroll at est.example: it answers 403", host=HOST)


def seen(now: datetime = START, *, by: str = US, **more: Any) -> Judged:
    """One certificate, judged at a moment."""
    usual = Found(
        name="ldevid",
        what="logs in at the owner's servers",
        path=Path("/var/lib/tpm2cloud/ldevid.pem"),
        chain=[CA.issue()],
        key=KEY.public_key(),
        has_key=True,
        window=replace(WINDOW, by=by) if by else None,
        roots=[CA.certificate],
    )
    return judge(replace(usual, **more), now)


FRESH, DUE = seen(), seen(WINDOW.start, name="device-id", by="aziot-identityd")
FOR_EVER = seen(name="idevid", by="", chain=[CA.issue(end=FOREVER)])


def report(*certificates: Judged, **more: Any) -> Report:
    return Report(START + timedelta(microseconds=5), certificates, more.pop("tpm", ROOM), **more)


# --- the exit status -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "status"),
    [
        (FRESH, 0),
        (FOR_EVER, 0),
        (DUE, 3),
        (seen(WINDOW.late), 3),
        (seen(END + DAY), 3),  # ldevid.recover says how, or a problem why not
        (seen(chain=None), 3),
        (seen(START - DAY), 3),
        (seen(START - DAY, by=""), 3),  # passes by itself
        (seen(END + DAY, by=""), 4),  # and nobody renews it
        (seen(roots=[], by=""), 4),
        (seen(roots=[], by="", needed=False), 0),
        (seen(chain=None, window=None, needed=False, by="aziot-certd"), 0),  # not wanted yet
        (seen(END + DAY, needed=False, by="aziot-certd"), 3),  # but a stuck one is stuck
    ],
)
def test_the_worst_certificate_decides(certificate: Judged, status: int) -> None:
    assert verdict(report(FRESH, certificate)) == status


@pytest.mark.parametrize(("problem", "status"), [(None, 0), (AWAY, 3), (REFUSED, 4)])
def test_what_is_tried_again_needs_nobody_and_a_refusal_does(
    problem: AgentError | None, status: int
) -> None:
    assert verdict(report(FRESH, problem=problem)) == status


def test_a_lockout_passes_by_itself_and_a_tpm_that_tells_nothing_is_no_failure() -> None:
    assert verdict(report(FRESH, tpm=replace(ROOM, in_lockout=True))) == 3
    assert verdict(report(FRESH, tpm=TpmUnavailable("it is away", tcti="device"))) == 0


def test_what_is_not_done_yet_is_not_well_though_all_certificates_are() -> None:
    it = report(FRESH, waits=["aziot-edged fails"])
    assert verdict(it) == 3
    assert "aziot-edged fails." in list(as_text(it))
    assert as_json(it)["waits"] == ["aziot-edged fails"]
    assert verdict(Report(START)) == 0  # a look at nothing


# --- what changed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, [FRESH], []),
        ({}, [DUE], [("device-id", "unknown", "due")]),
        ({"ldevid": "due"}, [FRESH], [("ldevid", "due", "fresh")]),
        ({"ldevid": "fresh", "device-id": "due"}, [FRESH, DUE], []),
        (
            {"device-id": "overdue", "gone": "fresh"},
            [FRESH, DUE],
            [("device-id", "overdue", "due")],
        ),
        ({}, [seen(chain=None, window=None, needed=False, by="aziot-certd")], []),
    ],
)
def test_a_state_is_news_once(
    before: dict[str, str], now: Sequence[Judged], told: list[tuple[str, str, str]]
) -> None:
    assert changes(before, report(*now)) == told
    after = before | {each.name: each.state for each in now}
    assert changes(after, report(*now)) == []


# --- text ----------------------------------------------------------------------------------------


def test_all_is_well_in_a_line_each() -> None:
    assert list(as_text(report(FRESH, FOR_EVER))) == [
        "ldevid  fresh  valid until 2026-04-11 00:00Z; due from 2026-03-12 00:00Z: "
        "70 % of its lifetime",
        "idevid  fresh  valid without end",
        "TPM: 4 keys kept, room for 20; 3 NV indices, 2048 bytes; 0 of 3 slots taken; "
        "1 of 32 wrong passwords until lockout; password: owner; off: platform.",
        "All is well with this device.",
    ]


def test_what_is_not_well_has_its_future_below_it() -> None:
    services = {"aziot-certd": "active", "aziot-edged": "failed"}
    data = {"sent": 3100, "received": 5200, "limit": 100000}
    done = ["restarted aziot-identityd: device-id is overdue"]
    it = report(FRESH, DUE, services=services, data=data, actions=done, problem=REFUSED)
    assert list(as_text(it))[1:3] + list(as_text(it))[4:] == [
        "device-id  due    due since 2026-03-12 00:00Z: 70 % of its lifetime",
        "                  Next: renewed by aziot-identityd",
        "Services: aziot-certd active, aziot-edged failed.",
        "Data today: 3100 bytes sent, 5200 received, of 100000 allowed.",
        "Done: restarted aziot-identityd: device-id is overdue",
        "cannot enroll at est.example: it answers 403 [est-forbidden]",
        "  Remedy: est.example knows this device, but will not issue: ask whoever runs the CA",
        "Not all is well with this device, and it needs a person.",
    ]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    stuck = seen(WINDOW.late, name="est-id", by="aziot-certd", stopped="it is over")
    lines = list(as_text(report(FRESH, stuck)))
    assert lines[0].startswith("ldevid  fresh                   valid ")
    assert lines[1].startswith("est-id  no longer auto-renewed  aziot-certd says: it is over")
    assert lines[2].startswith("                                Next: this companion steps in")


def test_a_tpm_that_tells_nothing_is_told() -> None:
    away = TpmUnavailable("cannot reach the TPM: no such device", tcti="device")
    lines = list(as_text(report(tpm=away)))
    assert lines[0] == f"TPM: what is left in it cannot be told: {away}"


def test_the_line_of_the_tpm_is_that_of_status(tpm: Tpm) -> None:
    room = status.room(tpm)
    of_status = list(status.as_text([status.Seen("tpm", "done")], room))
    assert next(iter(as_text(report(tpm=room)))) == of_status[1]
    assert as_json(report(tpm=room))["tpm"] == status.as_json([], room)["tpm"]


# --- JSON ----------------------------------------------------------------------------------------


def test_json_has_names_that_stay_and_dates_of_rfc_3339() -> None:
    data = {"sent": 1, "received": 2, "limit": 0}
    told = json.loads(json.dumps(as_json(report(DUE, data=data, problem=AWAY))))
    assert told["certificates"] == [
        {
            "name": "device-id",
            "what": "logs in at the owner's servers",
            "state": "due",
            "not_before": "2026-01-01T00:00:00Z",
            "not_after": "2026-04-11T00:00:00Z",
            "threshold": "2026-03-12T00:00:00Z",
            "why": "due since 2026-03-12 00:00Z: 70 % of its lifetime",
            "next": "renewed by aziot-identityd",
            "renewed_by": "aziot-identityd",
            "needed": True,
        }
    ]
    assert told["problem"]["code"] == "unreachable"
    assert HOST in told["problem"]["remedy"]
    assert (told["at"], told["state"]) == ("2026-01-01T00:00:00Z", "being tried")
    assert (told["services"], told["actions"], told["data"]) == ({}, [], data)
    assert told["tpm"]["lockout_counter"] == 1


def test_what_is_not_there_is_null() -> None:
    away = TpmUnavailable("it is away", tcti="device")
    told = as_json(report(seen(chain=None, by="", needed=False), tpm=away))
    (missing,) = told["certificates"]
    assert [missing[key] for key in ("not_before", "not_after", "threshold", "renewed_by")] == [
        None
    ] * 4
    assert (told["tpm"], told["problem"], told["state"]) == (None, None, "well")


# --- Prometheus ----------------------------------------------------------------------------------

Labels = frozenset[tuple[str, str]]


def scraped(it: Report) -> dict[tuple[str, Labels], float]:
    """As Prometheus' own parser reads it; each metric with help and type, and only once."""
    families = list(text_string_to_metric_families(textfile(it)))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation and family.type == "gauge" for family in families)
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def value(samples: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return samples[f"tpm2cloud_{name}", frozenset(labels.items())]


def test_prometheus_gets_dates_states_and_the_tpm() -> None:
    data = {"sent": 3100, "received": 5200, "limit": 0}
    services = {"aziot-certd": "failed (failed, started anew 5 times)", "aziot-keyd": "active"}
    services["aziot-edged"] = "active (running)"
    it = report(FRESH, DUE, FOR_EVER, services=services, data=data)
    samples = scraped(it)
    for name, moment in {"not_before": START, "threshold": WINDOW.start, "not_after": END}.items():
        seconds = value(samples, f"certificate_{name}_seconds", certificate="device-id")
        assert seconds == moment.timestamp()
    assert value(samples, "certificate_not_after_seconds", certificate="idevid") == 253402300799
    assert value(samples, "tpm_lockout_counter") == 1
    assert value(samples, "tpm_in_lockout") == 0
    assert value(samples, "data_bytes", direction="sent") == 3100
    for unit, active in {"aziot-certd": 0, "aziot-keyd": 1, "aziot-edged": 1}.items():
        assert value(samples, "service_active", unit=unit) == active
    assert value(samples, "health_last_run_seconds") == START.timestamp()
    assert value(samples, "health_verdict") == 3


@pytest.mark.parametrize("state", CONDITIONS)
def test_a_certificate_is_in_one_state_of_all(state: Condition) -> None:
    samples = scraped(report(replace(FRESH, state=state)))
    for each in CONDITIONS:
        told = value(samples, "certificate_state", certificate="ldevid", state=each)
        assert told == (each == state)


def test_what_is_missing_and_not_needed_raises_no_alert() -> None:
    there, absent = replace(FRESH, state="missing"), replace(FRESH, state="missing", needed=False)
    assert 'state="missing"} 1' in textfile(report(there))
    assert "certificate_state" not in textfile(report(absent))


def test_a_file_for_prometheus_ends_with_a_line_end_and_has_no_empty_metrics() -> None:
    away = TpmUnavailable("it is away", tcti="device")
    text = textfile(report(tpm=away))
    assert text.endswith("\n")
    assert "certificate" not in text
    assert "tpm2cloud_tpm" not in text
    assert "service" not in text
    assert scraped(report(tpm=away))


def test_odd_names_stay_one_label() -> None:
    odd = 'C:\\new "name"\nof it'
    assert value(
        scraped(report(replace(FRESH, name=odd))), "certificate_not_after_seconds", certificate=odd
    )
