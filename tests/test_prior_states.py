"""TPMs that others have used before us, or locked, or filled: adopted, side-stepped, or refused by
name. Whatever was there is there afterwards, unchanged, and what is added is at our handles alone;
a refusal changes nothing (but that a first boot may have made the SRK before it comes to it)."""

import re
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.conftest import MakeDevice, Tell
from tests.lab import pki, snapshot
from tests.lab import states as s
from tests.lab.device import Device
from tests.lab.line import Line
from tests.lab.priors import PRIORS, VIRGIN, Prior
from tests.lab.snapshot import Snapshot

REFUSALS = {"refused": 69, "waits": 75}
PLACES = {int(place, 16) for place in (s.EK, s.IDEVID, s.IDEVID_NV, s.SRK, s.LDEVID)}
WIDTH = max(map(len, PRIORS))


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """What is seen of each state."""
    head = f"{'manufacture':32} {'first boot after it':27} first boot without it"
    return [f"{'prior state':{WIDTH}} {head}"]


@pytest.mark.parametrize("name", PRIORS)
def test_what_others_left_is_adopted_side_stepped_or_refused_and_always_kept(
    make_device: MakeDevice, rows: list[str], tell: Tell, name: str
) -> None:
    prior, device_id = PRIORS[name], f"prior-{len(rows)}"
    line = then = boot = ""
    if prior.line:
        board = prepared(make_device(board=prior.blank, id=device_id, issued_by="static"), prior)
        file = {"certificate": str(board.state / "idevid.pem")} if prior.file else {}
        line = seen(board, prior, Line(board, "ca", **prior.idevid, **file).run, prior.line)
        if prior.then:
            then = seen(board, prior, lambda: board.agent("provision"), prior.then)
    if prior.boot:
        wish = {"board": prior.board, "id": device_id, "issued_by": prior.issued_by}
        device = prepared(make_device(**wish), prior)
        boot = seen(device, prior, lambda: device.agent("provision"), prior.boot)
    rows.append(f"{name:{WIDTH}} {line:32} {then:27} {boot}")
    if len(rows) > len(PRIORS):
        tell("\n".join(rows))


def prepared(device: Device, prior: Prior) -> Device:
    s.at(device.directory / "prior", device.tcti, *prior.makers)
    device.configure({"aziot": {"timeout": "3s"}} if "waits" in prior.boot else {})
    for name in prior.given:
        pki.write_private(device.credentials / f"tpm-{name}-auth", s.PASSWORD.encode())
    return device


def seen(
    device: Device,
    prior: Prior,
    run: Callable[[], subprocess.CompletedProcess[str]],
    expected: str,
) -> str:
    """The verdict in a word, once it is the expected one, and nothing is lost."""
    passwords = dict.fromkeys(prior.passwords, s.PASSWORD)
    before = snapshot.take(device.tcti, passwords)
    done = run()
    after = at_rest(device, passwords, before)
    word, _, said = expected.partition(": ")
    assert before.lost(after, prior.replaced) == [], done.stderr
    assert said in done.stderr
    if word not in REFUSALS:
        assert done.returncode == 0, done.stderr
        assert before.added(after) <= PLACES
        return word
    code = re.search(r"\[([a-z0-9-]+)\]\nRemedy: \S", done.stderr)
    assert done.returncode == REFUSALS[word], done.stderr
    assert code is not None, done.stderr
    assert code[1].startswith(said)
    assert before.added(after) <= prior.made
    return f"{word}: {code[1]}"


def at_rest(device: Device, passwords: dict[str, str], before: Snapshot) -> Snapshot:
    """IoT Edge may be at work, and will be again: what it has loaded meanwhile, it takes out."""
    until = time.monotonic() + 20
    while (after := snapshot.take(device.tcti, passwords)).loaded - before.loaded:
        assert time.monotonic() < until, f"still loaded: {after.loaded - before.loaded}"
        time.sleep(0.05)
    return after


def test_a_prior_state_that_is_lost_would_be_seen(make_device: MakeDevice) -> None:
    """The witness itself: each kind of loss, by tpm2-tools."""
    device = prepared(make_device(board=VIRGIN), Prior(makers=(s.foreign_indices, s.hub_key)))
    before = snapshot.take(device.tcti)
    work = device.directory / "work"
    assert before.lost(snapshot.take(device.tcti)) == []
    s.at(work, device.tcti, lambda tools: s.evict(tools, s.HUB), s.foreign(s.HUB))
    s.at(work, device.tcti, s.undefine("0x01800001", by="o"))
    s.at(work, device.tcti, s.undefine("0x01400001"), s.data("0x01400001", b"of the platform."))
    s.at(work, device.tcti, s.password("lockout"), s.lockout)
    after = snapshot.take(device.tcti)
    assert before.lost(after) == [
        "key 0x81000100 is another",
        "NV 0x1400001 is another",
        "NV 0x1800001 is gone",
        "PERMANENT is 0x604",
        "LOCKOUT_COUNTER is 0x3",
    ]
    s.at(work, device.tcti, lambda tools: s.void(tools("clear", "-c", "platform")))
    assert {"key 0x81000100 is gone", "resets is 0x0"} <= {*before.lost(snapshot.take(device.tcti))}
