"""What is to be sent, line by line; and how long is waited in between."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import NoPermission, PathUnusable
from agent.hub import LIMIT
from agent.state import State
from agent.telemetry import FIRST, LONGEST, pause
from agent.telemetry_lines import Counted, Lines, Source, Wake, source
from agent.telemetry_message import Message, Shelf


def all_of(found: Source) -> list[bytes]:
    taken = []
    while (line := found.take()) is not None:
        taken.append(line)
    return taken


@pytest.fixture
def pipe() -> Iterator[tuple[Lines, int, int]]:
    out, into = os.pipe()
    yield Lines(out, Path("pipe")), out, into
    os.close(out)


def test_a_file_is_taken_line_by_line_the_last_one_without_an_end(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    for text, lines in {
        b"": [],
        b"\n": [b""],
        b"one\r\ntwo\n\nthree": [b"one", b"two", b"", b"three"],
        b"x" * (LIMIT + 5) + b"\nshort\n": [b"x" * (LIMIT + 1), b"short"],
        b"a\n" * 100_000: [b"a"] * 100_000,
    }.items():
        file.write_bytes(text)
        with source(str(file), None, 0) as found:
            assert all_of(found) == lines
            assert found.ended


def test_of_a_pipe_no_more_is_read_than_the_line(pipe: tuple[Lines, int, int]) -> None:
    lines, out, into = pipe
    os.write(into, b"one\ntwo\nthr")
    assert lines.take() == b"one"
    assert os.read(out, 4) == b"two\n", "somebody else's"
    assert lines.take() is None, "not whole yet"
    os.write(into, b"ee\n")
    assert lines.take() == b"three"
    assert (lines.take(), lines.ended) == (None, False)
    os.close(into)
    assert (lines.take(), lines.ended) == (None, True)


def test_nothing_is_a_source_too_and_what_is_none_is_said(tmp_path: Path) -> None:
    with source("/dev/null", None, 0) as found:
        assert (found.take(), found.ended) == (None, True)
    with pytest.raises(PathUnusable), source(str(tmp_path / "absent"), None, 0):
        pass
    with pytest.raises((PathUnusable, NoPermission)), source(str(tmp_path), None, 0) as found:
        found.take()


def test_what_was_read_of_a_pipe_is_kept_and_half_a_line_for_that_pipe_alone(
    pipe: tuple[Lines, int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = State(tmp_path)
    assert state.telemetry in state.identity, "another device does not send it"
    lines, _, into = pipe
    os.write(into, b"hal")
    assert lines.take() is None
    assert Shelf(state.telemetry, lines).put(Message(b"\xff raw", "1"))
    lines.part.clear()
    assert Shelf(state.telemetry, lines).take() == Message(b"\xff raw", "1")
    assert lines.part == b"hal"
    other = Counted(0, 0)
    other.pipe = f"{lines.pipe}0"
    assert Shelf(state.telemetry, other).take() == Message(b"\xff raw", "1")
    assert not other.part
    assert not caplog.records
    other.pipe = "another-boot 1 2"
    Shelf(state.telemetry, other).take()
    assert "half a line is lost" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"part": "?"}', '{"part": "", "line": "", "id": "a\\n"}', "[" * 10**5]
)
def test_a_damaged_file_of_what_was_kept_is_told_and_in_nobodys_way(
    pipe: tuple[Lines, int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    file = tmp_path / "telemetry.json"
    file.write_text(text)
    assert Shelf(file, pipe[0]).take() is None
    assert "is damaged" in caplog.text
    assert Shelf(file, pipe[0]).put(Message(b"one", "1"))


def test_messages_that_are_made_up_come_at_their_time() -> None:
    made = Counted(2, 3600)
    assert made.take() is not None
    assert made.take() is None
    assert 3500 < made.due() <= 3600
    assert not made.ended


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"a": 1}', "application/json"),
        (b"21.5", "application/json"),
        (b"hot", "text/plain"),
        (b"[" * 100_000, "text/plain"),
        (b"9" * 10_000, "application/json"),
        (b'{"a": NaN}', "text/plain"),
        (b"-Infinity", "text/plain"),
        (b'"\\ud800"', "text/plain"),
        (b'"\\ud83d\\ude00"', "application/json"),
        (b"\xff", "application/octet-stream"),
    ],
)
def test_the_hub_is_told_what_kind_a_message_is_of(data: bytes, kind: str) -> None:
    assert Message(data, "1").kind == kind


def test_pauses_grow_to_five_minutes_and_no_two_devices_are_in_step() -> None:
    assert all(FIRST / 2 <= pause(1, f"device {n}") <= FIRST for n in range(100))
    assert all(LONGEST / 2 <= pause(10_000, f"device {n}") <= LONGEST for n in range(100))
    assert len({pause(5, f"device {n}") for n in range(100)}) == 100
    assert sum(pause(n, "device") for n in range(1, 9)) > 100


def test_a_rest_ends_when_there_is_to_be_an_end_and_not_for_less() -> None:
    wake = Wake()
    wake.call()
    threading.Timer(0.1, wake.stop).start()
    wake.rest(3600)
    assert wake.stopped
    wake.wait(3600)
