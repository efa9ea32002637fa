"""IoT Edge's config.toml when the device is let go: what is ours goes, the operator's stays."""

import tomllib

import pytest

from agent.aziot_config import released, render
from tests.lab.operators import OPERATORS
from tests.test_aziot_config import FILE, METHODS, PIN

OURS = {"provisioning", "cert_issuance", "aziot_keys", "edge_ca", "tpm"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_released_says_what_its_owner_said_besides_and_nothing_of_ours(
    name: str, method: str
) -> None:
    text = OPERATORS[name]
    rest = released(render(text.encode(), METHODS[method], FILE), FILE)
    before, after = tomllib.loads(text), tomllib.loads(rest.decode())
    assert PIN.encode() not in rest
    assert "provisioning" not in after
    assert {name: before[name] for name in before.keys() - OURS} == {
        name: after[name] for name in after.keys() - OURS
    }


@pytest.mark.parametrize("name", OPERATORS)
def test_a_file_that_was_never_ours_is_released_as_it_is(name: str) -> None:
    text = OPERATORS[name].encode()
    assert released(text, FILE) == text
    ours = render(text, METHODS["tpm"], FILE)
    assert released(released(ours, FILE), FILE) == released(ours, FILE)
