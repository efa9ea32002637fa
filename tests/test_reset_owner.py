"""Whose a device is once it was let go: not hers who did, whatever she changes, unless she asks for
it; and the next one's only when it is provisioned."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent import pkcs11
from agent.errors import ResetWaits
from agent.reset import decided, mark
from agent.reset.mark import Mark, Wishes
from agent.state import State, write_json
from agent.steps import assigned
from agent.steps.assigned import Assignment, Kept
from tests.conftest import MakeDevice
from tests.test_config import GOOD, load
from tests.test_provision import provisioned
from tests.test_reset import let_go

ENDPOINT = "https://global.azure-devices-provisioning.net"


def written(state: State, *owners: str) -> None:
    found: dict[str, Any] = {"certificates": [], "registration": None}
    whose = tuple(mark.owner(ENDPOINT, each) for each in owners)
    done = Mark(phase="done", wishes=Wishes(), owners=whose, hand_over=found, tcti="swtpm")
    mark.write(state, done)


@pytest.mark.parametrize(
    "change",
    [
        ("est.example.com", "other.example.com"),
        ("ops.example.com", "other.example.com"),
        ('"0ne00000000"', f'"0NE00000000"\nendpoint = "{ENDPOINT.upper().replace("S:", "s:")}/"'),
    ],
)
def test_an_owner_who_mends_her_configuration_is_the_same_owner(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    state = State(tmp_path / "state")
    state.directory.mkdir()
    written(state, "0ne00000000")
    with pytest.raises(ResetWaits):
        mark.admit(load(tmp_path, GOOD.replace(*change).replace("HTTPs", "https")), state)
    mark.admit(load(tmp_path, GOOD.replace("0ne00000000", "0ne00000001")), state)


def test_who_wants_it_again_has_it_by_itself_from_then_on_and_nobody_else_of_those_before(
    tmp_path: Path,
) -> None:
    state = State(tmp_path / "state")
    state.directory.mkdir()
    written(state, "0neA", "0neB")
    a, b = (load(tmp_path, GOOD.replace("0ne00000000", each)) for each in ("0neA", "0neB"))
    mark.wanted(a, state)
    mark.admit(a, state)
    with pytest.raises(ResetWaits):
        mark.admit(b, state)
    [step] = mark.lifting(state)
    assert step.done() is None
    step.apply()
    assert step.done()
    mark.admit(b, state)
    assert mark.lifting(state) == []


def test_it_is_let_go_by_whom_it_was_provisioned_for_not_by_whom_a_new_configuration_names(
    tmp_path: Path,
) -> None:
    state = State(tmp_path / "state")
    state.directory.mkdir()
    conf = load(tmp_path, f'{GOOD}[aziot]\ndirectory = "{tmp_path}"\n')
    assert decided.owners(conf, state) == (mark.owner(ENDPOINT, "0ne00000000"),)
    asked: assigned.Asked = {"endpoint": ENDPOINT, "id_scope": "0neA"}
    assigned.keep(state, Kept(candidate=Assignment("hub", "device", asked)))
    assert decided.owners(conf, state) == (mark.owner(ENDPOINT, "0neA"),)
    write_json(state.registration, {"dps": {**asked, "id_scope": "0neB"}})
    assert decided.owners(conf, state) == tuple(mark.owner(ENDPOINT, f"0ne{x}") for x in "AB")


def test_a_first_boot_that_fails_loses_nothing_and_goes_on_by_itself_but_for_the_owner_before(
    make_device: MakeDevice,
) -> None:
    """Nor does one for the same owner, whom somebody wants to have it again."""
    device = provisioned(make_device())
    told = let_go(device)
    reset = State(device.state).reset

    device.configure({"dps": {"id_scope": "0neother"}, "tpm": {"manufacturer_roots": []}})
    assert device.agent("provision").returncode not in (0, 78)
    assert json.loads(reset.read_text())["hand_over"] == told["hand_over"]
    device.configure({})
    assert "[reset-waits]" in device.agent("provision").stderr

    trust = device.etc / "idevid-ca.pem"
    trust.rename(trust.with_suffix(".away"))
    again = device.agent("provision", "--again")
    assert again.returncode not in (0, 64), again.stderr
    assert "[reset-waits]" not in again.stderr
    assert json.loads(reset.read_text())["hand_over"] == told["hand_over"]
    trust.with_suffix(".away").rename(trust)
    provisioned(device)
    assert not reset.exists()


def test_a_token_that_the_configuration_names_no_more_goes_too(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    assert pkcs11.look(device.pkcs11, "edge")
    State(device.state).token.unlink()  # as a version has left it that did not note which it made
    assert device.agent("provision").returncode == 0
    device.configure({"pkcs11": {"token": "other", "store": str(device.state / "other")}})
    let_go(device)
    assert pkcs11.look(device.pkcs11, "edge") is None
