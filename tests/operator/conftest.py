"""Fixtures: an operator at her desk, the EST server of her CA, and the lab's Azure."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.desk import Desk, Tool
from tests.lab.est import EstServer


@pytest.fixture(scope="module")
def operations() -> pki.Authority:
    return pki.authority("Operations CA")


@pytest.fixture(scope="module")
def est(
    operations: pki.Authority, tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EstServer]:
    server = EstServer(tmp_path_factory.mktemp("est") / "est", operations, tls)
    with server.running():
        yield server


@pytest.fixture
def azure(tls: pki.Tls, tmp_path: Path) -> Iterator[Azure]:
    with Azure(tmp_path / "azure", tls).running() as azure:
        yield azure


@pytest.fixture
def desk(azure: Azure, est: EstServer, tls: pki.Tls, tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", azure, est.url, tls.trust)


@pytest.fixture
def tool(desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    return Tool(desk, capsys)
