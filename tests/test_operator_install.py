"""The operator's tool comes onto a workstation as its guide says."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.lab.process import TOP

NO_NETWORK = "--dry-run --no-deps --no-build-isolation --no-index --ignore-installed --quiet"
OWN = {"azure-identity", "azure-mgmt-iothub", "azure-mgmt-iothubprovisioningservices"}


def test_pip_takes_what_the_guide_says(tmp_path: Path) -> None:
    """By the guide's own line, but that nothing is fetched: what it would install is looked at."""
    guide, report = (TOP / "docs/operator.md").read_text(), tmp_path / "report.json"
    [line] = re.findall("^pip (install [^#\n]*)", guide, re.MULTILINE)
    in_a_shell(f"{sys.executable} -m pip {line} {NO_NETWORK} --report {report}")
    [found] = json.loads(report.read_text())["install"]
    assert found["requested_extras"] == ["operator"]
    wanted = found["metadata"]["requires_dist"]
    assert {re.split("[<>=]", each)[0] for each in wanted if "extra ==" in each} > OWN
    assert not [each for each in wanted if "extra ==" not in each and each.startswith("azure-m")]


def in_a_shell(line: str) -> None:
    subprocess.run(["bash", "-ec", line], cwd=TOP, check=True)
