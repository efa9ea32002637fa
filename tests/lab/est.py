"""GlobalSign's EST server, a Go program that nobody here wrote (tests/lab/estserver pins it)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import pki, process

BINARIES = Path(__file__).parents[2] / ".lab" / "bin"


class EstServer:
    """Issues from `issuer` to whoever asks: 90 days, or as long as the CA itself is valid."""

    def __init__(self, directory: Path, issuer: pki.Authority, tls: pki.Tls) -> None:
        directory.mkdir(parents=True)
        self.directory, self.port, self._tls = directory, process.free_port(), tls
        ca = issuer.save(directory / "ca")
        settings = {
            "mock_ca": {"certificates": str(ca.chain), "private_key": str(ca.key)},
            "tls": {
                "listen_address": f"127.0.0.1:{self.port}",
                "certificates": str(tls.chain),
                "private_key": str(tls.key),
            },
            "timeout": 30,
            "log_file": str(directory / "est.log"),
        }
        (directory / "est.json").write_text(json.dumps(settings, indent=4))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/.well-known/est"

    def answers(self) -> bool:
        """The program itself does not end when it cannot listen, so this is the only way."""
        return process.speaks_tls(self.port, self._tls.trust)

    @contextmanager
    def running(self) -> Iterator[None]:
        program = BINARIES / "estserver"
        assert program.exists(), "run ./tests/setup first"
        command = [str(program), "-config", str(self.directory / "est.json")]
        with process.running(command, self.directory / "est.out", self.answers):
            yield
