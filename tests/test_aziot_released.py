"""IoT Edge's config.toml when the device is let go: what is ours goes, the operator's stays."""

import tomllib
from pathlib import Path

import pytest

from agent.aziot_config import released, render
from agent.aziot_ours import Ours, areas
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


WHO = ("dev-1", "0ne00000001")
EST = frozenset(each.est.url for each in METHODS.values() if each.est)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATORS)
def test_without_our_first_line_it_is_told_by_what_it_says(name: str, method: str) -> None:
    text = OPERATORS[name].encode()
    wanted = METHODS[method]
    ours = Ours(WHO, frozenset(["edge"]), EST, Path("/etc/aziot"), wanted.edge_ca is not None)
    assert areas(text, ours) == set()
    whole = render(text, wanted, FILE)
    headless = whole.partition(b"\n")[2]
    rest = released(headless, FILE, areas(headless, ours))
    assert tomllib.loads(rest.decode()) == tomllib.loads(released(whole, FILE).decode())
    assert areas(rest, ours) == set()


def test_what_names_nobody_of_ours_is_somebody_elses() -> None:
    """The same names, at another server, in another token, for another device."""
    ours = Ours(("dev-2", "0ne00000001"), frozenset(["edg"]), frozenset(), Path("/var"), True)
    for wanted in METHODS.values():
        assert areas(render(b"", wanted, FILE).partition(b"\n")[2], ours) == set()
    for odd in (b"\xff", b"provisioning = 1", b"[aziot_keys]\npkcs11_base_slot = 1"):
        assert areas(odd, ours) == set()
