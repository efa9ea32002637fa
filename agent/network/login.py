"""A TLS client certificate whose key is in the TPM, for who makes a connection: here, or there."""

import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.tpm.operations import Signer
    from agent.tpm.provider import TlsKey


class TlsLogin:
    """`chain`: PEM, leaf first. Called with a context, it puts both in (`identify` of Https)."""

    def __init__(self, signer: "Signer", chain: bytes) -> None:
        self.signer, self.chain = signer, chain
        self._key: TlsKey | None = None

    def __call__(self, context: ssl.SSLContext) -> None:
        """Raises TlsProvider, TlsCertificateUnusable."""
        from agent.tpm.provider import TlsKey

        self._key = TlsKey(self.signer)
        with memory(self.chain) as path:
            self._key.load_into(context, path)

    def explain(self) -> None:
        """Raises what the key did, if it was that."""
        if self._key:
            self._key.raise_if_failed()


@contextlib.contextmanager
def memory(data: bytes) -> Iterator[Path]:
    """A file that no disk sees and no kill leaves behind."""
    fd = os.memfd_create("certificates")
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        yield Path(f"/proc/self/fd/{fd}")
