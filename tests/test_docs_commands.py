"""Each command of the documentation is executed: as it stands there (test_docs_typed.py), on the
booted image, or by another test, which is named. What cannot be is said with its reason
(tests/lab/documented_ways.py)."""

import re
from collections import Counter

import pytest

from tests.lab import documented
from tests.lab.documented import Command
from tests.lab.documented_ways import WAYS, By, NotHere, Setup, way_of
from tests.lab.process import TOP

COMMANDS = documented.every_command()


# --- each has a way, and the way is one ---


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: f"{each.page}:{each.line}")
def test_a_command_has_a_way_in_which_it_is_executed(command: Command) -> None:
    found = way_of(command)
    assert found, f"documented_ways.py does not say how: {command.words}"
    if isinstance(found, By):
        file, _, name = found.test.partition("::")
        text = (TOP / file).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), found.test
        assert found.says in text, (found.test, found.says)
        assert not found.section or f'"{documented.heading(command)}"' in text, command.line
    if isinstance(found, Setup):
        setup = (TOP / "tests/setup").read_text()
        for package in command.words.split()[2:]:
            assert re.search(rf"^    (?:[^#\n]* )?{re.escape(package)}\b", setup, re.M), package
    if isinstance(found, NotHere):
        assert len(found.why) > 20


def test_no_way_is_left_over() -> None:
    there = {(each.page, each.words) for each in COMMANDS}
    for page, ways in WAYS.items():
        for start in ways:
            assert any(p == page and words.startswith(start) for p, words in there), (page, start)


def test_most_commands_are_executed() -> None:
    counts = Counter(type(way_of(each)).__name__ for each in COMMANDS)
    assert counts["NotHere"] <= len(COMMANDS) / 3, counts


# --- az: the options that there are ---

# The options that are used here, as https://learn.microsoft.com/cli/azure/iot names them.
AZ = {
    "dps certificate create": "--dps-name --resource-group --certificate-name --path --verified",
    "dps enrollment-group create": "--dps-name --resource-group --enrollment-id --ca-name "
    "--edge-enabled",
    "dps enrollment create": "--dps-name --resource-group --attestation-type --enrollment-id "
    "--device-id --edge-enabled --endorsement-key --certificate-path",
    "dps enrollment update": "--dps-name --resource-group --enrollment-id --provisioning-status",
    "hub device-identity update": "--hub-name --device-id --set",
}


def test_az_is_called_as_its_reference_has_it() -> None:
    called = [each.words for each in COMMANDS if each.words.startswith("az iot ")]
    for words in called:
        verb = re.match(r"az iot ([a-z -]+?) --", words)
        assert verb, words
        assert set(re.findall(r"--[a-z-]+", words)) <= set(AZ[verb[1]].split()), words
    assert called
