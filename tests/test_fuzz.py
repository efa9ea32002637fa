"""Whatever others wrote is read, or refused with a code: nothing else comes of it.

Here for a moment; `./tests/prove fuzz` takes a minute for each reader.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import toml_edit
from agent.est_wire import unwrapped, wrapped
from agent.http import WEEK, printable, retry_after
from tests.conftest import Tell
from tests.fuzz import kept, runner, servers
from tests.fuzz.targets import TARGETS

INPUTS = 15_000
SOME = settings(
    max_examples=150,
    deadline=None,  # these machines are noisy
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# --- guided by coverage ---


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_found_something_new_finds_nothing_wrong(name: str) -> None:
    inputs = list((runner.CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


def test_a_fuzzer_finds_nothing_wrong(tmp_path: Path, tell: Tell) -> None:
    run = runner.fuzz(runner.EACH, tmp_path / "fuzz", f"-runs={INPUTS}", "-seed=1")
    assert run.bug == ""
    assert run.inputs >= INPUTS
    tell(f"{run.inputs} inputs from a fuzzer, to {len(TARGETS)} readers: each read or refused")


# --- by properties ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Names that are read, with values that nobody wrote.
NAMES = """boot_id since seen until failures not_before why code fields heard states tpm trouble
 cases backoff configuration traffic asked csr url purpose proven candidate anew slot
 part pipe id line at by sum operationId status registrationState errorCode message
 authenticationKey keyName assignedHub deviceId result error kind headers body vouched
 seconds"""
NAMED = st.dictionaries(
    st.sampled_from(NAMES.split()),
    JSON,
    max_size=8,
)


@SOME
@given(NAMED)
def test_state_files_of_any_shape_are_read_or_as_if_never_written(value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    kept.state_files(data)
    kept.saved_time(data)
    kept.unsent_line(data)


@SOME
@given(st.integers(0, 499), NAMED)
def test_answers_of_dps_of_any_shape_are_understood_or_refused(
    status: int, value: dict[str, Any]
) -> None:
    servers.dps_answer(status.to_bytes(2, "big") + json.dumps(value).encode())


@SOME
@given(NAMED)
def test_frames_of_a_captured_worker_are_understood_or_broken(value: dict[str, Any]) -> None:
    servers.network_process(json.dumps({"result": value, "traffic": [0, 0], **value}).encode())


@SOME
@given(st.binary(max_size=300), st.sampled_from([64, 76]), st.sampled_from([b"\n", b"\r\n"]))
def test_base64_comes_back_as_it_went(data: bytes, columns: int, end: bytes) -> None:
    assert unwrapped(wrapped(data, columns, end)) == data


@SOME
@given(st.text(), st.text())
def test_whatever_a_server_says_of_coming_back_is_within_a_week(value: str, date: str) -> None:
    seconds = retry_after({"Retry-After": value, "Date": date})
    assert seconds is None or 0 <= seconds <= WEEK


@SOME
@given(st.text())
def test_what_a_stranger_said_is_shown_on_one_line(text: str) -> None:
    assert printable(text).isprintable()


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6)


@SOME
@given(
    st.dictionaries(WORDS, WORDS | st.integers(0, 99) | st.dictionaries(WORDS, WORDS, max_size=2)),
    st.tuples(WORDS, WORDS),
    WORDS,
)
def test_a_setting_in_toml_of_any_shape_is_set_and_the_others_stay(
    before: dict[str, Any], key: tuple[str, str], value: str
) -> None:
    made = tomllib.loads(toml_edit.edit(tomlkit.dumps(before), {key: value}, []))
    assert made[key[0]][key[1]] == value
    assert {name: made[name] for name in before if name != key[0]} == {
        name: before[name] for name in before if name != key[0]
    }
