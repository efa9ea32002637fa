"""A device that registers by `agent.dps`, with a real TPM or a certificate, and does not really
wait in between: what it would have waited is in `rests`."""

import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.dps import Assigned, Dps
from agent.ek import DPS_EK
from agent.http import Https, Proxy
from agent.steps import srk
from agent.tpm import Tpm
from tests.lab import pki
from tests.lab import provisioning as lab

Identify = Callable[[ssl.SSLContext], None]


@dataclass
class Registrant:
    """`tpm`: with an EK and an SRK in their places."""

    service: lab.Dps
    trust: Path
    name: str
    tpm: Tpm | None = None
    identify: Identify | None = None
    proxy: Proxy | None = None
    rests: list[float] = field(default_factory=list)

    def register(self, **more: Any) -> Assigned:
        """`more`: see agent.dps.Dps; `url` and `scope` take the place of the service's."""
        url, scope = more.pop("url", self.service.url), more.pop("scope", self.service.scope)
        version = more.pop("api_version", "2021-06-01")
        settings = {"api_version": version, "rest": self.rests.append, **more}
        client = {"identify": self.identify, "proxy": self.proxy}
        with Https(self.trust, timeout=10, **client) as https:  # type: ignore[arg-type]
            dps = Dps(https, url, scope, self.name, **settings)
            return self._by_tpm(dps, self.tpm) if self.tpm else dps.by_certificate()

    def _by_tpm(self, dps: Dps, tpm: Tpm) -> Assigned:
        parent = tpm.public(srk.HANDLE)
        assert parent is not None
        return dps.by_tpm(self.ek, parent.blob, self.sign)

    def sign(self, challenge: bytes, data: bytes) -> bytes:
        """With the key in it, which is gone from the TPM afterwards."""
        assert self.tpm is not None
        imported = self.tpm.imported(challenge, DPS_EK.handle, srk.HANDLE)
        with self.tpm.load(srk.HANDLE, *imported) as key:
            return self.tpm.hmac(key, data)

    @property
    def ek(self) -> bytes:
        found = self.tpm and self.tpm.public(DPS_EK.handle)
        assert found
        return found.blob

    @property
    def asked(self) -> list[dict[str, Any]]:
        return self.service.requests(self.name)

    @property
    def steps(self) -> list[str]:
        return [request["step"] for request in self.asked]


def soldered(tpm: Tpm) -> Tpm:
    """With what DPS is shown in its place; the EK is there from the chip's maker."""
    srk.srk(tpm, "rsa2048", must_be_rsa=True).apply()
    assert tpm.public(DPS_EK.handle) is not None
    return tpm


def certified(ca: pki.Authority, name: str, directory: Path) -> Identify:
    """A client certificate with its whole chain but the root, its key in a file."""
    key, file = pki.new_key(), directory / f"{name}.pem"
    chain = pki.pem(ca.issue(key.public_key(), name), *ca.chain[:-1])
    pki.write_private(file, pki.private_pem(key) + chain)
    return lambda context: context.load_cert_chain(file)


def copied(state: Path, to: Path) -> None:
    """A TPM as its maker ships it."""
    shutil.copytree(state, to)


@contextmanager
def service(directory: Path, tls: pki.Tls, ca: pki.Authority) -> Iterator[lab.Dps]:
    enrolled = ca.save(directory / "devices").root
    dps = lab.Dps(directory / "dps", tls, [enrolled])
    with dps.running():
        yield dps
