"""How each command of the documentation is executed by a test. One without a way is an error."""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.events import PROVISIONED
from tests.lab import documented
from tests.lab.documented import MANUAL, Command


@dataclass(frozen=True)
class Typed:
    """By tests/test_docs_commands.py, as it stands there, in the place of this name; in the order
    of the page."""

    place: str


@dataclass(frozen=True)
class Booted:
    """On the golden image, in a virtual machine, at the end of its second boot (tests/vm/first.py).
    `status`: how it ends there; `within`: seconds, of one that never ends."""

    status: int = 0
    within: int = 0


@dataclass(frozen=True)
class By:
    """By this test, of `file::name`, or of a file alone, in which stands `says`; `section`: which
    takes whole sections, and names them."""

    test: str
    says: str = ""
    section: bool = False


@dataclass(frozen=True)
class Setup:
    """By tests/setup: it installs these packages."""


@dataclass(frozen=True)
class NotHere:
    """It cannot be: bash parses it, and that is all. Why:"""

    why: str


Way = Typed | Booted | By | Setup | NotHere

AZURE = NotHere("needs Azure; the options are those of the published reference")
MICROSOFT = NotHere("packages.microsoft.com is not reached from here; the stand-in has its place")
MKOSI = NotHere("takes minutes and root: it was run by hand, and says so")
PROVE = NotHere("takes hours; tests/run goes through a sample of the same points")
MAKER = NotHere("asks a TPM maker's server")
INSTALL = By(
    "tests/test_package.py::test_installs_offline_without_a_tpm_and_starts_nothing",
    """apt-get -q -y install {name}""",
)
SOCKET = By("tests/vm/test_device.py", "enable --now {SOCKET}")
PIPE = By("tests/vm/test_device.py", 'echo "$line" >{PIPE}')
LOOP = By(
    "tests/test_identity_tables.py::"
    "test_the_loop_of_the_documentation_enrols_each_device_of_a_table",
    "documented_loop()",
)
ESCROW = By(
    "tests/test_authorization_boot.py::test_the_escrow_is_opened_as_the_manual_says",
    'page.split("```sh',
)
RECEIPT = By("tests/test_receipt.py", "documented.shell(PAGE, ", section=True)
CHALLENGE = By("tests/test_receipt_iak.py", "documented.shell(PAGE, ", section=True)

# By page, and by what a command begins with; the longest one counts.
WAYS: dict[str, dict[str, Way]] = {
    "README.md": {
        "./tests/demo": Typed("demo"),
        "./tests/run": NotHere("is what is running now"),
        "./debian/build": By("tests/package/deb.py", "./debian/build"),
        "apt install ./dist/tpm2cloud_*.deb": INSTALL,
        "tpm2cloud lint-image ROOT": Typed("image"),
        "tpm2cloud check": Typed("device"),
        "tpm2cloud status": Typed("device"),
        "journalctl -x -u tpm2cloud-firstboot": Booted(),
        "man tpm2cloud": Typed("manual"),
    },
    "authorization.md": {
        "openssl genpkey": ESCROW,
        "openssl pkey -in escrow-key.pem -pubout": ESCROW,
        "openssl cms -decrypt": ESCROW,
    },
    "receipt.md": {
        "": RECEIPT,
        "tpm2cloud receipt challenge": CHALLENGE,
        "tpm2cloud receipt answer": CHALLENGE,
        "tpm2cloud receipt verify receipt.jsonl --trust maker-roots.pem": CHALLENGE,
    },
    "enrolment.md": {
        "az iot dps": AZURE,
        "tpm2cloud identity --merge *.json >devices.csv": Typed("device"),
        "python3 -c 'import csv, sys;": LOOP,
        "tpm2cloud provision": Typed("message"),
        "echo '{\"temperature\": 21.5}' | tpm2cloud telemetry": Typed("message"),
        "tpm2cloud telemetry --count 3": Typed("message"),
        "systemctl enable --now tpm2cloud-telemetry.socket": By(
            "tests/vm/test_device.py", "enable --now {SOCKET}"
        ),
        "test -p /run/tpm2cloud/telemetry": PIPE,
    },
    "factory.md": {
        "apt install ./tpm2cloud_*.deb": INSTALL,
        "tpm2cloud import-root maker.pem --sha256 FINGERPRINT": Typed("station"),
        "editor /etc/tpm2cloud/manufacture.toml": Typed("station"),
        "cp idevid-ca.pem /etc/tpm2cloud/": Typed("station"),
        "tpm2cloud manufacture >>boards.jsonl": Typed("station"),
        "openssl ": Typed("states"),
        "tpm2cloud boot-state": Typed("states"),
        "mkdir -p /etc/tpm2cloud/boot-states.d": Typed("states"),
        "cp maker.pem fw-1.0": Typed("states"),
        "tpm2cloud manufacture": Typed("states"),
        "tpm2cloud manufacture --csr-out board.csr": Typed("request"),
        "tpm2cloud manufacture --cert-in board.pem": Typed("request"),
        "tpm2cloud manufacture --challenge-in challenge.bin --answer-out answer.bin": By(
            "tests/test_manufacture_evidence.py", "--challenge-in"
        ),
        "tpm2cloud identity --merge boards.jsonl >boards.csv": Typed("station"),
    },
    "golden-image.md": {
        "systemctl --root=ROOT preset": Typed("image"),
        "curl -O https://packages.microsoft.com/": MICROSOFT,
        "apt-get install ./packages-microsoft-prod.deb": MICROSOFT,
        "apt-get update": Setup(),
        "apt-get install moby-engine aziot-edge": MICROSOFT,
        "apt-get install mmdebstrap e2fsprogs": Setup(),
        "cp -r docs/examples/": Typed("checkout"),
        "mkdir -p mysite/etc/tpm2cloud/tpm-roots.d": Typed("checkout"),
        "docs/examples/mmdebstrap mysite golden.img": NotHere(
            "takes root, and Microsoft's packages: it was run by hand; shellcheck has read it"
        ),
        "apt-get install mkosi debootstrap systemd-container": MKOSI,
        "cp -r ../mysite mkosi.extra": Typed("checkout"),
        "mkdir -p mkosi.skeleton/opt/debs": Typed("checkout"),
        "mkosi build": MKOSI,
        "tpm2cloud lint-image ROOT": Typed("image"),
        "mkdir tpm": Typed("trial"),
        "swtpm_setup --tpm2": Typed("trial"),
        "swtpm socket --tpm2": Typed("trial"),
        "kernel=$(debugfs": Typed("trial"),
        "debugfs -R": Typed("trial"),
        "qemu-system-x86_64 -M q35": Typed("trial"),
    },
    "guarantees.md": {
        "./tests/prove": PROVE,
        "./tests/run": NotHere("is what is running now"),
    },
    "operator.md": {
        "az iot": AZURE,
        "az login": AZURE,
        "az deployment group create": AZURE,
        "apt-get install": Setup(),
        "python3 -m venv": By("tests/setup", "python3 -m venv"),
        "pip install": By(
            "tests/operator/test_operator_install.py::test_pip_takes_what_the_guide_says",
            "in_a_shell(f",
        ),
        "tpm2cloud-operator": Typed("workstation"),
        "tpm2cloud identity --merge boards.jsonl >boards.csv": Typed("station"),
        "journalctl -m": Booted(),
    },
    "security.md": {
        "systemd-analyze security": Booted(),
        "tpm2cloud config": Typed("device"),
        "tpm2cloud identity": Typed("device"),
    },
    "tpm-makers.md": {
        "curl -O https://pki.infineon.com/": MAKER,
        "tpm2cloud import-root OptigaRsaRootCA2.crt": Typed("makers"),
    },
    "troubleshooting.md": {
        "tpm2cloud check": Typed("device"),
        "tpm2cloud status": Typed("device"),
        "tpm2cloud health --dry-run": Typed("device"),
        "journalctl -x -u tpm2cloud-firstboot": Booted(),
    },
    MANUAL: {
        "tpm2cloud check": Typed("device"),
        "tpm2cloud status": Typed("device"),
        "journalctl -x": Booted(),
        "systemctl restart tpm2cloud-firstboot": Booted(),
        "tpm2cloud provision --dry-run": Typed("device"),
        "tpm2cloud health --dry-run": Typed("device"),
        "tpm2cloud identity": Typed("device"),
        "echo '{\"temperature\": 21.5}' | tpm2cloud telemetry": Typed("message"),
        "journalctl -f -n all -b MESSAGE_ID=": Booted(status=124, within=3),
        "journalctl -m": Booted(),
    },
}


def way_of(command: Command) -> Way | None:
    """None: nobody executes it."""
    here = WAYS.get(command.page, {})
    fits = [start for start in here if command.words.startswith(start)]
    return here[max(fits, key=len)] if fits else None


def typed(place: str) -> Iterator[Command]:
    """What is to be typed in a place, page by page, each once."""
    seen = set()
    for each in documented.every_command():
        if way_of(each) == Typed(place) and each.words not in seen:
            seen.add(each.words)
            yield each


def booted() -> dict[str, Booted]:
    """What is to be asked of the booted image, and how that ends; a restart comes last."""
    found = {}
    for each in documented.every_command():
        if isinstance(how := way_of(each), Booted):
            words = each.words.replace("@provisioned@", PROVISIONED.message_id)
            found[f"timeout {how.within} {words}" if how.within else words] = how
    return dict(sorted(found.items(), key=lambda item: "restart" in item[0]))
