"""The manual, the journal's catalog and the completions: made from the code, whole and readable."""

import ast
import filecmp
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent import cli, config, config_factory, events, lint
from agent.errors import every_error
from agent.health import certd, judge, ladder, look
from docs.manual import subcommands
from tests.lab import journald, units
from tests.test_shape import settings

TOP = Path(__file__).parents[1]
UNIT = (TOP / "systemd/tpm2cloud-firstboot.service").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return journald.generated(tmp_path_factory.mktemp("docs") / "made")


def shown(page: Path) -> str:
    """As a reader sees it, on a very wide terminal; man itself has nothing to complain about."""
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "1000", "PAGER": "cat"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def manual(made: Path) -> str:
    return shown(made / "man/tpm2cloud.8")


@pytest.fixture(scope="module")
def catalog(made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As journalctl has it: it is refused if a single line is wrong."""
    root = tmp_path_factory.mktemp("root")
    journald.compiled(made / "tpm2cloud.catalog", root)
    command = ["journalctl", f"--root={root}", "--dump-catalog"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def terms(manual: str, name: str) -> set[str]:
    """The words that begin a paragraph in this section."""
    text = re.search(rf"^{name}\n(.*?)^(?=\S)", manual, re.MULTILINE | re.DOTALL)
    assert text, name
    lines = re.findall(r"^ {3,7}(\S.*?)(?:  .*)?$", text[1], re.MULTILINE)
    return {word.strip(",") for line in lines for word in line.split()}


def test_every_verb_and_option_is_in_the_manual_and_completed(made: Path, manual: str) -> None:
    completions = [path.read_text() for path in (made / "completions").glob("*/*")]
    assert len(completions) == 2
    known = {name: verb.format_help() for name, _, verb in subcommands(cli.parser())}
    assert len(known) >= 5
    for verb, text in [*known.items(), ("", cli.parser().format_help())]:
        assert re.search(rf"^       tpm2cloud \[.*\] {verb}", manual, re.MULTILINE), verb
        for name in (*verb.split(), *set(re.findall(r"--[a-z][\w-]*", text)) - {"--help"}):
            assert all(name in each for each in completions), name
            listed = re.search(rf"^ +(-\w, )?{name}\b", manual, re.MULTILINE)
            assert listed or not name.startswith("-"), name


def test_every_verb_says_how_it_is_used() -> None:
    """The installed command does, of each that there is."""
    for verb, _, _ in subcommands(cli.parser()):
        command = [str(TOP / ".venv/bin/tpm2cloud"), *verb.split(), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.startswith(f"usage: tpm2cloud {verb} "), verb


def test_every_failure_is_explained_in_the_manual_and_the_journal(
    manual: str, catalog: str
) -> None:
    listed = terms(manual, "ERRORS")
    for kind in every_error():
        assert re.fullmatch(r"[A-Z].*\.", events.meaning(kind)), kind
        assert "\n" not in events.meaning(kind)
        assert kind.code in listed
        assert events.meaning(kind) in manual
        remedy = re.sub(r"{(\w+)}", lambda field: field[1].upper(), kind.remedy)
        assert f"Remedy: {remedy}" in manual
        event = events.failed(kind)
        assert f"{kind.code} {event.message_id}" in re.sub(" +", " ", manual)
        entry = explained(catalog, event.message_id)
        assert events.meaning(kind) in entry
        remedy = re.sub(r"{(\w+)}", lambda field: f"@TPMCLOUD_{field[1].upper()}@", kind.remedy)
        assert f"Remedy: {remedy}" in entry


def explained(catalog: str, message_id: str) -> str:
    """An entry of the catalog, its lines joined."""
    entry = re.search(rf"^-- {message_id}\n(.*?)(?=^-- |\Z)", catalog, re.MULTILINE | re.DOTALL)
    assert entry, message_id
    for header in ("Subject", "Defined-By", "Support", "Documentation"):
        assert re.search(f"^{header}: .", entry[1], re.MULTILINE)
    return " ".join(entry[1].split())


def test_every_event_has_a_message_id_of_its_own_and_an_explanation(
    manual: str, catalog: str
) -> None:
    known = [*events.every_event(), *map(events.failed, every_error())]
    assert len({each.message_id for each in known}) == len(known)
    assert catalog.count("\n-- ") + 1 == len(known)
    for each in events.every_event():
        assert f"{each.name}, {each.message_id}" in manual
        assert explained(catalog, each.message_id)


def test_a_message_id_never_changes() -> None:
    """Somebody's monitoring waits for it."""
    assert events.PROVISIONED.message_id == "1622925d4c8e5c899656a50801bfa3de"
    ids = {kind.code: events.failed(kind).message_id for kind in every_error()}
    assert ids["unreachable"] == "c06fccce10a65173894f256924710c57"


def test_what_the_catalog_says_of_trying_again_is_what_the_unit_does() -> None:
    [never] = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT, re.MULTILINE)
    assert set(map(int, never.split())) == events.NEED_A_PERSON


def test_every_field_that_an_event_names_is_given_with_it() -> None:
    """A failure's are those of its remedy; others are in the call that tells of them."""
    given: dict[str, set[str]] = {}
    for file in (TOP / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "about":
                name = ast.unparse(node.args[0]).rpartition(".")[2]
                given[name] = {str(each.arg) for each in node.keywords}
    for name in ("STEP_DONE", "STEP_ALREADY_DONE"):  # by plan.run
        given[name] = {"step", "seconds", "evidence"}
    for name in ("", "_DONE", "_PUT_OFF"):  # by remedies.py
        given[f"INTERVENTION{name}"] = {"name", "unit", "reason", "what"}
    given["CAUSE_ELSEWHERE"] = given["INTERVENTION"]
    for name, event in vars(events).items():
        if isinstance(event, events.Event):
            wanted = re.findall(r"@TPM2CLOUD_(\w+)@", event.subject + event.meaning)
            assert set(map(str.lower, wanted)) <= given[name], name


def test_every_exit_status_is_in_the_manual(manual: str) -> None:
    listed = terms(manual, "EXIT STATUS")
    of_errors = {str(kind.status) for kind in every_error()}
    of_help = set(re.findall(r"(\d+) [a-z]", cli.parser().epilog or ""))
    assert of_errors | of_help <= listed


def test_every_credential_is_in_the_manual_and_the_unit(manual: str) -> None:
    listed = terms(manual, "CREDENTIALS")
    loaded = set(units.read(units.COMMON)["Service.LoadCredential"])
    code = "".join(file.read_text() for file in (TOP / "agent").rglob("*.py"))
    read = set(re.findall(r'credentials\.read\(\s*"([\w-]+)"', code))
    read = {name for name in read if not name.startswith("factory-")}
    assert loaded == read | {f"tpm-{name}-auth" for name in config.HIERARCHIES}
    factory = set(re.findall(r'credentials\.\w+\(\s*"(factory-[\w-]+)"', code))
    assert {"factory-est-password", "factory-ca-password"} <= factory
    assert loaded | factory | {"tpm-platform-auth"} <= listed


def test_every_variable_of_the_environment_is_in_the_manual(manual: str) -> None:
    read = _variables(TOP / "agent")
    assert {"STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "PATH"} <= read
    workstation = _variables(TOP / "agent/operator")
    assert read - workstation <= terms(manual, "ENVIRONMENT")
    page = (TOP / "docs/operator.md").read_text()
    assert all(f"`{name}`" in page for name in workstation)


def _variables(directory: Path) -> set[str]:
    code = "".join(file.read_text() for file in directory.rglob("*.py"))
    return set(re.findall(r'environ\.get\("(\w+)"', code))


def test_every_step_is_in_the_manual(manual: str) -> None:
    code = "".join(file.read_text() for file in (TOP / "agent/steps").glob("*.py"))
    steps = set(re.findall(r'Step\(\s*"([\w-]+)"', code))
    assert {"tpm", "registration"} <= steps
    assert steps <= terms(manual, "DESCRIPTION")


def test_every_state_of_a_certificate_and_every_remedy_is_in_the_manual(manual: str) -> None:
    text = manual.partition("\nLOOKING AFTER CERTIFICATES\n")[2].partition("\nCOMMANDS\n")[0]
    names = look.LDEVID, look.IDEVID, certd.EST_ID, certd.DEVICE_ID, certd.EDGE_CA
    for term in (*names, *judge.CONDITIONS, *ladder.RUNGS):
        assert re.search(rf"^       {term}( +|\n +)\S", text, re.MULTILINE), term


def test_every_check_of_an_image_is_in_the_manual(manual: str) -> None:
    rules = list(lint.every_code())
    assert rules
    for rule in rules:
        assert f"{rule.code} ({rule.severity})" in manual
        assert rule.meaning in manual


def test_every_setting_is_in_its_manual_with_its_meaning(made: Path) -> None:
    text = shown(made / "man/tpm2cloud.toml.5")
    for at in settings():
        table, _, name = at.rpartition(".")
        under = text.partition(f"   [{table}]\n")[2].partition("\n   [")[0]
        assert re.search(rf"^       {name} \(.+\)\n +\S", under, re.MULTILINE), at
    text = shown(made / "man/tpm2cloud-manufacture.toml.5")
    for at in settings(config_factory.Factory):
        table, _, name = at.rpartition(".")
        under = text.partition(f"   [{table}]\n")[2].partition("\n   [")[0]
        assert re.search(rf"^       {name} \(.+\)\n +\S", under, re.MULTILINE), at


def test_a_setting_is_told_with_its_type_and_default(made: Path) -> None:
    text = shown(made / "man/tpm2cloud.toml.5")
    assert 'key ("ecc256" or "rsa2048", default "ecc256")' in text
    assert 'timeout (duration, default "5min")' in text
    assert "url (text, required)" in text


def test_every_unit_has_a_page(made: Path) -> None:
    for unit in [*TOP.glob("systemd/tpm2cloud*.service"), *TOP.glob("systemd/tpm2cloud*.timer")]:
        assert (made / f"man/{unit.name}.8").read_text() == ".so man8/tpm2cloud.8\n"


def test_a_page_has_a_name_for_whatis_and_tears_no_command_apart(made: Path) -> None:
    """A command with a hyphen at the end of a line cannot be copied."""
    for page in sorted((made / "man").glob("tpm2cloud*.[58]")):
        if page.read_text().startswith(".so "):
            continue
        [whatis] = re.findall(r"^\.SH NAME\n(.*) \\- .+$", page.read_text(), re.MULTILINE)
        assert whatis == page.stem
        assert "\n.nh\n" in page.read_text()


def test_what_is_made_is_the_same_each_time(made: Path, tmp_path: Path) -> None:
    again = journald.generated(tmp_path)
    names = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(again)) for p in again.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(made, again, names, shallow=False) == (names, [], [])


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p tpm2cloud); function=${function##*-F }
${function% tpm2cloud} 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["st"], {"status"}),
        (["status", "--"], {"--json", "--help"}),
        (["--debug", "provision", "--d"], {"--dry-run"}),
        (["--config", "/etc/hostn"], {"/etc/hostname"}),
        (["--config", "/etc/hostname", "ident"], {"identity"}),
    ],
)
def test_bash_completes(made: Path, typed: list[str], offered: set[str]) -> None:
    script = made / "completions/bash/tpm2cloud"
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "tpm2cloud", *typed],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == offered
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_its_completions(made: Path) -> None:
    script = made / "completions/zsh/_tpm2cloud"
    subprocess.run(["zsh", "-n", str(script)], check=True, timeout=60)
