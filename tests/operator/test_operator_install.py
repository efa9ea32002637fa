"""The operator's tool comes onto a workstation as its guide says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.process import TOP

NO_NETWORK = "--dry-run --no-deps --no-build-isolation --no-index --ignore-installed --quiet"
# As if there were none of it, the tool is run.
WITHOUT = (
    "import sys; sys.modules['tpm2_pytss'] = None; from agent{} import cli; sys.exit(cli.main({}))"
)
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
    always = {re.split("[<>=]", each)[0] for each in wanted if "extra ==" not in each}
    assert not always & {*OWN, "tpm2-pytss"}


@pytest.mark.parametrize(
    ("where", "words", "code"),
    [
        (".operator", ["--config", "/nowhere", "plan"], "operator-config-invalid"),
        ("", ["identity"], "device-software"),
    ],
)
def test_a_workstation_needs_nothing_that_has_to_be_compiled(
    where: str, words: list[str], code: str
) -> None:
    """But whoever asks for a TPM there is told."""
    given = words if where else ""
    command = [sys.executable, "-c", WITHOUT.format(where, given), *words]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert (done.returncode, f"[{code}]" in done.stderr) == (78, True), done.stderr


def test_a_terminal_that_has_not_all_letters_is_no_reason_to_fail() -> None:
    command = [sys.executable, "-c", "from agent.terminal import say; say('CN=Gerät')"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert subprocess.check_output(command, cwd=TOP, env=ascii_only) == b"CN=Ger\\xe4t\n"


def in_a_shell(line: str) -> None:
    subprocess.run(["bash", "-ec", line], cwd=TOP, check=True)
