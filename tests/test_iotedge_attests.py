"""The lab's aziot-tpmd attests by the TPM, as the real one does: another program than ours, in
another language, with the same chip and the same provisioning service."""

import base64
import hmac
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY, is_hub_key
from tests.lab.aziot.installed import Installed
from tests.lab.device import SYSTEM_PATH, Device, Wish, merged
from tests.lab.tools import Tools
from tests.lab.world import World
from tests.test_iotedge_standin import ID, SRK, Edge, failure

EK = 0x81010001


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("attests") / "world") as world:
        yield world


def by_tpm(edge: Edge) -> dict[str, Any]:
    config = edge.static()
    config["provisioning"]["attestation"] = {"method": "tpm", "registration_id": ID}
    return {**config, "tpm": {"tcti": edge.device.tcti}}


@pytest.fixture
def attesting(world: World, tmp_path: Path) -> Iterator[Edge]:
    """Its TPM is enrolled; the SRK is an RSA key."""
    wish = Wish(id=ID, key="rsa2048", attestation="tpm")
    with Device(world, tmp_path / "device", wish) as device:
        with Tpm(device.tcti) as tpm:
            ek = tpm.public(EK)
        assert ek is not None
        world.dps.enrol_tpm(ID, ek.blob)
        yield Edge(device)


def test_attestation_by_the_tpm_ends_with_the_key_of_the_hub_in_it(attesting: Edge) -> None:
    attesting.apply(by_tpm(attesting))
    status, identity = attesting.identity()
    assert (status, identity["spec"]["auth"]) == (200, {"type": "tpm"})
    asked = attesting.world.dps.requests()[-4:]
    assert [(line["method"], line["http"]) for line in asked][:2] == [("PUT", 401), ("PUT", 202)]
    assert len(attesting.events("tpm-key-imported")) == 2  # one for DPS, one for the hub
    with Tpm(attesting.device.tcti) as tpm:
        kept = tpm.public(HUB_KEY)
        assert kept is not None
        assert is_hub_key(kept)
        assert tpm.hmac(HUB_KEY, b"a text") == hub_mac(attesting.world, b"a text")
        assert tpm.loaded() == set()


def hub_mac(world: World, data: bytes) -> bytes:
    """By the key that the hub has been told, outside of any TPM."""
    [hub] = json.loads(world.dps.registry.read_text()).values()
    return hmac.digest(base64.b64decode(hub[ID]["key"]), data, "sha256")


def test_attestation_makes_the_keys_that_are_missing_and_evicts_what_is_in_the_way(
    attesting: Edge,
) -> None:
    tools = Tools(attesting.device.tcti, attesting.device.directory)
    with Tpm(attesting.device.tcti) as tpm:
        with tpm.srk("ecc256") as other:
            tpm.persist(other, HUB_KEY)
        ek, srk = tpm.public(EK), tpm.public(SRK)
    for handle in (EK, SRK):
        tools("evictcontrol", "-C", "o", "-c", hex(handle))
    attesting.apply(by_tpm(attesting))
    assert attesting.identity()[0] == 200, attesting.events("provisioning-failed")
    with Tpm(attesting.device.tcti) as tpm:
        kept = tpm.public(HUB_KEY)
        assert kept is not None
        assert is_hub_key(kept)
        assert (tpm.public(EK), tpm.public(SRK)) == (ek, srk)


def test_attestation_by_a_tpm_that_is_enrolled_by_nobody_is_refused(attesting: Edge) -> None:
    attesting.world.dps.forget(ID)
    assert "DPS client error" in failure(attesting, by_tpm(attesting))


def test_attestation_fails_by_the_wrong_password_of_the_owner(attesting: Edge) -> None:
    Tools(attesting.device.tcti, attesting.device.directory)("changeauth", "-c", "o", "secret")
    assert "TPM_RC_BAD_AUTH" in failure(attesting, by_tpm(attesting))
    authorized = {"hierarchy_authorization": {"owner": "secret"}}
    attesting.apply(merged(by_tpm(attesting), {"tpm": authorized}))
    assert attesting.identity()[0] == 200, attesting.events("provisioning-failed")


def test_as_processes_of_their_own_identityd_asks_tpmd_which_alone_has_the_tpm(
    attesting: Edge, tmp_path: Path
) -> None:
    device = attesting.device
    with Installed(tmp_path / "root", {}) as installed:
        installed.trust(device.world.tls.trust)
        here = {"directory": str(installed.etc)}
        here["identity_socket"] = str(installed.socket("identityd"))
        device.configure({"aziot": here})
        environment = device.environment() | {"PATH": f"{installed.bin}:{SYSTEM_PATH}"}
        command = device.agent_command("provision")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + installed.said()
        assert installed.events("tpmd", "tpm-key-imported")
        assert installed.events("identityd", "provisioned")[-1]["device"] == ID
        assert not installed.events("identityd", "tpm-key-imported")
        assert not installed.events("keyd", "signed")
