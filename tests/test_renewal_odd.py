"""The LDevID is renewed at servers that lack something, or lack patience."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent import x509_issued
from agent.health.renewal import CREDIBLE, Backoff, pause
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.hostile import Hostile, certs, http, issue, whole
from tests.lab.renewals import agree, renew
from tests.lab.world import World
from tests.test_provision import ldevid, provisioned


def test_where_there_is_no_simplereenroll_it_is_renewed_by_simpleenroll(
    make_device: MakeDevice, world: World
) -> None:
    device = provisioned(make_device())
    before = ldevid(device)
    ways = {
        "cacerts": whole(certs(*world.owner.chain)),
        "simplereenroll": whole(http(501)),
        "simpleenroll": issue(lambda csr: [world.owner.issue(csr.public_key(), csr.subject)]),
    }
    with Hostile(world.tls, ways, clients=world.owner) as server:
        device.configure({"ldevid": {"est": {"url": server.url}}})
        assert (told := renew(device)).what == "renewed", told
        paths = [each.path.rpartition("/")[2] for each in server.requests]
        assert paths == ["cacerts", "simplereenroll", "simpleenroll", "cacerts"]
        assert agree(device, server.url).serial != before.serial_number


def test_a_server_that_asks_for_no_certificate_proves_nothing_and_that_is_said(
    make_device: MakeDevice, world: World
) -> None:
    device = provisioned(make_device())
    ways = {
        "cacerts": whole(certs(*world.owner.chain)),
        "simplereenroll": issue(lambda csr: [world.owner.issue(csr.public_key(), csr.subject)]),
    }
    with Hostile(world.tls, ways) as server:
        device.configure({"ldevid": {"est": {"url": server.url}}})
        told = renew(device)
        assert (told.what, "asks for no certificate" in told.words) == ("renewed", True)
        assert agree(device, server.url)


# --- names ---

SUBJECT = "/C=DE/O=Stra\u00dfe/OU=one+serialNumber=7/CN=device-1"
NAMES = "critical,DNS:a.example,IP:192.0.2.1,email:a@b.example,otherName:1.2.3.4;UTF8:x,dirName:dir"


@pytest.mark.parametrize("mask", ["utf8only", "pkix"])
def test_names_are_asked_for_again_to_the_byte(tmp_path: Path, mask: str) -> None:
    """A certificate that another program wrote, with strings of several types."""
    (tmp_path / "conf").write_text(
        f"[req]\ndistinguished_name = d\nstring_mask = {mask}\nx509_extensions = e\n[d]\n"
        f"[e]\nsubjectAltName = {NAMES}\n[dir]\nO = Elsewhere\nCN = \u00e9\n"
    )
    how = ["-x509", "-config", "conf", "-subj", SUBJECT, "-utf8", "-multivalue-rdn", "-nodes"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", "key"]
    run = ["openssl", "req", *how, *key, "-out", "pem"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    before = x509.load_pem_x509_certificate((tmp_path / "pem").read_bytes())

    csr = x509_issued.renewal(pki.new_key(), before)

    there = before.public_bytes(Encoding.DER)
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert csr.subject.public_bytes() in there
    assert names.value.public_bytes() in there
    assert names.critical


# --- pauses ---

HOUR = timedelta(hours=1)


def test_pauses_grow_from_an_hour_to_a_day_and_are_each_devices_own() -> None:
    hours = [round(pause(failures, "device", overdue=False) / HOUR) for failures in range(1, 9)]
    assert hours[:4] == [1, 2, 4, 8]
    assert all(19 <= each <= 24 for each in hours[5:])
    first = {pause(1, f"device-{i}", overdue=False) for i in range(100)}
    assert len(first) == 100
    assert 0.9 * HOUR <= min(first) < 0.92 * HOUR
    assert 1.08 * HOUR < max(first) <= 1.1 * HOUR
    assert pause(3, "device-7", overdue=False) == pause(3, "device-7", overdue=False)


def test_who_is_late_comes_more_often_and_who_is_at_the_end_more_often_still() -> None:
    assert max(pause(n, f"{n}", overdue=True) for n in range(1, 2000)) <= 6 * HOUR
    assert pause(9, "device", overdue=True, left=8 * HOUR) <= 1.1 * HOUR
    assert pause(9, "device", overdue=True, left=timedelta(seconds=1)) >= timedelta(minutes=4)
    assert pause(9, "device", overdue=True, left=timedelta(-1)) > 4 * HOUR


def test_a_pause_survives_the_process_and_no_damage_becomes_one() -> None:
    now = datetime(2031, 5, 3, tzinfo=UTC)
    kept = Backoff(3, now + HOUR)
    assert Backoff.of(json.loads(json.dumps(kept.as_json()))) == kept
    assert kept.waits(now)
    assert not kept.waits(now + HOUR)
    assert not kept.waits(now - CREDIBLE)  # the clock was ahead when it was told to wait
    for damaged in ({}, {"failures": "x"}, {"not_before": 1e300}, {"failures": None}):
        assert Backoff.of(damaged) == Backoff()
