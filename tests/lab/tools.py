"""tpm2-tools on a TPM of the lab: a second opinion that shares no code with ours."""

import os
import subprocess
from pathlib import Path


class Tools:
    """`tools("nvreadpublic", "0x01C90000")`; files are relative to `directory`."""

    def __init__(self, tcti: str, directory: Path) -> None:
        self.tcti, self.directory = tcti, directory
        self._env = {**os.environ, "TPM2TOOLS_TCTI": tcti}

    def __call__(self, tool: str, *arguments: str, stdin: bytes = b"") -> str:
        """What it says; quoted, if it fails."""
        done = self.ask(tool, *arguments, stdin=stdin)
        if done.returncode != 0:
            raise RuntimeError(f"tpm2_{tool} {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout.decode()

    def ask(
        self, tool: str, *arguments: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [f"tpm2_{tool}", *arguments],
            env=self._env,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            check=False,
        )
