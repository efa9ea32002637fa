"""What the process with the network says: words for a person, and no more power than it needs."""

import socket

import pytest
from requests.structures import CaseInsensitiveDict

from agent.check import units as check
from agent.errors import ServerBusy
from agent.http import Reply
from agent.network import frames, wire
from tests.lab import units


def test_a_captured_worker_writes_no_control_characters_and_sends_nobody_to_sleep_for_years() -> (
    None
):
    """What it says is in the journal, in failure.json, and on a technician's terminal."""
    message, host = "cannot\n\x1b[2Jtalk " + "x" * 9999, "host\n\x1b]0;title\x07"
    for seconds, waits in ((-1, 0), (10**30, 7 * 24 * 3600), (30, 30), (None, None)):
        told = wire.as_error(
            {"kind": "ServerBusy", "message": message, "fields": {"host": host}, "seconds": seconds}
        )
        assert isinstance(told, ServerBusy)
        assert f"{told}{told.remedy}{told.fields}".isprintable()
        assert len(str(told)) <= wire.LONGEST
        assert told.seconds == waits


@pytest.mark.parametrize("kind", ["TpmUnavailable", "NoPermission", "ConfigError", "AgentError"])
def test_a_captured_worker_is_no_judge_of_the_tpm_the_disk_or_the_configuration(kind: str) -> None:
    """After some of these, nobody would try again before the next boot."""
    with pytest.raises(frames.Broken):
        wire.as_error({"kind": kind, "message": "cannot go on", "fields": {"path": "/"}})


@pytest.mark.parametrize("name", ["x\nMESSAGE=all is well\nx", "code", "remedy", "", "message"])
def test_a_captured_worker_names_no_field_of_the_journal_that_is_not_for_it(name: str) -> None:
    with pytest.raises(frames.Broken):
        wire.as_error({"kind": "TimedOut", "message": "m", "fields": {"host": "h", name: "x"}})


def test_a_server_may_name_its_headers_as_it_likes() -> None:
    """Also as frames name what is no text."""
    given = Reply(200, CaseInsensitiveDict({"bytes": "no Base64"}), b"body")
    here, there = socket.socketpair()
    with here, there:
        frames.Frames(here).send(wire.reply(given))
        assert wire.as_reply(frames.Frames(there).receive(10)) == given


def test_the_doctor_looks_for_the_socket_without_which_a_first_boot_has_no_network() -> None:
    assert {unit.name for unit in units.OURS.glob("tpm2cloud_*.socket")} <= set(check.UNITS)
