"""What is told to whom: the terminal, the journal, systemd."""

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import events, journal
from agent.errors import Unreachable, every_error
from tests.conftest import MakeDevice
from tests.lab import journald
from tests.lab.device import AGENT, Device


@contextlib.contextmanager
def receiving(path: Path) -> Iterator[list[bytes]]:
    """The datagrams that come to a socket, as systemd and journald have one; all are here after
    the `with`."""
    got: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(path))
        thread = threading.Thread(target=lambda: got.extend(iter(lambda: there.recv(1 << 20), b"")))
        thread.start()
        try:
            yield got
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(path))
            thread.join()


# --- systemd ---


def told(device: Device, *arguments: str) -> list[str]:
    """What a run told systemd."""
    path = device.directory / "notify"
    with receiving(path) as got:
        done = subprocess.run(
            device.agent_command("provision", *arguments),
            env={**device.environment(), "NOTIFY_SOCKET": str(path)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    path.unlink()
    assert done.returncode == 0, done.stderr
    return [each.decode() for each in got]


def test_the_service_is_ready_before_the_step_that_starts_iot_edge(make_device: MakeDevice) -> None:
    """Its services are ordered after ours: were it ready only later, each would wait for the
    other. Once is enough, and where there is nothing to do, it is the same."""
    device = make_device()
    assert told(device, "--dry-run") == []

    first = told(device)
    assert first[0] == "STATUS=tpm"
    ready = first.index("READY=1\nSTATUS=registration")
    assert first[ready - 1] == "STATUS=aziot-config: at work"
    assert first[ready + 1 :] == ["STATUS=registration: at work", "STATUS=provisioned"]
    assert sum("READY=1" in each for each in first) == 1

    again = told(device)
    assert again[-2:] == ["READY=1\nSTATUS=registration", "STATUS=provisioned"]
    assert sum("READY=1" in each for each in again) == 1


# --- a terminal, or a journal that is not there ---


def test_a_failure_is_two_lines_on_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[dps]\n")
    done = subprocess.run(
        [str(AGENT), "--config", str(file), "config"],
        env={**os.environ, "JOURNAL_STREAM": "1:1"},  # inherited: ours is another
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith("cannot use the configuration:\n")
    assert done.stderr.splitlines()[-2].endswith("dps.id_scope: required [config-invalid]")
    assert done.stderr.splitlines()[-1].startswith("Remedy: ")


def record(message: str, level: int = logging.ERROR, **extra: object) -> logging.LogRecord:
    return logging.getLogger("agent.x").makeRecord(
        "agent.x", level, "x.py", 7, message, (), None, "f", extra
    )


def handler(path: Path) -> journal.Journal:
    """To the journal at `path`; what cannot go there, to our stderr."""
    spare = logging.StreamHandler(sys.stderr)
    spare.setFormatter(journal.Prefixed("%(message)s"))
    return journal.Journal(spare, path)


def test_no_message_is_lost_without_a_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """journald reads priorities from stderr, too (sd-daemon(3))."""
    handler(tmp_path / "none").handle(record("a\nb"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "gone"))
    handler(tmp_path / "gone").handle(record("c", logging.WARNING))
    assert capsys.readouterr().err == "<3>a\n<3>b\n<4>c\n"


def test_what_is_too_large_for_an_entry_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * (1 << 23)
    with receiving(tmp_path / "journal") as got:
        handler(tmp_path / "journal").handle(record(long))
    assert got == []
    assert capsys.readouterr().err == f"<3>{long}\n"


def test_an_entry_is_one_datagram_of_keys_and_values(tmp_path: Path) -> None:
    """As https://systemd.io/JOURNAL_NATIVE_PROTOCOL says; a value of several lines has a length."""
    about = journal.about(events.STEP_DONE, step="ek", evidence="a\nMESSAGE=forged")
    value = b"\x10" + bytes(7) + b"a\nMESSAGE=forged\n"
    with receiving(tmp_path / "journal") as got:
        to = handler(tmp_path / "journal")
        to.unit = "tpm2cloud-firstboot.service"
        to.handle(record("done", logging.INFO, **about))
    assert got == [
        b"MESSAGE=done\n"
        b"PRIORITY=6\n"
        b"SYSLOG_IDENTIFIER=tpm2cloud\n"
        b"CODE_FILE=x.py\n"
        b"CODE_LINE=7\n"
        b"CODE_FUNC=f\n"
        b"MESSAGE_ID=" + events.STEP_DONE.message_id.encode() + b"\n"
        b"OBJECT_SYSTEMD_UNIT=tpm2cloud-firstboot.service\n"
        b"TPM2CLOUD_STEP=ek\nTPMCLOUD_STEP=ek\n"
        b"TPM2CLOUD_EVIDENCE\n" + value + b"TPMCLOUD_EVIDENCE\n" + value
    ]


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/tpm2cloud-firstboot.service\n", "tpm2cloud-firstboot.service"),
        ("1:name=systemd:/system.slice/x.service/inner\n0::/\n", "x.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
    ],
)
def test_an_entry_names_its_unit(tmp_path: Path, cgroup: str, unit: str | None) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    assert journal.unit(tmp_path / "cgroup") == unit
    assert journal.unit(tmp_path / "none") is None


# --- a journald ---


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("catalog")
    source = journald.generated(base / "generated") / "tpm2cloud.catalog"
    return journald.compiled(source, base / "root")


def test_a_failure_is_one_entry_with_its_code_and_remedy(catalog: Path, tmp_path: Path) -> None:
    [entry] = journald.entries(
        catalog, [str(AGENT), "--config", str(tmp_path / "none.toml"), "config"]
    )
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].splitlines()[1].endswith("No such file or directory [config-invalid]")
    assert entry["MESSAGE"].splitlines()[2] == f"Remedy: {entry['TPM2CLOUD_REMEDY']}"
    assert entry["TPM2CLOUD_CODE"] == "config-invalid"
    assert entry["TPM2CLOUD_STEP"] == "start"


def test_every_step_is_an_entry_and_the_end_is_one(catalog: Path, make_device: MakeDevice) -> None:
    device = make_device()
    device.configure({"pkcs11": {"owner": "root"}})  # whoever we are: in the namespace, that is us
    environment = [f"{name}={value}" for name, value in device.environment().items()]
    steps = [line.split()[0] for line in device.agent("provision", "--dry-run").stdout.splitlines()]
    found = journald.entries(catalog, ["env", *environment, *device.agent_command("provision")])
    ids = {each.message_id: each for each in events.every_event()}
    told = [ids[each["MESSAGE_ID"]] for each in found]
    assert told[0] == events.STEP_ALREADY_DONE
    assert told[-2:] == [events.STEP_DONE, events.PROVISIONED]
    assert [each["TPM2CLOUD_STEP"] for each in found[:-1]] == steps
    assert all(float(each["TPM2CLOUD_SECONDS"]) >= 0 for each in found)
    assert {each["PRIORITY"] for each in found} == {"6"}


FAILING = """
import logging, sys
from agent import cli, errors, journal
journal.setup()
logging.getLogger("agent").handlers[0].unit = "tpm2cloud-firstboot.service"
cli._explain(errors.Unreachable("cannot reach est.example.com:443: no route", host="est:443"))
"""


def test_journalctl_explains_a_failure_and_finds_it_by_the_unit(catalog: Path) -> None:
    """Even of a run that was over before journald could see whose it was."""
    text = journald.said(catalog, "-x -u tpm2cloud-firstboot", [sys.executable, "-c", FAILING])
    explained = [line.removeprefix("░░").strip() for line in text.splitlines() if "░░" in line]
    assert explained[0] == "Subject: start failed with unreachable"
    assert "Documentation: man:tpm2cloud(8)" in explained
    assert events.meaning(Unreachable) in explained
    words = " ".join(explained)
    assert "Remedy: Check network, DNS and firewall between here and est:443;" in words
    assert words.endswith(events.AGAIN)


def test_no_field_of_a_remedy_hides_one_of_ours() -> None:
    ours = {"step", "code", "remedy", "seconds", "evidence"}
    for kind in every_error():
        assert not ours & set(re.findall(r"{(\w+)}", kind.remedy)), kind
