"""The hub key of a device without IoT Edge: it proves itself before it takes the place of another,
and whatever is cut off, or goes wrong, leaves one that works. And the EK that DPS is shown.

Nobody is asked here but the hub: what DPS said is on the disk already, as after a run that was cut
off right then (DPS itself: tests/test_device_target.py).
"""

import base64
import json
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agent import config, inputs
from agent.clock import Times
from agent.dps_wire import Assigned
from agent.ek import DPS_EK, Trust
from agent.errors import (
    DpsNoKey,
    HandleOccupied,
    HubRefused,
    PayloadUnusable,
    ServerBusy,
    Unreachable,
)
from agent.state import State
from agent.steps import assigned
from agent.steps.assigned import Assignment, Kept, Key
from agent.steps.assignment import Registration, assignment
from agent.steps.at_dps import AtDps
from agent.steps.dps_ek import dps_ek
from agent.steps.login import in_use
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY
from tests.lab import challenges, pki, swtpm
from tests.lab.hub import Hub
from tests.lab.tools import Tools

DEVICE, FIRST, SECOND = "device-0001", bytes(range(32)), bytes(range(100, 148))
NOBODY = "https://localhost:1"  # where DPS would be asked


@pytest.fixture(scope="module")
def running(ca: pki.Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    at = tmp_path_factory.mktemp("hub")
    with Hub(at / "hub", ca, at / "hubs.json").running() as hub:
        yield hub


@pytest.fixture
def lab(running: Hub) -> Hub:
    """It knows the device by the second key."""
    running.behave()
    entry = {"key": base64.b64encode(SECOND).decode(), "thumbprint": None, "enabled": True}
    running.registry.write_text(json.dumps({running.host: {DEVICE: entry}}))
    return running


@pytest.fixture
def ours(tpm: Tpm, lab: Hub, tmp_path: Path) -> Registration:
    """A device with an EK and an SRK."""
    challenges.parents(tpm)
    dps = config.Dps(
        id_scope="0ne00", endpoint=NOBODY, attestation="tpm", trust=lab.tls.trust, fleet=1
    )
    conf = config.Config(dps=dps, device=config.Device(target="device"))
    (tmp_path / "state").mkdir()
    return Registration(conf, tpm, State(tmp_path / "state"), lambda: DEVICE)


def key_of(tpm: Tpm, secret: bytes) -> Key:
    return Key(*tpm.imported(challenges.of(tpm, secret), DPS_EK.handle, SRK))


def assigned_to(ours: Registration, hub: str, secret: bytes) -> Assignment:
    """What comes of DPS' answer, with what this device would ask."""
    found = ours.tpm.public(DPS_EK.handle)
    assert found is not None
    wanted = assigned.asked(ours.conf, DEVICE, found.name.hex())
    return Assignment(hub, DEVICE, wanted, key_of(ours.tpm, secret))


def earlier(ours: Registration) -> None:
    """The key of another hub, of an earlier life, is at the handle."""
    with challenges.another(ours.tpm, FIRST) as key:
        ours.tpm.keep_instead(key, HUB_KEY)


def test_a_key_takes_the_place_of_another_only_when_the_hub_has_let_it_in(
    ours: Registration, lab: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    earlier(ours)
    waiting = assigned_to(ours, lab.host, SECOND)
    assigned.keep(ours.state, Kept(candidate=waiting))
    assert ours.done() is None
    lab.behave(refuse=3)
    with pytest.raises(ServerBusy):
        ours.complete()
    assert assigned.load(ours.state) == Kept(candidate=waiting)
    assert challenges.signs(ours.tpm, FIRST)

    lab.behave()
    ours.complete()
    told = "a hub key that is not of this installation, at 0x81000100, is replaced"
    assert told in caplog.messages
    assert challenges.signs(ours.tpm, SECOND)
    assert assigned.load(ours.state) == Kept(proven=waiting)
    now = f"device '{DEVICE}' at hub '{lab.host}', with the key at 0x81000100"
    assert ours.done() == now
    assert not ours.tpm.loaded()


def test_a_key_that_the_hub_refuses_is_given_up_and_the_one_before_stays(
    ours: Registration, lab: Hub
) -> None:
    before = assigned_to(ours, lab.host, SECOND)
    assigned.keep(ours.state, Kept(before))
    ours.complete()
    changed = replace(before, key=key_of(ours.tpm, FIRST))
    assigned.keep(ours.state, Kept(before, changed))
    with pytest.raises(HubRefused):
        ours.complete()
    assert assigned.load(ours.state) == Kept(before)
    assert challenges.signs(ours.tpm, SECOND)
    assert ours.done() is not None


def test_a_candidate_for_other_questions_is_no_candidate(ours: Registration, lab: Hub) -> None:
    before = assigned_to(ours, lab.host, SECOND)
    stale = replace(before, asked={**before.asked, "id_scope": "0ne01"})
    assigned.keep(ours.state, Kept(before, stale))
    ours.complete()  # nobody is asked for that: the key is put where it belongs
    assert ours.done() is not None
    assert challenges.signs(ours.tpm, SECOND)


def test_cut_off_between_the_two_keys_the_new_one_is_proven_once_more(
    ours: Registration, lab: Hub
) -> None:
    """The handle is empty, or holds the new key already; what is in use is still the one before."""
    before, new = assigned_to(ours, lab.host, FIRST), assigned_to(ours, lab.host, SECOND)
    assigned.keep(ours.state, Kept(before, new))
    ours.complete()
    assert assigned.load(ours.state) == Kept(new)
    assigned.keep(ours.state, Kept(before, new))
    ours.complete()
    assert assigned.load(ours.state) == Kept(new)
    assert ours.done() is not None


def test_what_is_no_hub_key_is_left_alone_and_nobody_is_asked(
    ours: Registration, lab: Hub, tools: Tools
) -> None:
    tools("createprimary", "-C", "o", "-G", "ecc", "-c", "mine.ctx")
    tools("evictcontrol", "-C", "o", "-c", "mine.ctx", hex(HUB_KEY))
    tools("flushcontext", "--transient-object")
    assigned.keep(ours.state, Kept(candidate=assigned_to(ours, lab.host, SECOND)))
    step, asked = assignment(ours.conf, ours.tpm, ours.state, ours.who), len(lab.connections())
    with pytest.raises(HandleOccupied) as e:
        step.done()
    assert "tpm2_evictcontrol -C o -c 0x81000100" in e.value.remedy
    assert len(lab.connections()) == asked


def test_blobs_that_do_not_load_any_more_are_asked_for_anew(ours: Registration, lab: Hub) -> None:
    before = assigned_to(ours, lab.host, SECOND)
    assert before.key is not None
    private = bytearray(before.key.private)
    private[-1] ^= 1
    broken = replace(before, key=Key(before.key.public, bytes(private)))
    assigned.keep(ours.state, Kept(broken))
    with pytest.raises(Unreachable, match="localhost:1"):
        ours.complete()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"proven": 1}', '{"proven": {"hub": "h", "asked": []}}'),
        '{"proven": {"hub": "h", "device_id": "d", "asked": {}, "key": {"public": "AAEA"}}}',
        '{"proven": {"hub": "h", "device_id": "d", "asked": {}, "key": {"public": "AAI=", '
        '"private": "AAEA"}}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    state = State(tmp_path)
    state.assignment.write_text(text)
    assert assigned.load(state) == Kept()


def test_no_secret_is_in_the_file_and_nobody_else_reads_it(
    ours: Registration, lab: Hub, tmp_path: Path
) -> None:
    assigned.keep(ours.state, Kept(assigned_to(ours, lab.host, SECOND)))
    file = ours.state.assignment
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found: dict[str, Any] = json.loads(file.read_text())["proven"]["key"]
    held = b"".join(base64.b64decode(blob) for blob in found.values())
    assert SECOND not in held
    assert sha256(SECOND).digest() not in held


def test_dps_need_not_send_the_key_again_that_this_very_hub_has_let_in(
    ours: Registration, lab: Hub
) -> None:
    before = assigned_to(ours, lab.host, SECOND)
    again = Assigned(lab.host, DEVICE, None, None, None)
    times = Times(ours.state.clock)
    dps = AtDps(ours.conf, ours.tpm, ours.who, in_use(ours.state), time.sleep, times)
    assert dps.key(again, before) == before.key
    for other in (None, replace(before, hub="other.example"), replace(before, device_id="other")):
        with pytest.raises(DpsNoKey, match="sent no key"):
            dps.key(again, other)


@pytest.mark.parametrize("text", [None, "{", '"' + "x" * 70000 + '"'])
def test_a_payload_that_is_none_is_found_before_anything_is_changed(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "payload.json"
    if text is not None:
        file.write_text(text)
    dps = config.Dps(id_scope="0ne00", attestation="tpm", payload=file)
    with pytest.raises(PayloadUnusable, match="as payload: "):
        inputs.check(config.Config(dps=dps, device=config.Device(target="device")))


# --- the EK that DPS is shown ---


@pytest.fixture
def trust(factory_fresh: Path, tmp_path: Path) -> Trust:
    makers = tmp_path / "makers"
    makers.mkdir()
    for file in (swtpm.roots(factory_fresh / "ca"), factory_fresh / "ca/issuercert.pem"):
        (makers / file.name).write_bytes(file.read_bytes())
    return Trust((makers,), (), (), tmp_path / "fetched")


def test_a_chip_certified_for_ecc_alone_gets_the_rsa_ek_too(
    tpm: Tpm, tools: Tools, trust: Trust
) -> None:
    tools("nvundefine", "-C", "p", "0x01c00002")
    tools("evictcontrol", "-C", "o", "-c", hex(DPS_EK.handle))
    step = dps_ek(tpm, trust)
    assert step.done() is None
    step.apply()
    assert "RSA-2048, which DPS is shown" in (step.done() or "")
    found = tpm.public(DPS_EK.handle)
    assert found is not None
    assert found.endorses
    assert tpm.public(0x81010016) is not None  # the certified one is kept as ever
    tools("evictcontrol", "-C", "o", "-c", "0x81010016")
    assert step.done() is None
    step.apply()
    assert step.done() is not None


def test_an_ek_of_the_azure_sdk_is_adopted_and_the_chip_must_be_genuine_all_the_same(
    tpm: Tpm, tools: Tools, trust: Trust
) -> None:
    tools("evictcontrol", "-C", "o", "-c", hex(DPS_EK.handle))
    with tpm.ek(DPS_EK.template, azure=True) as made:
        tpm.persist(made, DPS_EK.handle)
        blob = made.public.blob
    step = dps_ek(tpm, trust)
    said = step.done()
    assert said is not None
    assert "which DPS is shown; the TPM is" in said
    found = tpm.public(DPS_EK.handle)
    assert found is not None
    assert found.blob == blob


def test_another_key_in_the_place_of_the_ek_is_refused(
    tpm: Tpm, tools: Tools, trust: Trust
) -> None:
    tools("evictcontrol", "-C", "o", "-c", hex(DPS_EK.handle))
    tools("createprimary", "-C", "o", "-G", "rsa", "-c", "srk.ctx")
    tools("evictcontrol", "-C", "o", "-c", "srk.ctx", hex(DPS_EK.handle))
    tools("flushcontext", "--transient-object")
    with pytest.raises(HandleOccupied, match="neither the TCG's nor the Azure C SDK's"):
        dps_ek(tpm, trust).done()
