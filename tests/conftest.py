"""Fixtures: a TPM of its own for every test that asks for one. Nothing is mocked."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.tpm import Tpm
from tests.lab import swtpm


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
