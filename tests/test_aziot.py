"""IoT Edge's commands."""

import os
import time
from pathlib import Path

import pytest

from agent import aziot
from agent.errors import IotedgeFailed, IotedgeMissing


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the head of $PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def iotedge(path: Path, script: str) -> None:
    """An `iotedge` that does this."""
    program = path / "iotedge"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_apply_reprovision_and_stop_are_verbs_of_iotedge(path: Path) -> None:
    iotedge(path, f'echo "$@" >> {path}/calls')
    aziot.apply()
    aziot.reprovision()
    aziot.stop()
    assert (path / "calls").read_text() == "config apply\nsystem reprovision\nsystem stop\n"


def test_it_gets_no_secrets_from_our_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    iotedge(path, f"/usr/bin/env > {path}/env; pwd > {path}/pwd; cat > {path}/stdin")
    aziot.apply()
    names = {line.split("=")[0] for line in (path / "env").read_text().splitlines()}
    assert names - {"_", "PWD", "OLDPWD", "SHLVL"} == {"PATH", "LC_ALL"}
    assert (path / "pwd").read_text() == "/\n"
    assert (path / "stdin").read_text() == ""


def test_no_iotedge_on_the_path(path: Path) -> None:
    with pytest.raises(IotedgeMissing, match="cannot run 'iotedge config apply': there is no"):
        aziot.apply()


def test_an_iotedge_that_cannot_be_started(path: Path) -> None:
    iotedge(path, "")
    (path / "iotedge").write_bytes(b"\x7fELF, but no program")
    with pytest.raises(IotedgeFailed, match="cannot run 'iotedge system reprovision': Exec format"):
        aziot.reprovision()


def test_what_it_said_before_it_failed_is_quoted_in_one_line(path: Path) -> None:
    iotedge(path, r'echo out; printf "\033[31mred\033[0m\a\r\n" >&2; exit 3')
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply()
    assert str(failed.value) == (
        "cannot run 'iotedge config apply': it ended with status 3, and said: 'out | red'"
    )


def test_silence_is_called_silence_and_a_signal_a_signal(path: Path) -> None:
    iotedge(path, "kill -SEGV $$")
    with pytest.raises(IotedgeFailed, match="was killed by signal 11, and said nothing"):
        aziot.apply()


def test_a_secret_it_repeats_is_made_unreadable_in_every_spelling(path: Path) -> None:
    iotedge(path, r"""echo 'bad: pin-value=a%20b, pin "a b", password = "x\"y"' ; exit 1""")
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply(secrets={"a b", "a%20b", 'x"y'})
    assert '\'bad: pin-value=*** pin "***", password = "***"\'' in str(failed.value)


def test_only_the_end_of_a_long_speech_is_quoted(path: Path) -> None:
    iotedge(path, "seq 1 100000; printf 'äöü%.0s' $(seq 200); echo; echo the end; exit 1")
    with pytest.raises(IotedgeFailed) as failed:
        aziot.apply()
    said = str(failed.value).partition("and said: ")[2]
    assert len(said.encode()) <= 502
    assert said.startswith("'...")
    assert said.endswith("äöü | the end'")


def gone(pid: int) -> bool:
    """Dead within two seconds: SIGKILL takes a moment."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.02)
    return False


def test_one_that_hangs_is_killed_with_its_children_and_its_words_are_kept(path: Path) -> None:
    iotedge(path, f"echo waiting for systemd; sleep 60 & echo $! > {path}/pid; wait")
    started = time.monotonic()
    with pytest.raises(IotedgeFailed, match=r"not finish within 0.5 seconds, and said: 'waiting"):
        aziot.apply(timeout=0.5)
    assert time.monotonic() - started < 5
    assert gone(int((path / "pid").read_text()))


def test_a_child_left_behind_neither_holds_us_up_nor_stays(path: Path) -> None:
    iotedge(path, f"sleep 60 & echo $! > {path}/pid")
    started = time.monotonic()
    aziot.apply(timeout=20)
    assert time.monotonic() - started < 5
    assert gone(int((path / "pid").read_text()))


def test_one_that_closes_its_output_first_is_waited_for(path: Path) -> None:
    iotedge(path, f"exec >/dev/null 2>&1; sleep 0.3; touch {path}/done; exit 4")
    with pytest.raises(IotedgeFailed, match="status 4"):
        aziot.apply()
    assert (path / "done").exists()


def test_nothing_of_ours_is_left_open(path: Path) -> None:
    iotedge(path, "exit 0")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    aziot.apply()
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208
