"""A first boot was cut short, or a server lies: what was left of that is let go, too, and told."""

import json
import os
import pty
import shlex
import subprocess
from pathlib import Path

import pytest

from agent import aziot_config, store
from agent.aziot_config import Basic, Desired, Est, TpmAttestation
from agent.aziot_ours import Ours
from agent.config import load
from agent.errors import ResetUnderWay
from agent.reset import acts, handover, mark
from agent.state import State
from agent.steps import Step, aziot, forgetting
from agent.tpm import HUB_KEY
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.test_config import GOOD
from tests.test_config import load as config_of
from tests.test_provision import provisioned
from tests.test_reset import let_go, public


def test_a_key_for_the_hub_goes_even_if_we_never_came_to_know_that_it_was_issued(
    make_device: MakeDevice,
) -> None:
    """IoT Edge was told who it is, registered, and the power failed."""
    device = make_device(id="cut-short", attestation="tpm")
    device.enrol()
    provisioned(device)
    assert public(device, HUB_KEY)
    (device.state / "registration.json").unlink()
    told = let_go(device)
    assert public(device, HUB_KEY) is None
    assert told["hand_over"]["registration"]["id"] == device.wish.id


def test_what_iot_edge_had_goes_even_if_the_device_was_to_be_without_it(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    provisioned(device)
    assert list(device.edge.glob("certd/certs/*"))
    config = device.aziot / "config.toml"  # without the line that says what is ours
    config.write_bytes(config.read_bytes().partition(b"\n")[2])
    static = {"operational": {"issued_by": "static"}}
    device.configure({"device": {"target": "device"}, **static})
    told = let_go(device)
    assert not list(device.edge.glob("certd/certs/*"))
    assert not list(device.edge.glob("keyd/keys/*"))
    assert store.read(config) is None
    whats = {each["what"] for each in told["hand_over"]["certificates"]}
    assert any(what.startswith("IoT Edge") for what in whats)
    assert told["hand_over"]["registration"]["hub"]


def test_what_came_before_the_answer_is_let_go_and_told_too(make_device: MakeDevice) -> None:
    device = make_device()
    ours, theirs = pty.openpty()
    certificate = pki.root("renewed meanwhile").issue(pki.new_key().public_key(), "dev")
    with subprocess.Popen(
        device.agent_command("reset", "--json"),
        env=device.environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asking:
        assert asking.stderr
        while asking.stderr.read(1) != b"?":
            assert asking.poll() is None
        pki.write_private(device.state / "ldevid.pem", pki.pem(certificate))
        os.write(ours, b"yes\n")
        told = json.loads(asking.communicate()[0])
    os.close(ours)
    os.close(theirs)
    assert [each["subject"] for each in told["hand_over"]["certificates"]] == ["CN=dev"]
    assert not (device.state / "ldevid.pem").exists()


def run(step: Step) -> None:
    assert step.done() is None
    step.apply()
    assert step.done()


def test_what_a_killed_run_left_beside_a_file_goes_with_it(make_device: MakeDevice) -> None:
    device = make_device()
    conf = load(device.config)
    est = Est(url="https://est.invalid", auth=Basic(username="u", password="p" * 8))
    wanted = Desired(registration_id="d", id_scope="0neA", identity=TpmAttestation(), est=est)
    path = aziot.file(conf)
    part = pki.write_private(store.part_of(path), aziot_config.render(b"", wanted, path))
    ours = Ours(None, frozenset(), frozenset(), device.state, edge_ca=False)
    run(acts._aziot_config(conf, ours))
    assert not part.exists()

    token = forgetting.unfinished(conf.pkcs11.store)
    token.parent.mkdir(parents=True, exist_ok=True)
    pki.write_private(token, b"a token with the LDevID key in it")
    run(acts._token(conf, State(device.state)))
    assert not token.exists()


@pytest.mark.parametrize(
    "odd", ["provisioning = 1", "[[provisioning]]", "[provisioning]\nattestation = 'x'"]
)
def test_an_owner_may_have_made_anything_of_what_iot_edge_was_told(
    tmp_path: Path, odd: str
) -> None:
    conf, state = config_of(tmp_path, f'{GOOD}[aziot]\ndirectory = "{tmp_path}"\n'), State(tmp_path)
    told = Desired(registration_id="d", id_scope="0neA", identity=TpmAttestation())
    head = aziot_config.render(b"", told, tmp_path).partition(b"\n")[0]
    (tmp_path / "config.toml").write_bytes(head + f"\n{odd}\n".encode())
    assert not any(each.get("id_scope") for each in handover.asked(conf, state))
    assert handover.gather(conf, state, lambda: "dev")


@pytest.mark.parametrize("lie", ["x; reboot", "x'; reboot; '", "$(reboot)", "x\n    reboot"])
def test_what_a_server_called_the_device_is_one_word_of_a_command(lie: str) -> None:
    registration = {"id": lie, "hub": lie, "device_id": lie, "individual": None}
    certificate = {"what": lie, "subject": lie, "issuer": lie, "serial": "01", "sha256": "02"}
    found = {"certificates": [{**certificate, "not_after": "03"}], "registration": registration}
    name = lie.replace("\n", "?")
    for command in handover.commands({**found, "certificates": []}):
        assert shlex.split(command)[-1] == name
        assert "reboot" not in shlex.split(command)
    assert all(line.isprintable() for line in handover.as_text(found))


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"phase": "done"}', '{"phase": []}'])
def test_a_damaged_note_of_a_reset_sets_no_device_free(tmp_path: Path, damage: str) -> None:
    state, conf = State(tmp_path), config_of(tmp_path, GOOD)
    mark.admit(conf, state)
    state.reset.write_text(damage)
    assert mark.read(state) is None
    with pytest.raises(ResetUnderWay, match="damaged"):
        mark.admit(conf, state, again=True)
    with pytest.raises(ResetUnderWay, match="damaged"):
        mark.refuse(state)
