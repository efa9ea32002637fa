"""How a golden image is looked at: links, odd trees, units, secrets, the command itself. What each
code is found for: test_lint.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import lint
from agent.lint import unitfiles, units
from agent.lint.image import Image
from tests.lab import pki, tree
from tests.lab.process import TOP
from tests.lab.tree import BASIC, CONFIG, DROP_INS, ID, KEY, SYSTEM, UNIT, Root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return tree.build(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
def root(built: Root, tmp_path: Path) -> Root:
    shutil.copytree(built.path, tmp_path / "root", symlinks=True)
    return Root(tmp_path / "root", built.ca)


# --- nothing beyond the image --------------------------------------------------------------------


def test_links_mean_places_in_the_image(root: Root) -> None:
    """An absolute one, one that climbs, and one through a linked directory."""
    root.write("data/cfg/config.toml", CONFIG.replace("0ne00LAB000", "0ne00000000"))
    root.link("etc/tpm2cloud/config.toml", "/data/cfg/config.toml")
    assert root.codes() == {"config-example"}
    root.link("here", "/data")
    root.link("etc/tpm2cloud/config.toml", "../../../../../../../here/cfg/config.toml")
    assert root.codes() == {"config-example"}


def test_what_only_the_builder_has_is_not_in_the_image(root: Root, tmp_path: Path) -> None:
    outside = tmp_path / "est-ca.pem"
    outside.write_bytes(pki.pem(root.ca.root))
    root.link("etc/tpm2cloud/est-ca.pem", str(outside))
    root.link("usr/bin/python3", "/usr/bin/env")
    assert root.codes() == {"trust-unreadable", "agent-broken"}


def test_a_secret_behind_a_link_is_judged_where_it_is(root: Root) -> None:
    root.write("data/password", "secret", 0o644)
    root.link("data/link", "/data/password")
    root.add(f'[ldevid.est]\n{BASIC}password_file = "/data/link"\n')
    assert root.codes() == {"secret-readable"}
    (root.path / "data/password").chmod(0o600)
    assert root.codes() == set()


# --- where it cannot look ------------------------------------------------------------------------


def _pipe(path: str) -> Callable[[Root], object]:
    def make(root: Root) -> None:
        os.mkfifo(root.place(path))

    return make


def _loop_as_etc(root: Root) -> None:
    shutil.rmtree(root.path / "etc")
    root.link("etc", "/etc")


ODD: dict[str, Callable[[Root], object]] = {
    "a pipe as configuration": _pipe("etc/tpm2cloud/config.toml"),
    "a pipe as trust file": _pipe("etc/tpm2cloud/est-ca.pem"),
    "a pipe as drop-in": _pipe("etc/tpm2cloud/config.d.toml"),
    "a directory as configuration": lambda r: r.write("etc/tpm2cloud/config.toml/x"),
    "a loop above the configuration": lambda r: r.link("etc/tpm2cloud", "tpm2cloud"),
    "a loop as machine-id": lambda r: r.link("etc/machine-id", "machine-id"),
    "a loop as /etc": _loop_as_etc,
    "a file as directory": lambda r: r.write("etc/tpm2cloud"),
    "no units at all": lambda r: shutil.rmtree(r.path / "usr/lib/systemd"),
    "a huge configuration": lambda r: r.write("etc/tpm2cloud/config.toml", "#" * 2_000_000),
    "a unit of bytes": lambda r: r.write(f"{SYSTEM}/{UNIT}", bytes(range(256))),
    "certificates of bytes": lambda r: r.write("etc/tpm2cloud/est-ca.pem", bytes(range(256))),
    "a clock of nonsense": lambda r: r.write("etc/fake-hwclock.data", "soon"),
    "IoT Edge's file is no TOML": lambda r: r.write("etc/aziot/config.toml", "[", 0o600),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_tree_is_told_of_and_never_a_crash(odd: str, root: Root) -> None:
    ODD[odd](root)
    found = root.look()
    if odd != "a pipe as drop-in":  # one with another name is nothing to us
        assert lint.errors(found)
    json.loads(lint.as_json(root.path, found))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_an_ordinary_user_is_told_what_was_not_seen(root: Root) -> None:
    (root.path / "etc/credstore").mkdir(mode=0)
    found = [each for each in root.look() if each.code == "unseen"]
    assert [each.path for each in found] == ["/etc/credstore"]
    assert "sudo tpm2cloud lint-image" in found[0].remedy


def test_names_that_a_terminal_would_obey_are_shown_as_text(root: Root) -> None:
    name = os.fsdecode(b"\x1b[2J\xff.key")
    root.write(f"etc/{name}", KEY)
    (found,) = root.look()
    assert found.path == r"/etc/\x1b[2J\xff.key"
    assert "\n".join(lint.as_text([found])).replace("\n", "").isprintable()


# --- units ---------------------------------------------------------------------------------------


def test_without_a_first_boot_units_enabled_in_the_image_are_good_enough(root: Root) -> None:
    """As `systemctl --root=ROOT preset-all` leaves it: for a read-only root, or an empty
    machine-id."""
    root.write("etc/machine-id", "")
    wants = "etc/systemd/system/multi-user.target.wants"
    for unit in ("tpm2cloud.target", "systemd-timesyncd.service", "systemd-networkd.service"):
        root.link(f"{wants}/{unit}", f"/{SYSTEM}/{unit}")
    for unit in units.TIMERS:
        root.link(f"etc/systemd/system/timers.target.wants/{unit}", f"/{SYSTEM}/{unit}")
    for socket in (*units.SOCKETS, "aziot-edged.service"):
        root.link(f"etc/systemd/system/sockets.target.wants/{socket}", f"/{SYSTEM}/{socket}")
    assert root.codes() == {"unit-not-enabled"}
    root.link(f"etc/systemd/system/tpm2cloud.target.wants/{UNIT}", f"/{SYSTEM}/{UNIT}")
    assert root.codes() == set()


def test_an_administrators_preset_hides_a_vendors_of_the_same_name(root: Root) -> None:
    root.link("etc/systemd/system-preset/80-tpm2cloud.preset", "/dev/null")
    assert root.codes() == {"aziot-service-enabled"}
    root.write("etc/systemd/system-preset/99-all.preset", "disable *\n")
    assert {"preset-disables", "aziot-not-enabled"} <= root.codes()


def test_the_drop_ins_that_are_looked_for_are_those_of_the_package() -> None:
    assert {path.name.removesuffix(".d") for path in (TOP / "systemd").glob("aziot-*.d")} == set(
        units.ADDED
    )


def test_the_presets_of_systemctl_agree(root: Root) -> None:
    """What systemd's own tool makes of these files."""
    root.write("etc/systemd/system-preset/10-x.preset", "disable aziot-cert*\nenable aziot-*\n")
    names = [*units.ADDED, *units.OURS, *units.TIMERS]
    done = subprocess.run(
        ["systemctl", f"--root={root.path}", "preset", *names], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        assert (
            unitfiles.enabled(image := Image(root.path), name) == unitfiles.preset(image, name)[0]
        )


def test_the_proxy_of_the_builders_apt_is_left_over(root: Root) -> None:
    root.write("etc/apt/apt.conf.d/01-x", '# A proxy?\nAcquire::Retries "3";\n')
    assert root.codes() == set()
    root.write("etc/apt/apt.conf.d/02-x", 'Acquire::http::Proxy "http://cache:3142";\n')
    assert root.codes() == {"build-left"}


# --- secrets and settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "name"),
    [
        (f"[ldevid.est]\n{BASIC}", "est-password"),
        ('[ldevid.est]\nauth = "secret"', "est-secret"),
        (f"[operational]\n{BASIC}", "operational-password"),
    ],
)
def test_a_secret_that_is_needed_may_be_in_the_credential_store(
    root: Root, auth: str, name: str
) -> None:
    root.add(auth)
    assert root.codes() == {"secret-absent"}
    root.write(f"etc/credstore/{name}", "secret", 0o600)
    assert root.codes() == set()


def test_what_is_no_secret_may_be_in_the_credential_store_for_all_to_read(root: Root) -> None:
    root.write("etc/credstore/firstboot.locale", "C.UTF-8", 0o644)
    assert root.codes() == set()


def test_drop_ins_of_all_services_of_a_prefix_count_and_one_of_the_service_goes_before(
    root: Root,
) -> None:
    """systemd.unit(5): tpm2cloud-.service.d is for tpm2cloud-firstboot.service, too."""
    ours = f"/{SYSTEM}/tpm2cloud-.service.d/00-tpm2cloud.conf"
    image = Image(root.path)
    assert unitfiles.drop_ins(image, UNIT) == [ours]
    root.write("etc/systemd/system/tpm2cloud-.service.d/x.conf", "[Service]\n")
    root.write(f"{DROP_INS}/x.conf", "[Service]\n")
    assert unitfiles.drop_ins(image, UNIT) == [ours, f"/{DROP_INS}/x.conf"]
    root.link("etc/systemd/system/tpm2cloud-.service.d/00-tpm2cloud.conf", "/dev/null")
    assert unitfiles.drop_ins(image, UNIT) == [f"/{DROP_INS}/x.conf"]


def test_a_drop_in_may_load_a_secret_from_elsewhere(root: Root) -> None:
    root.add(f"[ldevid.est]\n{BASIC}")
    root.write(
        f"{DROP_INS}/site.conf",
        "[Service]\nLoadCredential=\nLoadCredential=est-password:/data/password\n",
    )
    assert root.codes() == {"secret-absent"}
    root.write("data/password", "secret", 0o644)
    assert root.codes() == {"secret-readable"}


def test_no_secret_is_ever_shown(root: Root) -> None:
    root.add(f'[ldevid.est]\n{BASIC}password_file = "/data/password"\n')
    root.write("data/password", "hunter2 \xff", 0o644)
    root.write("etc/credstore/tpm-owner-auth", "hunter2", 0o644)
    root.write(f"{DROP_INS}/x.conf", "[Service]\nSetCredential=est-secret:hunter2\n")
    told = lint.as_json(root.path, root.look())
    assert "secret-readable" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("id", ["dev {serial}", "{serial}/x", "x" * 65, "", "x{ek-sha256}"])
def test_a_device_id_that_no_device_could_have_is_told(root: Root, id: str) -> None:
    root.add(f'[device]\nid = "{id}"')
    assert root.codes() == {"device-id-invalid"}


@pytest.mark.parametrize("id", ["line7-{ek}", "{ek-sha256}"])
def test_a_device_may_be_called_by_its_tpm(root: Root, id: str) -> None:
    root.add(f'[device]\nid = "{id}"')
    assert root.codes() == set()


def test_what_the_fleet_shares_may_be_in_the_file_of_iot_edge(root: Root) -> None:
    root.write("etc/aziot/config.toml", '[agent]\nname = "edgeAgent"\n', 0o600)
    assert root.codes() == set()
    root.write("etc/aziot/config.toml", 'hostname = "x"\n[provisioning]\nsource = "dps"\n', 0o600)
    assert root.codes() == {"aziot-configured", "hostname-fixed"}


def test_all_problems_of_the_configuration_are_told(root: Root) -> None:
    root.add("[tpm]\nkye = 1\n[dps]\nid_scope = 1")
    told = [found.message for found in root.look()]
    assert len(told) == 2
    assert "did you mean key?" in "".join(told)


# --- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "agent.cli", *arguments]
    return subprocess.run(run, cwd=TOP, capture_output=True, text=True, check=False)


def test_the_command_tells_a_builder_and_a_script(root: Root) -> None:
    done = command("lint-image", str(root.path))
    assert (done.returncode, done.stdout) == (0, "ready to be flashed: 0 errors, 0 warnings\n")
    root.write("etc/hostname", "x")
    assert command("lint-image", str(root.path)).returncode == 0
    root.write("etc/machine-id", ID)
    done = command("lint-image", str(root.path))
    assert done.returncode == 1
    assert f"Remedy: echo uninitialized >{root.path}/etc/machine-id" in done.stdout
    done = command("lint-image", "--json", str(root.path))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["errors"] + told["warnings"] == len(told["findings"])
    assert told["findings"][0].keys() == {"code", "severity", "path", "message", "remedy"}


def test_who_reads_the_first_lines_only_gets_them_and_no_complaint(root: Root) -> None:
    for name in range(100):
        root.write(f"etc/ssh/ssh_host_{name}_key", "x")
    run = [sys.executable, "-m", "agent.cli", "lint-image", str(root.path)]
    with subprocess.Popen(run, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ours:
        assert ours.stdout is not None
        assert ours.stderr is not None
        ours.stdout.close()
        assert ours.stderr.read() == b""
    assert ours.returncode == 1


def test_what_is_no_root_directory_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        done = command("lint-image", str(path))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_this_machine_is_no_golden_image() -> None:
    """Its root is looked at as any other."""
    done = command("lint-image", "--json", "/")
    assert done.returncode == 1
    assert {"config-absent", "unit-absent"} & {
        f["code"] for f in json.loads(done.stdout)["findings"]
    }


# --- for image builders --------------------------------------------------------------------------


def test_the_example_of_a_site_is_fit_for_an_image(root: Root) -> None:
    shutil.copytree(TOP / "docs/examples/site", root.path, dirs_exist_ok=True)
    root.write(f"{SYSTEM}/ssh.service", tree.PLAIN)
    assert root.codes() == set()


def test_what_the_page_for_image_builders_names_is_there() -> None:
    page = (TOP / "docs/golden-image.md").read_text()
    for path in re.findall(r"docs/examples/[\w./-]*\w", page):
        assert (TOP / path).exists(), path
    codes = {rule.code for rule in lint.every_code()}
    named = set(re.findall(r"(?m)^(?:error|warning): .* \[([a-z0-9-]+)\]$", page))
    assert named
    assert named <= codes
