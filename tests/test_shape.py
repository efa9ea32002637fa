"""What keeps the house in shape: imports point one way, docs keep up, versions agree."""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import agent
from agent import cli, config, config_factory
from agent.errors import AgentError, every_error
from docs.manual import subcommands

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "agent"
# What each may import of the project; a library's own inner modules are named with it.
ALLOWED = {
    "store": {"errors"},
    "backoff": set(),
    "moment": set(),
    "credentials": {"errors"},
    "deviceid": {"errors"},
    "x509": {"errors"},
    "x509_issued": {"errors", "x509"},
    "x509_anchors": {"x509"},
    "x509_ek": {"x509"},
    "x509_der": {"x509"},
    "x509_path": {"x509_der"},
    "x509_crl": {"errors", "x509", "x509_der"},
    "makers": {"errors", "x509", "x509_der"},
    "identity_csv": {"deviceid", "errors", "x509"},
    "clock": {"errors", "state"},
    "tls": {"clock", "errors"},
    "traffic": set(),
    "http": {"clock", "errors", "http_line", "tls", "traffic", "urls"},
    "http_line": {"http_reply", "traffic"},
    "sas": set(),
    "cms": set(),
    "dps": {"errors", "dps_wire", "http", "sas"},
    "dps_wire": {"errors", "http"},
    "turn": {"backoff", "moment"},
    "nap": {"errors", "journal", "moment"},
    "est_wire": {"errors"},
    "est": {"errors", "est_wire", "http", "x509"},
    "est_tpm": {"errors", "est", "est_wire", "http", "x509"},
    "hub_library": {"http", "tpm"},
    "hub_errors": {"errors", "http", "tls"},
    "hub": {"errors", "http", "hub_errors", "hub_library", "sas", "tls", "tpm"},
    "pkcs11_objects": {"errors"},
    "pkcs11_rows": {"errors", "pkcs11_objects"},
    "pkcs11": {"errors", "pkcs11_objects", "pkcs11_rows"},
    "toml_edit": {"errors"},
    "aziot_config": {"errors", "toml_edit"},
    "aziot": {"errors"},
    "aziot_identity": {"errors", "aziot"},
    "x509_idevid": {"errors", "x509", "x509_issued"},
    "schema": {"errors"},
    "urls": set(),
    "config_files": {"errors", "schema"},
    "config": {"config_files", "errors", "schema", "urls"},
    "config_factory": {"config", "config_files", "errors", "schema"},
    "events": {"errors"},
    "journal": {"events"},
    "fetch": {"errors", "http", "http_reply", "traffic"},
    "ek_path": {
        "errors", "fetch", "http", "makers", "network", "store",
        "x509", "x509_crl", "x509_der", "x509_ek", "x509_path",
    },
    "ek": {"errors", "ek_path", "tpm", "x509", "x509_der", "x509_ek"},
    "tcg_csr": {"errors"},
    "evidence": {"errors", "tpm", "tcg_csr"},
}  # fmt: skip


def imported(file: Path) -> Iterator[str]:
    """What a module imports of the project: 'errors', 'tpm', 'steps', ..."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "agent":
            yield from (name.name for name in node.names if name.name not in vars(agent))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent."):
            yield str(node.module).split(".")[1]


@pytest.mark.parametrize("name", ALLOWED)
def test_libraries_know_neither_steps_nor_configuration_nor_each_other(name: str) -> None:
    assert set(imported(PACKAGE / f"{name}.py")) <= ALLOWED[name]


def test_errors_know_nothing_but_each_other() -> None:
    for file in (PACKAGE / "errors").glob("*.py"):
        assert set(imported(file)) <= {"errors"}, file


def test_the_tpm_package_knows_only_errors_and_files_and_alone_knows_tpm2_pytss() -> None:
    for file in PACKAGE.rglob("*.py"):
        inside = file.parent.name == "tpm"
        if inside:
            assert set(imported(file)) <= {"errors", "store", "tpm"}, file
        assert inside or "tpm2_pytss" not in file.read_text().replace("tpm2-pytss", ""), file


def test_steps_know_neither_the_plan_nor_the_command_line() -> None:
    for file in (PACKAGE / "steps").glob("*.py"):
        assert not set(imported(file)) & {"plan", "status", "identity", "cli"}, file


def test_importing_any_module_opens_no_device_and_reads_no_file() -> None:
    """Constants, functions and classes only: no statement at module level that acts."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            assert not isinstance(node, ast.With | ast.For | ast.While | ast.Try), (
                file,
                node.lineno,
            )


def test_every_failure_has_a_code_of_its_own_and_a_remedy() -> None:
    errors = list(every_error())
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes))
    for error in errors:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", error.code)
        assert error.remedy
        assert error.status in (70, 69, 75, 76, 77, 78)


def test_an_error_that_is_raised_fills_in_its_remedy() -> None:
    """Each `{field}` of a remedy is given wherever the error is raised."""
    wanted = {e.__name__: set(re.findall(r"{(\w+)}", e.remedy)) for e in every_error()}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            if isinstance(node, ast.Call) and name in wanted:
                given = {keyword.arg for keyword in node.keywords}
                assert None in given or wanted[name] <= given, (file, node.lineno, name)


def settings(section: Any = config.Config, at: str = "") -> Iterator[str]:
    hints = get_type_hints(section)
    for each in fields(section):
        kinds = [hints[each.name], *get_args(hints[each.name])]
        below = next((kind for kind in kinds if is_dataclass(kind)), None)
        if below:
            yield from settings(below, f"{at}{each.name}.")
        else:
            yield at + each.name


EXAMPLES: dict[str, Any] = {
    "config.toml": config.Config,
    "manufacture.toml": config_factory.Factory,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_is_in_the_example_and_it_says_nothing_else(name: str) -> None:
    text = (TOP / "docs" / name).read_text()
    lines = [line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")]
    shown, table = set(), ""
    for line in lines:
        if found := re.fullmatch(r"\[([a-z0-9_.]+)\]", line):
            table = found[1]
        elif found := re.match(r"([a-z0-9_]+) = ", line):
            shown.add(f"{table}.{found[1]}")
    assert shown == set(settings(EXAMPLES[name]))


def test_the_examples_are_configurations_that_load(tmp_path: Path) -> None:
    for name in EXAMPLES:
        (tmp_path / name).write_text((TOP / "docs" / name).read_text())
    loaded = config.load(tmp_path / "config.toml")
    assert loaded.dps.id_scope == "0ne00000000"
    text = (tmp_path / "manufacture.toml").read_text()
    text = re.sub(r"^#(?=(certificate|key) = .*station)", "", text, flags=re.MULTILINE)
    (tmp_path / "manufacture.toml").write_text(text)
    factory = config_factory.load(tmp_path / "manufacture.toml")
    assert factory.idevid.profile == "tcg"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_defaults_that_an_example_shows_are_the_defaults(name: str) -> None:
    text = (TOP / "docs" / name).read_text()
    text = re.sub(r"^#(?=[a-z0-9_]+ = )", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#(?=\[)", "", text, flags=re.MULTILINE)
    for at, value in walked(tomllib.loads(text)):
        section, _, setting = at.rpartition(".")
        default = default_of(EXAMPLES[name], section, setting)
        if default not in (None, MISSING):
            assert str(value) in shown_default(default), at


def default_of(cls: Any, section: str, setting: str) -> Any:
    for part in section.split("."):
        hint = get_type_hints(cls)[part]
        cls = next(kind for kind in [hint, *get_args(hint)] if is_dataclass(kind))
    return next(each.default for each in fields(cls) if each.name == setting)


def walked(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from walked(value, f"{at}{key}.")
        else:
            yield at + key, value


def shown_default(value: Any) -> set[str]:
    seconds = value.total_seconds() if hasattr(value, "total_seconds") else 0
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    durations = {f"{seconds / unit:g}{name}" for name, unit in units.items()}
    listed = {str([str(each) for each in value])} if isinstance(value, tuple) else set()
    return {str(value), *durations, *listed}


def test_every_package_is_installed() -> None:
    """What works here from the checkout is on a device, too."""
    listed = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = [file.parent.relative_to(TOP) for file in PACKAGE.rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(place.parts) for place in there)


def test_release_and_changelog_agree() -> None:
    text = (TOP / "debian/changelog").read_text()
    version = re.match(r"tpm2cloud \((.+?)\)", text)
    date = re.search(r"^ -- .+?  (.+)$", text, re.MULTILINE)
    assert version is not None
    assert version[1] == agent.__version__
    assert date is not None
    assert parsedate_to_datetime(date[1]) == agent.RELEASED


def test_the_readme_names_every_verb_and_exit_status() -> None:
    text = (TOP / "README.md").read_text()
    for verb, _, _ in subcommands(cli.parser()):
        assert f"`tpm2cloud {verb.split()[0]}" in text
    for status in {str(error.status) for error in every_error(AgentError)} - {"70"}:
        assert status in text
