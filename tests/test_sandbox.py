"""The process with the TPM has no network, the one with the network no TPM: a whole first boot so,
and what each of the two gets from the other, if the other is in a stranger's hands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.device import Wish
from tests.lab.split import Apart, worker
from tests.lab.world import World


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("town") / "world", hub=True) as town:
        yield town


@pytest.mark.parametrize("attestation", ["x509", "tpm"])
def test_a_first_boot_gets_there_without_a_network_of_its_own(
    town: World, tmp_path: Path, attestation: str
) -> None:
    wish = Wish(id=f"split-{attestation}", target="device", attestation=attestation)
    with Apart(town, tmp_path / "device", wish) as device, worker(device) as said:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr + said.read_text()
