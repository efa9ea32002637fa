"""The lab's iotedge does what it is told in config.toml, and only if all of it is right."""

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent import pkcs11
from agent.aziot_config import percent
from agent.tpm import Tpm
from tests.lab import pki, process
from tests.lab.device import Device, Wish, merged
from tests.lab.world import World

SRK = 0x81000001
LIBRARY = str(next(Path("/usr/lib").glob("*/pkcs11/libtpm2_pkcs11.so")))
SOURCE = Path(__file__).parent / "lab" / "iotedge"
TOKEN, PIN, ID = "token of lab", "pin ä&;?#", "device-0001"
DEVICE_ID = "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.cer"
EST_ID = "estid-c45f3e96a312cc524fecceddbc40dfc2aa789eae911d8bc7dd4eda19b93be900.cer"


class Edge:
    """A device with an LDevID in its token, and IoT Edge on it; nothing is applied yet."""

    def __init__(self, device: Device) -> None:
        self.device, self.world = device, device.world
        self.ldevid = device.directory / "ldevid.pem"
        self._token()

    def _token(self) -> None:
        kind = self.device.wish.key
        with Tpm(self.device.tcti) as tpm:
            with tpm.srk(kind) as made:
                tpm.persist(made, SRK)
            public, private = tpm.create_key(SRK, kind)
            with tpm.load(SRK, public, private) as loaded:
                area = loaded.public
            assert area.key is not None
            key = pkcs11.Key("ldevid", public, private, area.key, area.signs, area.decrypts)
            pins, owner = pkcs11.Pins(PIN, "so-pin"), (os.getuid(), os.getgid())
            at = self.device.pkcs11
            pkcs11.create(at, tpm, SRK, label=TOKEN, pins=pins, owner=owner, keys=[key])
        self.install(self.world.owner.issue(area.key, ID))
        self.key = area.key

    def install(self, leaf: x509.Certificate) -> None:
        self.ldevid.write_bytes(pki.pem(leaf, *self.world.owner.chain[:-1]))

    def uri(self, label: str = "ldevid", pin: str = PIN) -> str:
        return f"pkcs11:token={percent(TOKEN)};object={percent(label)}?pin-value={percent(pin)}"

    def pair(self, prefix: str = "") -> dict[str, str]:
        return {f"{prefix}identity_cert": self.ldevid.as_uri(), f"{prefix}identity_pk": self.uri()}

    def config(self, auth: dict[str, str] | None = None, label: str = "mtls") -> dict[str, Any]:
        """Issued by EST under the authentication given, by default mutual TLS by the LDevID."""
        trust = (self.device.etc / "operational-ca.pem").as_uri()
        x509_by_id = {"method": "x509", "registration_id": ID}
        issued = {"method": "est", "common_name": ID}
        url = self.world.operations_est.url(label)
        est = {"trusted_certs": [trust], "auth": auth or self.pair("bootstrap_")}
        return {
            "provisioning": {
                "source": "dps",
                "global_endpoint": self.world.dps.url,
                "id_scope": self.world.dps.scope,
                "attestation": {**x509_by_id, "identity_cert": issued},
            },
            "aziot_keys": {
                "pkcs11_lib_path": LIBRARY,
                "pkcs11_base_slot": self.uri().replace(";object=ldevid", ""),
            },
            "cert_issuance": {"est": {**est, "urls": {"default": url}}},
        }

    def static(self) -> dict[str, Any]:
        """The LDevID itself as the device identity."""
        config = self.config()
        attestation = config["provisioning"]["attestation"]
        del attestation["identity_cert"], config["cert_issuance"]
        attestation.update(self.pair())
        return config

    def lab(self, **changes: str | None) -> None:
        file = self.device.bin / "iotedge-lab.toml"
        file.write_text(tomlkit.dumps(merged(tomlkit.parse(file.read_text()).unwrap(), changes)))

    def apply(self, config: dict[str, Any], answers: bool = True) -> None:
        pki.write_private(self.device.aziot / "config.toml", tomlkit.dumps(config).encode())
        failure = "answer" if answers else "restart"
        self.lab(restart_interval="200ms", startup_failure=failure)
        done = self.device.run(["iotedge", "config", "apply"])
        assert (done.returncode, done.stderr) == (0, ""), done

    def call(self, method: str, path: str, timeout: float = 30) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("identityd.sock")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(str(self.device.socket))
            body = '{"type":"aziot"}' if method == "POST" else None
            connection.request(method, f"{path}?api-version=2021-12-01", body)
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if text else {}
        finally:
            connection.close()

    def identity(self) -> tuple[int, dict[str, Any]]:
        return self.call("POST", "/identities/device")

    def events(self, name: str) -> list[dict[str, Any]]:
        with (self.device.edge / "log.jsonl").open() as lines:
            return [event for event in map(json.loads, lines) if event["event"] == name]

    def stored(self, name: str) -> list[x509.Certificate]:
        path = self.device.edge / "certd/certs" / name
        return x509.load_pem_x509_certificates(path.read_bytes())

    def loaded(self) -> set[int]:
        with Tpm(self.device.tcti) as tpm:
            return tpm.loaded()


def go() -> str:
    """The toolchain ./tests/setup builds with: the machine's, or the one of the Python package."""
    return (process.TOP / ".lab" / "go").read_text().strip()


@pytest.mark.parametrize("verb", ["vet", "test"])
def test_its_own_tests_in_go_pass(verb: str) -> None:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    command = [go(), "-C", str(SOURCE), verb, "./..."]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("iotedge") / "world") as world:
        yield world


@pytest.fixture(params=["ecc256", "rsa2048"])
def both(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Edge]:
    with Device(world, tmp_path / "device", Wish(id=ID, key=request.param)) as device:
        yield Edge(device)


@pytest.fixture
def edge(world: World, tmp_path: Path) -> Iterator[Edge]:
    with Device(world, tmp_path / "device", Wish(id=ID)) as device:
        yield Edge(device)


def test_ldevid_bootstraps_the_est_identity_that_gets_the_device_identity(both: Edge) -> None:
    before = len(both.world.issued(both.world.operations_est))
    both.apply(both.config())
    status, identity = both.identity()
    assert status == 200, both.events("provisioning-failed")
    assert identity["spec"]["hubName"] == "hub.lab.invalid"
    assert identity["spec"]["auth"]["certId"] == "device-id"
    first, second = both.world.issued(both.world.operations_est)[before:]
    ldevid = x509.load_pem_x509_certificate(both.ldevid.read_bytes())
    est_id, device_id = both.stored(EST_ID)[0], both.stored(DEVICE_ID)[0]
    assert int(first.serial, 16) == ldevid.serial_number
    assert int(second.serial, 16) == est_id.serial_number
    assert isinstance(device_id.public_key(), RSAPublicKey)
    assert {e["object"] for e in both.events("signed")} == {"ldevid", "est-id", "device-id"}
    assert int(both.world.dps.assigned(ID)[-1]["serial"], 16) == device_id.serial_number
    assert len(both.stored(DEVICE_ID)) > 1  # after it, what /cacerts said
    assert both.loaded() == set()


def test_nothing_is_issued_twice(edge: Edge) -> None:
    for _ in range(2):
        edge.apply(edge.config())
        assert edge.identity()[0] == 200
    done = edge.device.run(["iotedge", "system", "reprovision"])
    assert (done.returncode, done.stderr) == (0, ""), edge.events("provisioning-failed")
    assert len(edge.events("issued")) == 2
    assert len(edge.events("assigned")) == 2  # the first apply, and the reprovisioning


def test_basic_authentication_needs_no_est_identity(edge: Edge) -> None:
    auth = {"username": "device", "password": edge.world.operational_password}
    edge.apply(edge.config(auth, "basic"))
    assert edge.identity()[0] == 200, edge.events("provisioning-failed")
    assert [e["cert"] for e in edge.events("issued")] == ["device-id"]


def test_static_ldevid_registers_itself(both: Edge) -> None:
    both.apply(both.static())
    assert both.identity()[0] == 200, both.events("provisioning-failed")
    assert {e["object"] for e in both.events("signed")} == {"ldevid"}
    assert not both.events("issued")


def test_renewal_by_threshold_rotates_both_keys(edge: Edge) -> None:
    config = edge.config()
    edge.apply(config)
    assert edge.identity()[0] == 200
    old = [edge.stored(name)[0] for name in (EST_ID, DEVICE_ID)]
    soon = {"rotate_key": True, "threshold": "91day", "retry": "4%"}  # certificates live 90 days
    config["provisioning"]["attestation"]["identity_cert"]["auto_renew"] = soon
    config["cert_issuance"]["est"]["identity_auto_renew"] = soon
    edge.apply(config)
    assert edge.identity()[0] == 200, edge.events("provisioning-failed")
    new = [edge.stored(name)[0] for name in (EST_ID, DEVICE_ID)]
    assert not edge.events("renewal-failed")
    assert all(a.public_key() != b.public_key() for a, b in zip(old, new, strict=True))
    assert edge.loaded() == set()


def failure(edge: Edge, config: dict[str, Any]) -> str:
    """Why the device is not provisioned; `config apply` itself succeeds."""
    edge.apply(config)
    assert edge.identity() == (400, {"message": "device identity not found"})
    assert edge.loaded() == set()
    return str(edge.events("provisioning-failed")[-1]["error"])


def test_wrong_pin_is_refused_by_the_token_and_told_to_nobody(edge: Edge) -> None:
    config = edge.config({**edge.pair("bootstrap_"), "bootstrap_identity_pk": edge.uri(pin="no")})
    config["aziot_keys"]["pkcs11_base_slot"] = edge.uri(pin="no").replace(";object=ldevid", "")
    assert "CKR_PIN_INCORRECT" in failure(edge, config)
    done = edge.device.run(["iotedge", "system", "reprovision"])
    assert done.returncode == 1
    assert done.stderr == (
        "Failed to reprovision: unexpected HTTP status code: 500 Internal Server Error\n"
        "Error running system command\n\n"
    )


def test_certificate_for_another_key_is_refused(edge: Edge) -> None:
    edge.install(edge.world.owner.issue(pki.new_key().public_key(), ID))
    assert "does not match its private key" in failure(edge, edge.config())


def test_expired_certificate_is_refused(edge: Edge) -> None:
    edge.install(edge.world.owner.issue(edge.key, ID, starts=-2 * pki.YEAR, lasts=pki.YEAR))
    assert "is valid from" in failure(edge, edge.static())


def test_missing_certificate_is_refused(edge: Edge) -> None:
    edge.ldevid.unlink()
    assert "does not exist" in failure(edge, edge.config())


def test_server_of_a_foreign_ca_is_refused(edge: Edge) -> None:
    trusted = edge.device.etc / "operational-ca.pem"
    trusted.write_bytes(pki.pem(pki.authority("Foreign CA").root))
    edge.lab(system_store=None)
    assert "certificate signed by unknown authority" in failure(edge, edge.config())


def test_stranger_is_told_the_reason_of_the_provisioning_service(edge: Edge) -> None:
    config = edge.static()
    config["provisioning"]["attestation"]["registration_id"] = "somebody-else"
    assert "DPS client error" in failure(edge, config)


def test_callers_wait_while_the_service_cannot_start_as_behind_the_real_socket(edge: Edge) -> None:
    certificate = edge.ldevid.read_bytes()
    edge.ldevid.unlink()
    edge.apply(edge.config(), answers=False)
    with pytest.raises(TimeoutError):
        edge.call("POST", "/identities/device", timeout=0.5)
    edge.ldevid.write_bytes(certificate)
    assert edge.identity()[0] == 200


def test_service_ends_with_the_lab_and_on_command(edge: Edge) -> None:
    edge.apply(edge.static())
    assert edge.identity()[0] == 200
    assert edge.device.run(["iotedge", "system", "stop"], timeout=5).returncode == 0
    assert "Down" in edge.device.run(["iotedge", "system", "status"]).stdout
