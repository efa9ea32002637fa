"""Root file systems made of Debian packages, as tar files in .lab/vm, kept between runs.

Nothing needs root: where we are not, user namespaces keep the owners (mmdebstrap(1), "MODES").
"""

import fcntl
import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.process import TOP, run

CACHE = TOP / ".lab" / "vm"
SUITE = "bookworm"
# The host's own sources, so that a mirror or a cache is used if there is one.
SOURCES = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
SYSTEM = [
    "linux-image-cloud-amd64",  # NVMe, ext4 and the TPM built in: boots without an initrd
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "ca-certificates"),
    "systemd-timesyncd",
]
# What tpm2cloud and IoT Edge depend on, so that apt need not fetch it whenever they are built anew.
DEPENDENCIES = [
    *("python3", "tpm-udev", "tpm2-abrmd", "libtpm2-pkcs11-1", "adduser", "psmisc"),
    *("libtss2-esys-3.0.2-0", "libtss2-mu0", "libtss2-rc0"),
    *("libtss2-tctildr0", "libtss2-tcti-device0", "libtss2-tcti-tabrmd0"),
]
SLIM = [
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale")),
    '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Languages "none"',
]


def base() -> Path:
    """A minimal system without anything of ours (a minute, the first time)."""
    sources = [str(path) for path in SOURCES if path.exists()][:1]
    skip = "cleanup/apt/lists"
    if os.geteuid() != 0:
        skip += ",output/dev"  # nobody else may unpack devices
    command = ["mmdebstrap", "--variant=minbase", f"--skip={skip}", *SLIM, *_settings()]
    command.append(f"--include={','.join(SYSTEM + DEPENDENCIES)}")
    return _made("base", [*command, SUITE], sources, [])


def _settings() -> Iterator[str]:
    """The host's proxies, CAs and the like for apt."""
    wanted = ["Acquire::http", "Acquire::https"]
    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty", *wanted], capture_output=True, text=True, check=True
    )
    for line in dump.stdout.splitlines():
        yield f"--aptopt={line.rstrip(';')}"


def golden(debs: Sequence[Path], name: str = "golden") -> Path:
    """The base with these packages, installed by apt as an image builder does."""
    below = base()
    uploads = [f"--customize-hook=upload {deb} /{deb.name}" for deb in debs]
    names = " ".join(f"/{deb.name}" for deb in debs)
    install = f"""chroot "$1" sh -c 'apt-get -q -y install {names} && rm {names}'"""
    command = ["mmdebstrap", "--variant=custom", f"--setup-hook=tar-in {below} /"]
    command += ['--setup-hook=mkdir -p "$1/dev"']  # for mmdebstrap to put devices there
    command += ["--skip=setup,update,cleanup"]
    return _made(name, [*command, *uploads, f"--customize-hook={install}", ""], [], debs)


def _made(name: str, command: list[str], sources: list[str], inputs: Sequence[Path]) -> Path:
    """The tar file that this command made, or makes now; older ones of the name go."""
    digest = hashlib.sha256("\0".join([*command, *sources]).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    made = CACHE / f"{name}-{digest.hexdigest()[:16]}.tar"
    with _alone(name):
        if not made.exists():
            for old in CACHE.glob(f"{name}-*.tar"):
                old.unlink()
            new = made.with_suffix(".new.tar")
            run(*command, new, *sources)
            _trim(new)
            new.rename(made)
    return made


def _trim(archive: Path) -> None:
    """No more at its end than the two empty blocks that say so (512 bytes each). A tar that reads
    from a pipe goes away at these, and who still writes then, as mmdebstrap's hook, dies of it."""
    with tarfile.open(archive) as members:
        for _ in members:
            pass
        end = members.offset
    os.truncate(archive, end + 2 * tarfile.BLOCKSIZE)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """No other run of the tests makes the same meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
