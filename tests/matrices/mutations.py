"""Would we notice? Faults such as a tired person makes are planted in a copy of the agent: a sync
removed, a check skipped, a lock dropped, a retry made endless. A fault is caught if tests of the
suite fail that passed without it.

Of the suite only the files that are named with a fault are run, which are some minutes of it.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import TOP
from tests.matrices import Count, Report, Tell

TITLE = "Faults planted in the agent"
LEFT_OUT = shutil.ignore_patterns(".venv", ".lab", ".git", "__pycache__", ".*_cache")
FAILED = 1  # of pytest: tests ran, and some failed
LONGEST = 400  # seconds, for the tests of one fault; such as do not end have noticed, too


@dataclass(frozen=True)
class Mutation:
    """`old` occurs once in the file, and becomes `new`; `tests`: what of the suite is run."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "What is written is not synced before it takes its place",
        "store.py",
        "            os.fsync(fd)\n        part.replace(path)",
        "        part.replace(path)",
        "store disk_matrix",
    ),
    Mutation(
        "A rename is not synced",
        "store.py",
        "        part.replace(path)\n        sync_directory(path.parent)",
        "        part.replace(path)",
        "store disk_matrix",
    ),
    Mutation(
        "The state directory is not locked",
        "store.py",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.fcntl(fd, fcntl.F_GETFD)",
        "store",
    ),
    Mutation(
        "What we write, the PINs among it, may be read by everybody",
        "store.py",
        "path: Path, data: bytes, *, mode: int = 0o600",
        "path: Path, data: bytes, *, mode: int = 0o644",
        "secrets",
    ),
    Mutation(
        "A certificate with another name is taken",
        "x509_issued.py",
        "    if x509.common_name(leaf) != cn:",
        "    if not x509.common_name(leaf):",
        "hostile_matrix x509",
    ),
    Mutation(
        "A certificate of a CA that is not trusted is taken",
        "x509_issued.py",
        'raise IssuedByAnother(f"cannot use the issued certificate: {e}") from e',
        "return [leaf]",
        "hostile_matrix x509",
    ),
    Mutation(
        "A reply may be of any length",
        "http.py",
        "if len(whole) > self._limit:",
        "if len(whole) > self._limit << 20:",
        "hostile_matrix http",
    ),
    Mutation(
        "An exchange may take for ever, if it drips",
        "http_line.py",
        "timer = threading.Timer(self._seconds, self._ring)",
        "timer = threading.Timer(self._seconds * 1000, self._ring)",
        "hostile_matrix http",
    ),
    Mutation(
        "DPS is polled without end",
        "dps.py",
        "+ pace(told) <= PATIENCE:",
        "+ pace(told) <= PATIENCE * 1e6:",
        "dps hostile_matrix",
    ),
    Mutation(
        "A server's name is not compared with its certificate",
        "tls.py",
        "    context.hostname_checks_common_name = False",
        "    context.check_hostname = False",
        "tls http hostile_matrix",
    ),
    Mutation(
        "The LDevID key counts towards the TPM's lockout",
        "tpm/templates.py",
        "A.SENSITIVEDATAORIGIN | A.USERWITHAUTH | A.NODA",
        "A.SENSITIVEDATAORIGIN | A.USERWITHAUTH",
        "tpm tpm_lockout provision",
    ),
    Mutation(
        "A loaded key stays in the TPM",
        "tpm/keys.py",
        "                self.esys.flush_context(transient)",
        "                pass",
        "tpm provision",
    ),
    Mutation(
        "A renewed certificate takes its place before it has logged in",
        "steps/ldevid_renewal.py",
        "        how = _proof(ours, slot, key, chain, anyway=anyway)",
        "        how = NO_SERVER",
        "renewal",
    ),
    Mutation(
        "A hub key takes the place of the old one before it has logged in",
        "steps/assignment.py",
        "            log_in_first(enter, self.rest) if first else enter()",
        "            self.rest(0.0)",
        "assignment",
    ),
    Mutation(
        "Who has failed comes back at once",
        "turn.py",
        "until=now.uptime + pause,",
        "until=now.uptime,",
        "turn",
    ),
    Mutation(
        "Pauses after a failure are the same on all devices",
        "backoff.py",
        "2 * SPREAD * jitter(",
        "0 * SPREAD * jitter(",
        "judge_when renewal_odd fleet",
    ),
]


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    wanted = [mutation for mutation in MUTATIONS if only in mutation.name]
    copy = _copy(base / "copy")
    files = sorted({file for mutation in wanted for file in _files(mutation)})
    sound = _pytest(copy, files)
    failed = [] if sound.returncode == 0 else [f"without a fault:\n{sound.stdout[-2000:]}"]
    caught = {mutation.name: _caught(copy, mutation, tell) for mutation in wanted}
    failed += [f"{name}: not caught" for name, by in caught.items() if not by]
    table = ["| Planted | Caught by |", "|---|---|"]
    table += [f"| {name} | {by or 'nothing'} |" for name, by in caught.items()]
    counts = [Count("planted faults, caught", len(caught), sum(map(bool, caught.values())))]
    return Report(TITLE, counts, table, failed)


def _files(mutation: Mutation) -> list[str]:
    return [_file(name) for name in mutation.tests.split()]


def _file(name: str) -> str:
    [found] = (TOP / "tests").rglob(f"test_{name}.py")
    return str(found.relative_to(TOP))


def _caught(copy: Path, mutation: Mutation, tell: Tell) -> str:
    """The first test that fails, as file::name."""
    path = copy / "agent" / mutation.file
    sound = path.read_text()
    if sound.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} is not as it was")
    path.write_text(sound.replace(mutation.old, mutation.new))
    try:
        done = _pytest(copy, _files(mutation), LONGEST)
        by = _first_failed(done.stdout) if done.returncode == FAILED else ""
    except subprocess.TimeoutExpired:
        by = "its tests do not end"
    finally:
        path.write_text(sound)
    tell(f"{mutation.name}: {by or 'NOT CAUGHT'}")
    return by


def _first_failed(report: str) -> str:
    lines = [line.split() for line in report.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return f"`{lines[0][1].removeprefix('tests/').partition('[')[0]}`" if lines else ""


def _pytest(
    copy: Path, files: list[str], seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Until the first failure."""
    python = copy / ".venv" / "bin" / "python"
    command = [str(python), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    return subprocess.run(
        command, cwd=copy, capture_output=True, text=True, check=False, timeout=seconds
    )


def _copy(to: Path) -> Path:
    """Of the checkout, with an environment whose agent is the copy's own."""
    shutil.copytree(TOP, to, ignore=LEFT_OUT)
    (to / ".lab").symlink_to(TOP / ".lab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", to / ".venv"], check=True)
    here = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    lines = [str(to), str(TOP / ".venv" / here)]
    (to / ".venv" / here / "copy.pth").write_text("\n".join(lines) + "\n")
    _, _, program = (TOP / ".venv/bin/tpm2cloud").read_text().partition("\n")
    made = to / ".venv/bin/tpm2cloud"
    made.write_text(f"#!{to}/.venv/bin/python\n{program}")
    made.chmod(0o755)
    return to
