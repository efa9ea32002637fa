"""What `status` says of the room in the TPM: a line, and what is scarce, if anything is."""

import json
from contextlib import ExitStack

from agent import status
from agent.tpm import Budget, Tpm
from tests.conftest import MakeDevice
from tests.lab.tools import Tools

UNPROTECTED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"  # no noDA


def room(tpm: Tpm) -> Budget:
    found = status.room(tpm)
    assert isinstance(found, Budget)
    return found


def scarce(tpm: Tpm) -> list[str]:
    return list(status.scarce(room(tpm)))


def test_nothing_is_scarce_on_a_stock_device(make_device: MakeDevice) -> None:
    device = make_device()
    said = device.agent("status").stdout.splitlines()[-2:]
    assert said[0].startswith("TPM: 3 keys kept, room for ")
    assert said[0].endswith("; 0 of 3 slots taken; 0 of 3 wrong passwords until lockout.")
    assert said[1] == "This device is not yet provisioned."
    told = json.loads(device.agent("status", "--json").stdout)["tpm"]
    assert (told["persistent_used"], told["nv_indices"], told["scarce"]) == (3, 4, [])
    with Tpm(device.tcti) as tpm:
        assert told["nv_bytes"] == tpm.budget().nv_bytes


def test_a_tpm_that_is_not_there_is_told_once(make_device: MakeDevice) -> None:
    device = make_device()
    device.configure({"tpm": {"tcti": "device:/nonexistent"}})
    done = device.agent("status")
    assert "TPM: " not in done.stdout
    assert "tpm-unavailable" in done.stdout
    assert json.loads(device.agent("status", "--json").stdout)["tpm"] is None


def test_passwords_and_a_platform_that_is_off_are_told_and_are_nothing_bad(
    tpm: Tpm, tools: Tools
) -> None:
    tools("changeauth", "-c", "owner", "s3cret")
    tools("hierarchycontrol", "-C", "p", "phEnable", "clear")
    _, line, _ = status.as_text([status.Seen("tpm", "done")], room(tpm))
    assert line.endswith("; password: owner; off: platform.")
    assert scarce(tpm) == []


def test_a_hierarchy_that_is_needed_and_off_is_told(tpm: Tpm, tools: Tools) -> None:
    tools("hierarchycontrol", "-C", "p", "shEnable", "clear")
    assert scarce(tpm) == ["the owner hierarchy is switched off"]


def test_slots_that_others_took_are_told(tpm: Tpm) -> None:
    with ExitStack() as others:
        for _ in range(2):
            others.enter_context(tpm.srk("ecc256"))
        assert scarce(tpm) == ["slots for loaded keys: 1 free, 2 taken"]
    assert scarce(tpm) == []


def test_the_last_rooms_for_kept_keys_are_told(tpm: Tpm) -> None:
    with tpm.srk("ecc256") as key:
        for handle in range(0x81000100, 0x81000100 + room(tpm).persistent_available - 1):
            tpm.persist(key, handle)
    assert scarce(tpm) == ["kept keys: room for 1 more"]


def test_a_lockout_is_told_and_the_one_before(tpm: Tpm, tools: Tools) -> None:
    (tools.directory / "text").write_text("text")
    tools("createprimary", "-C", "o", "-G", "ecc", "-a", UNPROTECTED, "-p", "right", "-c", "key")
    tools("evictcontrol", "-C", "o", "-c", "key", "0x81000100")
    tools("flushcontext", "-t")
    before = []
    for _ in range(3):
        tools.ask("sign", "-c", "0x81000100", "-p", "wrong", "-o", "signature", "text")
        before.append(scarce(tpm))
    assert before[0] == []
    assert before[1] == ["one more wrong password, or power cut in use, and it is in lockout"]
    assert before[2] == ["it is in lockout, and forgives one wrong password in 1000 s"]
