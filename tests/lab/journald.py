"""A journald of our own, in a user and mount namespace: needs no root, and no systemd that runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOURNALD = "/usr/lib/systemd/systemd-journald"
# $1: the catalog; $2: what to ask journalctl for; the rest: a program, its stderr is the journal.
SCRIPT = f"""\
set -euo pipefail
catalog=$1 question=$2
shift 2
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
mount --bind "$catalog" /var/lib/systemd/catalog
setpriv --pdeathsig KILL {JOURNALD} 2>/run/said &
trap 'kill $!' EXIT
for _ in {{1..600}}; do
    if [ -S /run/systemd/journal/io.systemd.journal ]; then break; fi
    sleep 0.05
done
# As systemd starts a service: stderr is the journal, and the variable says so.
systemd-cat sh -c 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@"' sh "$@" || true
journalctl --sync
# shellcheck disable=SC2086
journalctl --no-pager --quiet -D /run/log/journal $question
"""


def said(catalog: Path, question: str, program: Sequence[str]) -> str:
    """What `journalctl QUESTION` prints after `program` ran as a service does; `catalog` is where
    `journalctl --update-catalog` left its database."""
    unshared = ["unshare", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "journald"]
    done = subprocess.run(
        [*unshared, str(catalog), question, *program],
        env={**os.environ, "LC_ALL": "C.UTF-8", "PAGER": "cat", "SYSTEMD_COLORS": "0"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"cannot ask a journald of our own: {done.stderr}")
    return done.stdout


def entries(catalog: Path, program: Sequence[str]) -> list[dict[str, Any]]:
    """What `program` wrote by the journal's own protocol, entry by entry."""
    text = said(catalog, "-o json _TRANSPORT=journal SYSLOG_IDENTIFIER=tpm2cloud", program)
    return [json.loads(line) for line in text.splitlines()]


def compiled(source: Path, root: Path) -> Path:
    """The directory with the catalog's database; raises RuntimeError if journalctl refuses it."""
    sources = root / "usr/lib/systemd/catalog"
    sources.mkdir(parents=True)
    shutil.copy(source, sources)
    command = ["journalctl", "--update-catalog", f"--root={root}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(f"cannot compile the catalog: {done.stderr}")
    return root / "var/lib/systemd/catalog"


def generated(to: Path) -> Path:
    """Where docs/generate left what it makes."""
    generate = Path(__file__).parents[2] / "docs/generate"
    subprocess.run([sys.executable, str(generate), str(to)], check=True, timeout=60)
    return to
