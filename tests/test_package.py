"""The Debian package: built by one command; installed, upgraded, removed in a minimal Debian."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agent
from agent import config
from tests.conftest import MakeDevice
from tests.lab import units
from tests.lab.process import TOP, run
from tests.package import chroot, deb
from tests.package.chroot import Chroot
from tests.package.deb import Deb

HOME = "/usr/lib/tpm2cloud"
STATE = "/var/lib/tpm2cloud"
ETC = "/etc/tpm2cloud"
WANTS = "/etc/systemd/system"
SMOKE = TOP / "debian/tests/smoke"
# What dpkg, apt and ldconfig write for themselves, whatever the package.
BOOKKEEPING = re.compile(
    r"/var/(lib/(dpkg|apt)|log|cache/(apt|ldconfig))(/|$)|/etc/ld\.so\.cache$|/tmp$|/$"
    r"|/var/lib/systemd/timers$"  # systemd's own
)


@pytest.fixture(scope="module")
def package() -> Deb:
    return deb.build()


@pytest.fixture(scope="module")
def successor(package: Deb) -> Deb:
    """The same as a later version, built elsewhere."""
    return deb.build("--suffix", "+next")


@pytest.fixture(scope="module")
def base(package: Deb) -> Path:
    control = (TOP / "debian/tests/control").read_text()
    test_depends = re.search(r"^Depends: @, (.*)$", control, re.M)
    assert test_depends is not None
    return chroot.base(package.field("Depends"), test_depends[1])


@pytest.fixture
def minimal(base: Path, tmp_path: Path) -> Iterator[Chroot]:
    with chroot.unpacked(base, tmp_path / "tree") as tree:
        yield tree


# --- what is in it ---


def test_is_small_and_not_built_again_for_nothing(
    package: Deb, record_property: Callable[[str, object], None]
) -> None:
    assert "building" not in run("./debian/build")
    record_property("MiB", (package.packed, package.installed))
    assert package.packed < 15
    assert package.installed < 60


def test_lintian_has_nothing_to_say(package: Deb) -> None:
    assert not run("lintian", "--allow-root", "--fail-on=error,warning", package.path)


def test_holds_what_a_device_needs_and_no_more(package: Deb) -> None:
    listed = [line.split(None, 5) for line in run("dpkg-deb", "-c", package.path).splitlines()]
    names = [each[5].removeprefix(".").split(" -> ")[0] for each in listed]
    unwanted = re.compile(
        r"/(pip|setuptools|wheel|pkg_resources|tests?|__pycache__|include|RECORD|activate.*)(/|$)"
        r"|\.(pyc|pyi|h|c|a|pth)$|/agent/operator(/|$)|/tpm2cloud-operator$"
    )
    assert not [name for name in names if unwanted.search(name)]
    assert {each[1] for each in listed} == {"root/root"}
    modes = {each[0] for each in listed}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    assert {f"{ETC}/config.d/", f"{ETC}/tpm-roots.d/", f"{ETC}/config.toml.example"} <= {*names}
    share = "/usr/share"
    assert {
        *(f"{share}/man/{page}.gz" for page in ("man8/tpm2cloud.8", "man5/tpm2cloud.toml.5")),
        f"{share}/bash-completion/completions/tpm2cloud",
        f"{share}/zsh/vendor-completions/_tpm2cloud",
        "/usr/lib/systemd/catalog/tpm2cloud.catalog",
    } <= {*names}
    for unit in (TOP / "systemd").glob("*.*"):
        assert any(name.rstrip("/").endswith(f"/{unit.name}") for name in names), unit


def test_each_library_in_it_is_named_in_its_copyright_and_has_its_licence_beside_it(
    package: Deb,
) -> None:
    inside = re.findall(r"/([^/]+)-[^-/]+\.dist-info/(\S+)", run("dpkg-deb", "-c", package.path))
    libraries = {name.replace("_", "-").lower() for name, _ in inside} - {"tpm2cloud"}
    licensed = {name for name, file in inside if file.lower().startswith(("licen", "copying"))}
    assert {name.replace("_", "-").lower() for name in licensed} == libraries | {"tpm2cloud"}
    text = (TOP / "debian/copyright").read_text().split("\n .\n")[0]
    assert {name.lower() for name in re.findall(r"([\w-]+)\s+\(\w", text)} == libraries | {"libffi"}


def test_needs_the_python_it_was_made_with_and_the_libraries_it_was_linked_with(
    package: Deb,
) -> None:
    depends = package.field("Depends")
    for each in ("python3 (<< 3.12)", "python3 (>= 3.11", "libtss2-esys-", "tpm-udev"):
        assert each in depends


def test_the_same_source_gives_the_same_files_wherever_it_is_built(
    package: Deb, successor: Deb, tmp_path: Path
) -> None:
    sums = []
    for each in (package, successor):
        to = tmp_path / each.path.stem
        run("dpkg-deb", "--raw-extract", each.path, to)
        lines = (to / "DEBIAN/md5sums").read_text().splitlines()
        sums.append({line for line in lines if not line.endswith("/changelog.gz")})
        place = re.compile(rb"/tmp\.\w{10}/tpm2cloud")
        assert not [f for f in to.rglob("*") if f.is_file() and place.search(f.read_bytes())]
    assert sums[0] == sums[1]


def test_removing_stops_every_service_of_ours() -> None:
    """An instance of a template ends with its connection, and so with these."""
    files = (unit for unit in (TOP / "systemd").glob("tpm2cloud*") if unit.is_file())
    units = {unit.name for unit in files if "@" not in unit.name}
    stop = re.search(
        r"deb-systemd-invoke stop ([^>]*) >", (TOP / "debian/tpm2cloud.prerm").read_text()
    )
    assert stop is not None
    assert set(stop[1].replace("\\", " ").split()) == units


def test_an_upgrade_restarts_the_one_that_runs_for_years_without_waiting_for_the_hub() -> None:
    postinst = (TOP / "debian/tpm2cloud.postinst").read_text()
    upgrade = postinst.partition('if [ -n "$2" ]; then')[2]
    restart = "deb-systemd-invoke -- try-restart tpm2cloud-telemetry.service --no-block"
    assert restart in upgrade
    assert postinst.index("daemon-reload") < postinst.index(restart)


# --- what it does to a system ---


def test_only_telemetry_loads_what_telemetry_needs(make_device: MakeDevice) -> None:
    """The client of the hub takes a quarter of a second, of a slow device several. (PySocks is
    loaded by requests, wherever it is there: a millisecond.)"""
    device = make_device()
    profile = ["env", "PYTHONPROFILEIMPORTTIME=1"]
    for verb in ("config", "provision", "status", "health", "needs-renewal", "identity"):
        loaded = device.run([*profile, *device.agent_command(verb)]).stderr
        assert "agent.verbs" in loaded, verb
        assert not re.search(r"\| +(azure|paho|janus|deprecation)\b", loaded), verb


def test_installs_offline_without_a_tpm_and_starts_nothing(minimal: Chroot, package: Deb) -> None:
    name = minimal.put(package.path)
    left_running = minimal.sh(
        f"""apt-get -q -y install {name} >/tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}
        cat /proc/[0-9]*/comm"""
    )
    assert left_running == "sh\n"
    links = minimal.sh("find /etc/systemd /run /var/lib/systemd -name '*tpm2cloud*' -type l")
    assert not links
    assert minimal.ask("test", "-e", STATE).returncode == 1
    every_module_is_compiled(minimal)
    answers_without_a_tpm(minimal)
    has_what_telemetry_needs(minimal)
    default_paths_exist(minimal)
    provisions_a_simulated_tpm(minimal)


def every_module_is_compiled(system: Chroot) -> None:
    modules = system.sh(f"find {HOME} -name '*.py'").split()
    compiled = {*system.sh(f"find {HOME} -name '*.pyc'").split()}
    for module in map(Path, modules):
        assert f"{module.parent}/__pycache__/{module.stem}.cpython-311.pyc" in compiled
    assert not system.sh(f"find {HOME} {ETC} ! -type l \\( -perm /022 -o ! -user root \\)")


def answers_without_a_tpm(system: Chroot) -> None:
    assert system.run("tpm2cloud", "--version").strip() == f"tpm2cloud {agent.__version__}"
    unconfigured = system.ask("tpm2cloud", "status")
    assert unconfigured.returncode == 78
    assert f"{ETC}/config.toml" in unconfigured.stdout
    system.sh(f"cp {ETC}/config.toml.example {ETC}/config.toml")
    assert 'tpm.tcti = "device:/dev/tpmrm0"  # default' in system.run("tpm2cloud", "config")
    without = system.ask("tpm2cloud", "status")
    assert without.returncode == 4
    assert "[tpm-unavailable]" in without.stdout


def has_what_telemetry_needs(system: Chroot) -> None:
    """Its modules come from the package alone, and say nothing (Python's warnings are on)."""
    code = "import agent.telemetry, azure.iot.device as hub; print(hub.__file__)"
    said = system.run(f"{HOME}/bin/python", "-I", "-W", "error", "-c", code)
    assert said.startswith(f"{HOME}/lib/")
    trust = system.sh(f"{HOME}/bin/python -Ic 'from agent import config; print(config.SYSTEM_CAS)'")
    assert system.sh(f"test -s {trust.strip()} && echo there") == "there\n"


def default_paths_exist(system: Chroot) -> None:
    for directory in config.Tpm().manufacturer_roots:
        system.run("test", "-d", str(directory))
    for library in (
        "pkcs11/libtpm2_pkcs11.so",
        "libtss2-tcti-device.so.0",
        "libtss2-tcti-tabrmd.so.0",
    ):
        assert system.sh(f"ls /usr/lib/*/{library}")


def provisions_a_simulated_tpm(system: Chroot) -> None:
    """The package's own test, as autopkgtest(1) would run it."""
    system.sh("apt-get -q -y install libtss2-tcti-swtpm0 openssl swtpm swtpm-tools tpm2-tools")
    assert system.run(system.put(SMOKE).lstrip(".")).endswith("smoke: well\n")


def test_upgrade_downgrade_and_removal_keep_the_state_and_purge_leaves_no_trace(
    minimal: Chroot, package: Deb, successor: Deb
) -> None:
    minimal.sh(f"apt-get -q -y satisfy '{package.field('Depends')}'")
    old, new = minimal.put(package.path), minimal.put(successor.path)
    before = minimal.files()
    minimal.run("apt-get", "-q", "-y", "install", old)
    as_if_provisioned(minimal)
    as_if_by_a_version_without_timers(minimal)
    kept = of_the_device(minimal)
    assert kept[f"{STATE}/pins.json"].startswith("-rw------- 0:0 ")

    minimal.run("apt-get", "-q", "-y", "install", new)
    brought = {path for path, what in of_the_device(minimal).items() if kept.get(path) != what}
    assert brought == {f"{WANTS}/timers.target.wants/{timer}" for timer in units.TIMERS}
    minimal.sh(f"rm {WANTS}/timers.target.wants/tpm2cloud-health-boot.timer")  # an admin disables
    kept = of_the_device(minimal)
    minimal.run("apt-get", "-q", "-y", "--allow-downgrades", "install", old)
    assert of_the_device(minimal) == kept
    every_module_is_compiled(minimal)
    minimal.run("apt-get", "-q", "-y", "remove", "tpm2cloud")
    assert of_the_device(minimal) == kept
    assert minimal.ask("test", "-e", HOME).returncode == 1
    minimal.run("apt-get", "-q", "-y", "install", old)
    assert of_the_device(minimal) == kept

    said = minimal.run("apt-get", "-q", "-y", "purge", "tpm2cloud")
    assert "tpm2_evictcontrol -C o -c 0x81000002" in said
    left = {
        path
        for path, what in minimal.files().items()
        if before.get(path) != what and not BOOKKEEPING.match(path)
    }
    written_by_an_admin = {ETC, f"{ETC}/config.toml", f"{ETC}/config.d", f"{ETC}/config.d/1.toml"}
    assert left == written_by_an_admin


def as_if_provisioned(system: Chroot) -> None:
    """What image builder, preset and service leave; the example edited, too."""
    wanted = {
        "multi-user.target.wants/tpm2cloud.target": "tpm2cloud.target",
        "tpm2cloud.target.wants/tpm2cloud-firstboot.service": "tpm2cloud-firstboot.service",
        "dev-tpmrm0.device.wants/tpm2cloud-firstboot.service": "tpm2cloud-firstboot.service",
    }
    links = [f"mkdir -p {WANTS}/{Path(link).parent}" for link in wanted]
    links += [f"ln -s /lib/systemd/system/{unit} {WANTS}/{link}" for link, unit in wanted.items()]
    system.sh(
        f"""cd {ETC}
        cp config.toml.example config.toml
        echo '# mine' >>config.toml.example
        echo 'device.id = "x"' >config.d/1.toml
        mkdir -p {STATE}/pkcs11 /run/tpm2cloud
        {"; ".join(links)}
        echo '{{}}' >{STATE}/pins.json
        chmod 600 {STATE}/pins.json
        echo token >{STATE}/pkcs11/tpm2_pkcs11.sqlite3
        mkdir -p /var/lib/systemd/timers
        touch /var/lib/systemd/timers/stamp-tpm2cloud-health.timer"""
    )


def as_if_by_a_version_without_timers(system: Chroot) -> None:
    """dpkg's helper was not told of them, either."""
    system.sh(
        """cd /var/lib/systemd/deb-systemd-helper-enabled
        grep -q health.timer tpm2cloud-firstboot.service.dsh-also
        sed -i /health/d tpm2cloud*.dsh-also
        rm tpm2cloud-health*"""
    )


def of_the_device(system: Chroot) -> dict[str, str]:
    """What is nobody's business but the device's."""
    ours = re.compile(rf"({STATE}|{ETC}|/etc/systemd/system)(/|$)")
    kept = {path: what for path, what in system.files().items() if ours.match(path)}
    # Directories of the package alone come and go with it.
    return {path: what for path, what in kept.items() if not path.startswith(f"{ETC}/tpm-roots.d")}
