"""The documentation as a whole: an index that is complete, links that lead somewhere, commands and
settings that exist, and what is made of the code as the code is."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli, config, config_factory, lint
from agent.errors import every_error
from agent.operator.settings import Operator
from docs import troubleshooting
from docs.manual import subcommands
from tests.lab import documented
from tests.lab.process import TOP
from tests.test_shape import settings

DOCS = TOP / "docs"
PAGES = {page.name: page for page in documented.pages() if page.parent == TOP} | {
    f"docs/{page.name}": page for page in documented.pages() if page.parent == DOCS
}


def prose(page: Path) -> str:
    """Without the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


# --- the whole ---


def test_the_index_names_every_page_and_nothing_else() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_the_readme_is_short() -> None:
    """What is longer belongs into docs."""
    assert len((TOP / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_or_names_of_this_project_is_there(name: str) -> None:
    page, text = PAGES[name], prose(PAGES[name])
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for named in re.findall(r"`(?:\./)?((?:docs|tests|agent|systemd|debian)/[\w./-]*\w)", text):
        assert (TOP / named).exists(), named
    for named in re.findall(r"`([a-z-]+\.md)`", text):
        assert (DOCS / named).exists() or named == "README.md", named


@pytest.mark.parametrize("name", PAGES)
def test_a_block_says_what_it_is(name: str) -> None:
    assert documented.indented(PAGES[name]) == []
    assert {block.language for block in documented.blocks(PAGES[name])} <= documented.LANGUAGES
    assert PAGES[name].read_text().count("\n```") % 2 == 0


def test_troubleshooting_is_what_the_program_says() -> None:
    """After a change: docs/generate."""
    assert troubleshooting.PAGE.read_text() == troubleshooting.page()


def test_every_code_is_in_troubleshooting_once_and_in_a_place_of_its_own() -> None:
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", troubleshooting.page(), re.MULTILINE)
    assert sorted(listed) == sorted(
        [*(kind.code for kind in every_error()), *(rule.code for rule in lint.every_code())]
    )
    lost = [k.code for k in every_error() if troubleshooting.where(k.code) == troubleshooting.ELSE]
    assert not lost, "docs/troubleshooting.py: PLACES says where"


# --- what is told to type, and to set ---


# The verb, and the rest of the command.
CALL = (
    r"(?<![\w/.-])(?<!package )tpm2cloud (?:--config \S+ |--debug )*"
    r"([a-z][a-z-]+)\b([^;|&>()`]*)"
)


def told() -> Iterator[tuple[str, str]]:
    """Where, and what begins with tpm2cloud: in the pages, and in remedies."""
    for name, page in PAGES.items():
        for code in re.findall(r"`(tpm2cloud [^`]+)`", prose(page).replace("\n", " ")):
            yield name, code
    for each in documented.every_command():
        yield each.page, each.words
    yield from ((kind.code, kind.remedy) for kind in every_error())
    yield from ((rule.code, rule.remedy) for rule in lint.every_code())


def test_every_command_of_ours_exists_with_its_options() -> None:
    known = {name: verb.format_help() for name, _, verb in subcommands(cli.parser())}
    general = cli.parser().format_help()
    found = 0
    for where, text in told():
        for verb, rest in re.findall(CALL, text):
            assert verb in known, (where, text)
            below = [each for name, each in known.items() if name.split()[0] == verb]
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
                assert any(option in each for each in [general, *below]), (where, option)
            found += 1
    assert found > 100


SCHEMAS = (config.Config, config_factory.Factory, Operator)


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_that_a_page_shows_is_one(name: str) -> None:
    known = {at for schema in SCHEMAS for at in settings(schema)}
    tables = {part for at in known for part in _above(at)}
    for block in documented.blocks(PAGES[name]):
        if block.language == "toml" and not block.text.startswith("# of "):
            for at in _walked(tomllib.loads(block.text)):
                assert at in known | tables, (name, block.line, at)


def test_every_setting_of_the_operators_is_on_their_page() -> None:
    text = "".join(b.text for b in documented.blocks(DOCS / "operator.md") if b.language == "toml")
    assert set(_walked(tomllib.loads(text))) == set(settings(Operator))


def _above(at: str) -> Iterator[str]:
    while "." in at:
        at = at.rpartition(".")[0]
        yield at


def _walked(tree: dict[str, object], at: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _walked(value, f"{at}{key}.")
        else:
            yield at + key
