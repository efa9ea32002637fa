"""A device whose IDevID works in approved boot states alone, from the factory line to the firmware
update; and `tpm2cloud boot-state`, by which its maker learns what to approve."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import HIERARCHIES
from agent.steps.idevid import HANDLE
from agent.tpm import Tpm
from agent.tpm.approved import Maker as PublicMaker
from agent.tpm.approved import State
from tests.conftest import MakeDevice
from tests.lab.approvals import Maker, boot_otherwise, openssl
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.lab.line import Line, Method
from tests.lab.owner import Owner
from tests.lab.tcg_request import Refused
from tests.lab.tools import Tools
from tests.test_manufacture_evidence import MODEL, verifier
from tests.test_provision import provisioned

VIRGIN = Board(virgin=True)
V1, V2 = "11", "22"  # what the firmware measures into register 7: bytes, in hex


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "maker")


@pytest.fixture
def device(make_device: MakeDevice, maker: Maker) -> Device:
    device = make_device(board=VIRGIN, id="board-of-a-maker")
    device.configure({"idevid": {"approvals": str(maker.released)}})
    return device


def boot(device: Device, firmware: str) -> None:
    device.power_cut()
    device.power_on()
    boot_otherwise(Tools(device.tcti, device.directory), 7, firmware)


def line(device: Device, maker: Maker, method: Method = "ca", **more: str) -> Line:
    approvals = {"policy_key": str(maker.public), "approvals": str(maker.released)}
    return Line(device, method, **approvals, **more)


def approve(device: Device, maker: Maker, name: str) -> None:
    """As docs/factory.md says: the verb on the device, `openssl` where the key is."""
    told = maker.released / name
    done = device.agent("boot-state", "--out", str(told))
    assert done.returncode == 0, done.stderr
    tbs = maker.released / f"{name}.tbs"
    maker.sign(tbs, maker.released / f"{name}.sig")
    tbs.unlink()


def key(device: Device) -> bytes:
    with Tpm(device.tcti) as tpm:
        found = tpm.public(HANDLE)
        assert tpm.loaded() == set()
    assert found is not None
    return found.name


def test_a_first_boot_under_all_passwords_by_an_idevid_for_approved_states(
    device: Device, maker: Maker
) -> None:
    """Other firmware needs another signature, and no other key. The passwords are sealed to another
    register than the one that changes."""
    boot(device, V1)
    approve(device, maker, "v1")
    made = line(device, maker, "est-tpm")
    made.made()
    assert "already done: approved, 'v1'" in made.run().stderr
    before = key(device)
    owner = Owner(device.directory, device.etc / "escrow.pem")
    passwords: dict[str, Any] = dict.fromkeys(HIERARCHIES, "random")
    passwords |= {"escrow": str(owner.public), "pcrs": "sha256:0"}
    approvals = {"approvals": str(maker.released)}
    device.configure({"idevid": approvals, "tpm": {"authorization": passwords}})
    assert "receipt-not-written" not in provisioned(device).agent("provision").stderr
    assert (device.state / "receipt.jsonl").exists()  # it is signed by the IDevID

    boot(device, V2)
    told = provisioned(device).agent("status")  # by its LDevID it lives on
    assert told.returncode == 0
    assert "does not work now: cannot use the key in this boot state: PCR 7 differs" in told.stdout
    (device.state / "ldevid.pem").unlink()
    not_approved(device, maker)

    approve(device, maker, "v2")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert "works in this boot state, 'v2'" in done.stderr
    assert key(device) == before
    with Tpm(device.tcti) as tpm:
        assert tpm.passwords_set() == {*HIERARCHIES}


def not_approved(device: Device, maker: Maker) -> None:
    """Who needs the IDevID is told what is different, and what is to be done."""
    refused = device.agent("provision")
    assert refused.returncode == 69
    assert "ldevid-cert: " in refused.stderr
    assert "PCR 7 differs from 'v1' [boot-state-unapproved]" in refused.stderr
    assert "Remedy: If PCR 7 may have changed" in refused.stderr
    assert str(maker.released) in refused.stderr
    checked = device.agent("check")
    assert checked.returncode == 4
    assert "boot-state-unapproved" in checked.stdout


# --- at the factory ---


def test_in_a_state_that_is_not_approved_no_key_is_made(device: Device, maker: Maker) -> None:
    boot(device, V1)
    approve(device, maker, "v1")
    boot(device, V2)
    refused = line(device, maker).run()
    assert refused.returncode == 69
    assert "boot-state: cannot use the key in this boot state: PCR 7 differs" in refused.stderr
    with Tpm(device.tcti) as tpm:
        assert tpm.public(HANDLE) is None


def test_a_board_for_one_maker_is_not_one_for_another(
    device: Device, maker: Maker, tmp_path: Path
) -> None:
    approve(device, maker, "v1")
    line(device, maker).made()
    other = Maker(tmp_path / "other")
    approve(device, other, "v1")
    for another in (line(device, other), Line(device)):
        refused = another.run()
        assert refused.returncode == 69
        assert "[idevid-key-other]" in refused.stderr


def test_such_a_key_goes_into_tcgs_evidence_as_any_other(device: Device, maker: Maker) -> None:
    """To be certified by the IAK is not its use; the request it signs. The CA knows the policy that
    its factory gives to keys, and that they have no password to get around it."""
    approve(device, maker, "v1")
    made, request = Line(device, **_tcg(maker)), device.directory / "board.csr"
    made.configure({"idevid": {"ca": None}})
    done = made.run("--csr-out", str(request))
    assert done.returncode == 0, done.stderr
    policy = PublicMaker.of_pem(maker.public.read_bytes()).policy
    ca = replace(verifier(device.world, device.wish.id), policy=policy)
    claim = ca.judge(request.read_bytes())
    assert not claim.idevid.has("userWithAuth")
    with pytest.raises(Refused, match="idevid-policy"):
        verifier(device.world, device.wish.id).judge(request.read_bytes())


def _tcg(maker: Maker) -> dict[str, Any]:
    approvals = {"policy_key": str(maker.public), "approvals": str(maker.released)}
    return {"csr": "tcg", "model": MODEL, **approvals}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profile": "ek-child"}, "idevid.policy_key: needs profile = 'tcg'"),
        ({"policy_key": "/nowhere.pem"}, "cannot read '/nowhere.pem': No such file"),
    ],
)
def test_what_cannot_be_a_policy_key_is_said(
    device: Device, maker: Maker, changes: dict[str, str], said: str
) -> None:
    wanted: dict[str, Any] = {"policy_key": str(maker.public), **changes}
    refused = Line(device, **wanted).run()
    assert refused.returncode == 78
    assert said in refused.stderr


# --- the verb ---


def test_the_boot_state_is_told_to_whoever_asks(device: Device) -> None:
    boot(device, V1)
    told = device.agent("boot-state", "--pcrs", "sha256:7,0")
    found = json.loads(told.stdout)
    assert found["pcrs"] == "sha256:0,7"
    assert found["values"]["0"] == 64 * "0"
    assert found["values"]["7"] not in (64 * "0", 64 * "f")
    assert "nothing was measured into PCR 0: that says nothing" in told.stderr
    assert "any program sets" not in told.stderr
    free = device.agent("boot-state", "--pcrs", "sha256:7,16,23").stderr
    assert "any program sets PCR 16, PCR 23 to what it wants" in free
    both = device.agent("boot-state", "--pcrs", "sha256:0,2,7", "--state", "fw.json")
    assert (both.returncode, "not allowed with argument" in both.stderr) == (2, True), both.stderr


def test_a_state_that_was_computed_is_signed_before_anything_has_booted_it(
    device: Device, maker: Maker
) -> None:
    boot(device, V1)
    state = device.directory / "computed.json"
    state.write_text(device.agent("boot-state").stdout)
    boot(device, V2)
    done = device.agent("boot-state", "--state", str(state), "--out", str(maker.released / "v1.0"))
    assert done.returncode == 0
    tbs, signature = maker.released / "v1.0.tbs", maker.released / "v1.0.sig"
    maker.sign(tbs, signature)
    openssl("dgst", "-sha256", "-verify", maker.public, "-signature", signature, tbs)
    assert tbs.read_bytes() == State.of_json(state.read_bytes()).to_sign
    boot(device, V1)
    with Tpm(device.tcti) as tpm:
        tpm.approvals = maker.released
        policy = PublicMaker.of_pem(maker.public.read_bytes()).policy
        assert tpm.approved(policy) == "approved, 'v1.0'"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--pcrs", "7"], "boot-state-invalid"),
        (["--state", "/nowhere.json"], "boot-state-invalid"),
        (["--pcrs", "sha512:0"], "pcr-bank-absent"),
    ],
)
def test_what_is_no_boot_state_is_refused(device: Device, arguments: list[str], code: str) -> None:
    assert f"[{code}]" in device.agent("boot-state", *arguments).stderr
