"""Fixtures: a TPM of its own for every test that asks for one. Nothing is mocked."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.tpm import Tpm
from tests.lab import matrix, pki, swtpm
from tests.lab.device import Device, Wish
from tests.lab.tools import Tools
from tests.lab.world import World

if TYPE_CHECKING:
    from tests.lab.azure import Azure
    from tests.lab.azure_sdk import Sdk


@pytest.fixture(scope="session")
def factory_fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TPM state as its maker ships it, made once (a few seconds) and copied for each test;
    beside it, in `ca`, the maker's CA."""
    base = tmp_path_factory.mktemp("tpm")
    swtpm.make(base / "state", base / "ca")
    return base


@pytest.fixture
def tcti(factory_fresh: Path, tmp_path: Path) -> Iterator[str]:
    """A TPM on a Unix socket: no ports, gone after the test."""
    state = tmp_path / "tpm"
    shutil.copytree(factory_fresh / "state", state)
    with swtpm.running(state) as tcti:
        yield tcti


@pytest.fixture
def tpm(tcti: str) -> Iterator[Tpm]:
    with Tpm(tcti) as tpm:
        yield tpm


@pytest.fixture
def tools(tcti: str, tmp_path: Path) -> Tools:
    """tpm2-tools on the same TPM."""
    return Tools(tcti, tmp_path)


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    """Whom clients in a test trust to vouch for its servers; `tls` is such a server's."""
    return pki.authority("TLS")


@pytest.fixture(scope="module")
def tls(ca: pki.Authority, tmp_path_factory: pytest.TempPathFactory) -> pki.Tls:
    return ca.server(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """CAs, EST servers, a provisioning service; many devices live in it, one after the other."""
    with World(tmp_path_factory.mktemp("world") / "world") as world:
        yield world


MakeDevice = Callable[..., Device]


@pytest.fixture
def make_device(world: World, tmp_path: Path) -> Iterator[MakeDevice]:
    """A device as image and factory leave it, powered on: `make_device(key="rsa2048")`."""
    with ExitStack() as stack:
        count = itertools.count()

        def make(**wish: Any) -> Device:
            device = Device(world, tmp_path / f"device{next(count)}", Wish(**wish))
            return stack.enter_context(device)

        yield make


@pytest.fixture(scope="module")
def site(tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Sdk"]:
    from tests.lab import azure_sdk  # which takes a second, and few tests want it

    with azure_sdk.site(tmp_path_factory.mktemp("azure") / "azure", tls) as site:
        yield site


@pytest.fixture
def sdk(site: "Sdk") -> Iterator["Sdk"]:
    """Azure's own clients; the lab's Azure is well-behaved, and nothing has happened yet."""
    site.azure.behave()
    site.azure.forget()
    yield site
    site.azure.behave()


@pytest.fixture
def azure(sdk: "Sdk") -> "Azure":
    return sdk.azure


# Several devices at once, a virtual machine, or counts that a busy machine changes.
ALONE = {"test_crash.py", "test_renewal_crash.py", "test_straight.py", "test_traffic.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For tests/run, which runs the others in several processes."""
    for item in items:
        if item.path.name in ALONE:
            item.add_marker("alone")


Tell = Callable[[str], None]


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Tell:
    """Into the report of the tests, whatever becomes of their output."""
    return matrix.told(pytestconfig).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several (pytest-xdist) hands over what was told in it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["told"] = matrix.told(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})  # none, if it crashed
    matrix.told(node.config).extend(output.get("told", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for text in matrix.told(terminalreporter.config):
        terminalreporter.write_line(f"\n{text}")
