"""What the documentation tells to type is typed, as it stands there, where it is meant to be typed:
on a device, at a factory's station, in a checkout. Which where: tests/lab/documented_ways.py."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from cryptography.x509 import load_pem_x509_csr

from tests.conftest import MakeDevice
from tests.lab import documented, journald, pki, swtpm, tree
from tests.lab.azure import Azure
from tests.lab.device import Device, Wish, merged
from tests.lab.documented_ways import Typed, typed, way_of
from tests.lab.factory import Board
from tests.lab.line import Line
from tests.lab.place import Place
from tests.lab.process import TOP
from tests.lab.world import World

VIRGIN = Board(virgin=True)
OPERATOR = f'exec "{TOP}/.venv/bin/python" -m agent.operator.cli "$@"\n'


def test_every_place_is_one() -> None:
    ways = map(way_of, documented.every_command())
    named = {found.place for found in ways if isinstance(found, Typed)}
    tests = {name for name in globals() if name.startswith("test_place_")}
    assert tests == {f"test_place_{name}" for name in named}


def test_place_device(make_device: MakeDevice) -> None:
    """One with IoT Edge, provisioned."""
    place = Place.on(make_device())
    place.typed("tpm2cloud provision; tpm2cloud identity --json >another.json")
    said = {each.words: place.typed(each.text) for each in typed("device")}
    assert "Nothing is wrong with this device." in said["tpm2cloud check"]
    assert "This device is provisioned." in said["tpm2cloud status"]
    assert "All is well with this device." in said["tpm2cloud health --dry-run"]
    assert "--endorsement-key" in said["tpm2cloud identity"]
    table = (place.directory / "devices.csv").read_text().splitlines()
    assert table[0].startswith("registration_id,")
    assert len(table) == 2


@pytest.fixture(scope="module")
def with_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("docs") / "world", hub=True) as world:
        yield world


def test_place_message(with_hub: World, tmp_path: Path) -> None:
    """A device without IoT Edge, enrolled by its TPM."""
    wish = Wish(id="{ek}", target="device", attestation="tpm")
    with Device(with_hub, tmp_path / "device", wish) as device:
        place = Place.on(device)
        for each in typed("message"):
            place.typed(each.text)
        texts = [message["text"] for message in with_hub.hub.messages()]
        assert texts.count('{"temperature": 21.5}') == 1
        assert len(texts) == 4


def test_place_station(make_device: MakeDevice, tmp_path: Path) -> None:
    """Of a factory's line: the page's own commands make its configuration, too."""
    device = make_device(board=VIRGIN)
    line = Line(device)
    etc = tmp_path / "etc"
    place = Place.on(device, etc)
    shutil.copytree(device.etc / "tpm-roots.d", place.directory / "roots")
    maker = next((place.directory / "roots").glob("*rootca*"))
    shutil.copy(maker, place.directory / "maker.pem")
    shutil.copy(device.etc / "idevid-ca.pem", place.directory)
    line.configure({"idevid": {"trust": "/etc/tpm2cloud/idevid-ca.pem"},
                    "tpm": {"manufacturer_roots": ["/etc/tpm2cloud/tpm-roots.d"]}})  # fmt: skip
    place.program("editor", f'[ -t 0 ] || cat "{line.config}" >"$1"\n')
    named = {"FINGERPRINT": fingerprint(maker)}
    (etc / "tpm-roots.d").mkdir(parents=True)
    for each in typed("station"):
        place.typed(substituted(each.text, named))
        if "import-root" in each.text:  # the page leaves out what is between
            shutil.copy(device.etc / "tpm-roots.d/issuercert.pem", etc / "tpm-roots.d")
    assert (etc / "tpm-roots.d").is_dir()
    assert len((place.directory / "boards.csv").read_text().splitlines()) == 2


def test_place_request(make_device: MakeDevice) -> None:
    """A CA that is out of reach signs what is carried to it."""
    device = make_device(board=VIRGIN)
    line = Line(device)
    line.configure({"idevid": {"ca": None}})
    shutil.copy(line.config, device.etc / "manufacture.toml")
    place = Place.on(device)
    for each in typed("request"):
        place.typed(each.text)
        if not (place.directory / "board.pem").exists():
            answered(device, place.directory / "board.csr")
    assert "already done" in place.typed("tpm2cloud manufacture")


def answered(device: Device, request: Path) -> None:
    csr = load_pem_x509_csr(request.read_bytes())
    issued = device.world.oem.issue(csr.public_key(), csr.subject)
    request.with_suffix(".pem").write_bytes(pki.pem(issued))


def test_place_states(make_device: MakeDevice) -> None:
    """A board whose key is to work in approved boot states alone."""
    device = make_device(board=VIRGIN)
    states = "/etc/tpm2cloud/boot-states.d"
    line = Line(device, policy_key=f"{states}/maker.pem", approvals=states)
    shutil.copy(line.config, device.etc / "manufacture.toml")
    place = Place.on(device)
    for each in typed("states"):
        said = place.typed(each.text)
        if "--out fw-1.0" in each.text:
            shutil.copy(place.directory / "fw-1.0.json", place.directory / "computed.json")
    assert "Verified OK" in said
    assert "already done" in place.typed("tpm2cloud manufacture")


def test_place_workstation(world: World, make_device: MakeDevice, tmp_path: Path) -> None:
    """An operator's, whose Azure is the lab's; and she says yes when she is asked."""
    azure = Azure(tmp_path / "azure", world.tls, dps=world.dps)
    login = {"AZURE_TENANT_ID": azure.tenant, "AZURE_CLIENT_ID": azure.client_id}
    login |= {"AZURE_CLIENT_SECRET": azure.client_secret, "PYTHONPATH": str(TOP)}
    place = Place(tmp_path / "place/here", tmp_path / "etc", login)
    place.program("tpm2cloud-operator", OPERATOR)
    (place.directory / "operator.toml").write_text(tomlkit.dumps(workstation(azure, world)))
    (place.directory / "boards.jsonl").write_text(make_device().agent("identity", "--json").stdout)
    ends = {"plan": 3, "deploy": 0, "enrol": 0, "destroy": 0}
    with azure.running():
        for each in typed("workstation"):
            asked = f"echo yes | script -qec {shlex.quote(each.text)} /dev/null"
            done = place.run(asked if "destroy" in each.text else each.text)
            assert done.returncode == ends[each.words.split()[1]], done.stdout
            if "deploy" in each.text:
                assert f'id_scope = "{world.dps.scope}"' in done.stdout
            if "enrol" in each.text:
                assert "1 new, 0 changed" in done.stdout
        assert azure.resources() == {}


def workstation(azure: Azure, world: World) -> dict[str, Any]:
    """The page's configuration, but for the names and the cloud."""
    [page] = [p for p in documented.pages() if p.name == "operator.md"]
    text = "".join(b.text for b in documented.blocks(page) if b.language == "toml")
    est = {"url": world.operations_est.url("mtls"), "trust": str(world.tls.trust)}
    cloud = {"resource_manager": azure.url, "scope": f"{azure.url}/.default", "poll": "1s"}
    cloud |= {"authority": azure.url, "trust": str(world.tls.trust)}
    of_lab = {"azure": {"subscription": azure.subscription}, "est": est, "cloud": cloud}
    return merged(tomlkit.parse(text).unwrap(), of_lab)


def test_place_makers(tmp_path: Path, factory_fresh: Path) -> None:
    """What was fetched from a maker is here that of the lab's."""
    etc = tmp_path / "etc"
    (etc / "tpm-roots.d").mkdir(parents=True)
    place = Place(tmp_path / "place/here", etc, {})
    root = swtpm.roots(factory_fresh / "ca")
    shutil.copy(root, place.directory / "OptigaRsaRootCA2.crt")
    shown, installed = typed("makers")
    done = place.run(shown.text)
    assert "[root-unconfirmed]" in done.stdout
    assert not list((etc / "tpm-roots.d").iterdir())
    place.typed(substituted(installed.text, {"FINGERPRINT": fingerprint(root)}))
    assert len(list((etc / "tpm-roots.d").iterdir())) == 1


def substituted(text: str, names: dict[str, str]) -> str:
    """With what stands for a name of the reader's own."""
    return re.sub(r"\b(" + "|".join(names) + r")\b", lambda found: names[found[1]], text)


def fingerprint(certificate: Path) -> str:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(certificate)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().partition("=")[2]


def test_place_manual(tmp_path: Path) -> None:
    made = journald.generated(tmp_path / "made")
    (made / "man/man8").mkdir()
    (made / "man/tpm2cloud.8").rename(made / "man/man8/tpm2cloud.8")
    place = Place(tmp_path / "place/here", tmp_path / "etc", {})
    for each in typed("manual"):
        assert "LOOKING AFTER CERTIFICATES" in place.typed(each.text, MANPATH=f"{made}/man")


def test_place_image(tmp_path: Path) -> None:
    """Of an image that is as it should be."""
    place = Place(tmp_path / "place/here", tmp_path / "etc", {})
    root = tree.build(place.directory / "ROOT")
    for each in typed("image"):
        place.typed(each.text)
    enabled = {link.name for link in (root.path / "etc/systemd/system").rglob("*.wants/*")}
    assert {"tpm2cloud-firstboot.service", "tpm2cloud-health.timer"} <= enabled


def test_place_checkout(tmp_path: Path) -> None:
    """The directories that the recipes for images begin with."""
    place = Place(tmp_path / "place/here", tmp_path / "etc", {})
    shutil.copytree(TOP / "docs/examples", place.directory / "docs/examples")
    (place.directory / "dist").mkdir()
    (place.directory / "dist/tpm2cloud_1_amd64.deb").touch()
    place.typed("\n".join(each.text for each in typed("checkout")))
    assert (place.directory / "mkosi/mkosi.extra/etc/tpm2cloud/tpm-roots.d").is_dir()
    assert (place.directory / "mkosi/mkosi.skeleton/opt/debs/tpm2cloud_1_amd64.deb").exists()


# In the end somebody asks QEMU's monitor for the TPM, and leaves.
QEMU = """exec 2>&1; printf '\\001cinfo tpm\\nquit\\n' | exec /usr/bin/qemu-system-x86_64 "$@" -S"""


def test_place_trial(tmp_path: Path) -> None:
    """Up to the kernel's first instruction: that an image boots so, tests/vm shows."""
    place = Place(tmp_path / "place/here", tmp_path / "etc", {})
    (tmp_path / "root/boot").mkdir(parents=True)
    (tmp_path / "root/boot/vmlinuz-6.1.0").write_bytes(kernel())
    image = ["mke2fs", "-q", "-t", "ext4", "-d", str(tmp_path / "root"), "golden.img", "8M"]
    subprocess.run(image, cwd=place.directory, check=True)
    place.program("qemu-system-x86_64", QEMU)
    try:
        said = place.typed("\n".join(each.text for each in typed("trial")))
    finally:
        if (place.directory / "tpm/socket").is_socket():
            stop = ["swtpm_ioctl", "-s", "--unix", str(place.directory / "tpm/socket")]
            subprocess.run(stop, check=False, capture_output=True)
    assert "type=emulator,chardev=tpm" in said


def kernel() -> bytes:
    """As much of one as is looked at before it runs (Linux, Documentation/x86/boot.rst)."""
    header = bytearray(4096)
    header[0x1F1] = 1  # sectors of set-up
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x208] = b"HdrS" + (0x20C).to_bytes(2, "little")
    header[0x211] = 1  # loaded high
    return bytes(header)


def test_place_demo() -> None:
    """From beginning to end; it says itself what would be a defect."""
    for each in typed("demo"):
        command = ["bash", "-euc", each.text]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert "The second run changed nothing." in done.stdout
        assert "All is well with this device." in done.stdout
