"""What must be installed, and whole."""

import re
import stat
from collections.abc import Iterator

import agent
from agent.config import SYSTEM_CAS, Config
from agent.lint.image import Image
from agent.lint.rules import ERROR, WARNING, Finding, Rule

COMMAND = "/usr/bin/tpm2cloud"
HOME = "/usr/lib/tpm2cloud"
STATUS = "/var/lib/dpkg/status"
OUR_PACKAGES = r"tpm2cloud|aziot-.*|iotedge|moby-.*|tpm2-abrmd|tpm-udev|libtpm2-pkcs11-1"
# What it is known by, its package.
ALWAYS = {
    "/usr/lib/udev/rules.d/60-tpm-udev.rules": "tpm-udev",
}
FOR_EDGE = {"/usr/bin/iotedge": "aziot-edge"}
FOR_DEVICE = {"/usr/lib/*/libtss2-tcti-device.so.0": "libtss2-tcti-device0"}
FOR_HUB = {str(SYSTEM_CAS): "ca-certificates"}  # and for DPS
FOR_X509 = {"/usr/lib/*/pkcs11/libtpm2_pkcs11.so": "libtpm2-pkcs11-1"}
FOR_KEYD = {  # its way to the TPM
    "/usr/lib/systemd/system/tpm2-abrmd.service": "tpm2-abrmd",
    "/usr/lib/*/libtss2-tcti-tabrmd.so.0": "libtss2-tcti-tabrmd0",
}

PACKAGE_ABSENT = Rule(
    "package-absent",
    ERROR,
    "A package that onboarding needs is not in the image.",
    "chroot {root} apt-get install {package}",
)
PACKAGE_UNFINISHED = Rule(
    "package-unfinished",
    ERROR,
    "A package is not completely installed: its users, directories or units may be missing.",
    "chroot {root} dpkg --configure -a",
)
AGENT_BROKEN = Rule(
    "agent-broken",
    ERROR,
    "The command tpm2cloud, or the Python it runs with, is not whole.",
    "chroot {root} apt-get install --reinstall tpm2cloud",
)
AGENT_OTHER_VERSION = Rule(
    "agent-other-version",
    WARNING,
    "The image has another version of tpm2cloud than the one that looks at it.",
    "Look at it with its own: chroot {root} tpm2cloud lint-image /",
)


def packages(image: Image, conf: Config | None) -> Iterator[Finding]:
    for pattern, package in _wanted(conf).items():
        unmerged = pattern.removeprefix("/usr") if pattern.startswith("/usr/lib") else pattern
        if not any(map(image.exists, [*image.matching(pattern), *image.matching(unmerged)])):
            why = f"it is not there: the package {package} is needed"
            yield PACKAGE_ABSENT.at(image, pattern, why, package=package)


def _wanted(conf: Config | None) -> dict[str, str]:
    if conf is None:
        return ALWAYS | FOR_EDGE | FOR_DEVICE | FOR_X509 | FOR_KEYD
    by_certificate = conf.dps.attestation == "x509"
    return {
        **ALWAYS,
        **(FOR_EDGE if conf.for_edge else {}),
        **(FOR_HUB if not conf.for_edge and conf.dps.trust == SYSTEM_CAS else {}),
        **(FOR_DEVICE if conf.tpm.tcti.startswith("device") else {}),
        **(FOR_X509 if by_certificate else {}),
        **(FOR_KEYD if by_certificate and conf.for_edge else {}),
        **({str(conf.pkcs11.library): "libtpm2-pkcs11-1"} if conf.pkcs11.library else {}),
    }


def dpkg(image: Image, _: Config | None) -> Iterator[Finding]:
    for stanza in _text_of_dpkg(image).split("\n\n"):
        name, state = _field(stanza, "Package"), _field(stanza, "Status").split()
        half = state[:1] == ["install"] and state[-1] != "installed"
        if half and re.fullmatch(OUR_PACKAGES, name):
            why = f"the package {name} is not completely installed: {state[-1]}"
            yield PACKAGE_UNFINISHED.at(image, STATUS, why)
        version = _field(stanza, "Version")
        if name == "tpm2cloud" and version and re.split("[-+~]", version)[0] != agent.__version__:
            why = f"tpm2cloud {version} is installed, and {agent.__version__} looks at it"
            yield AGENT_OTHER_VERSION.at(image, STATUS, why)


def _text_of_dpkg(image: Image) -> str:
    """It may be of any size."""
    return (image.data(STATUS, 1 << 27) or b"").decode(errors="replace")


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*)$", stanza, re.MULTILINE)
    return found[1].strip() if found else ""


def command(image: Image, _: Config | None) -> Iterator[Finding]:
    """The command, its interpreter, and the library that fits this interpreter: a Python of another
    minor version finds nothing in a virtual environment."""
    if not _executable(image, COMMAND):
        yield AGENT_BROKEN.at(image, COMMAND, "there is no such command in the image")
        return
    first = (image.data(COMMAND, 256) or b"").split(b"\n")[0]
    interpreter = first.removeprefix(b"#!").decode(errors="replace").strip().split(" ")[0]
    if not first.startswith(b"#!/") or not _executable(image, interpreter):
        why = f"its interpreter '{interpreter}' is not in the image"
        yield AGENT_BROKEN.at(image, COMMAND, why)
    elif not image.matching(f"{HOME}/lib/{image.real(interpreter).name}/site-packages/agent"):
        why = f"its libraries are not for {image.real(interpreter).name}, which it would run with"
        yield AGENT_BROKEN.at(image, HOME, why)


def _executable(image: Image, path: str) -> bool:
    found = image.stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)


CHECKS = (packages, dpkg, command)
