"""The operator's desk: operator.toml, the tool, and what it said."""

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.deviceid import registration_ids
from agent.operator import cli
from tests.lab.azure import Azure
from tests.lab.azure_eks import blob, modulus
from tests.lab.process import PATIENCE, TOP

GROUP, HUB, DPS = "tpm2cloud-rg", "contoso-hub", "contoso-dps"


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Desk:
    """A directory with operator.toml in it, for `azure`; and the environment by which its
    application logs in, as azure-identity wants it."""

    directory: Path
    azure: Azure
    est: str = ""  # the URL of the operational CA
    trust: Path = Path("/nowhere")  # who vouches for it

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.write()

    @property
    def file(self) -> Path:
        return self.directory / "operator.toml"

    def write(self, **more: str) -> None:
        """`more`: lines to be added to a section, by its name."""
        url = self.azure.url
        sections = {
            "azure": f"subscription = '{self.azure.subscription}'\n"
            f"resource_group = '{GROUP}'\nlocation = 'westeurope'",
            "hub": f"name = '{HUB}'",
            "dps": f"name = '{DPS}'",
            "est": f"url = '{self.est}'\ntrust = '{self.trust}'" if self.est else "",
            "enrolment": "",
            "cloud": f"resource_manager = '{url}'\nscope = '{url}/.default'\n"
            f"authority = '{url}'\ntrust = '{self.azure.tls.trust}'\npoll = '1s'",
        }
        text = "".join(
            f"[{name}]\n{said}\n{more.get(name, '')}\n"
            for name, said in sections.items()
            if said or name in more
        )
        self.file.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AZURE_TENANT_ID": self.azure.tenant,
            "AZURE_CLIENT_ID": self.azure.client_id,
            "AZURE_CLIENT_SECRET": self.azure.client_secret,
            "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
        }

    def run(self, *words: str | Path) -> Said:
        """In a process of its own."""
        command = [sys.executable, "-m", "agent.operator.cli", "--config", self.file, *words]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            list(map(str, command)), cwd=TOP, env=environment, capture_output=True, text=True
        )
        return Said(done.returncode, done.stdout, done.stderr)


@dataclass
class Tool:
    """The same within this process, which is faster."""

    desk: Desk
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str | Path) -> Said:
        self.capture.readouterr()
        status = cli.main(list(map(str, ["--config", self.desk.file, *words])))
        out, err = self.capture.readouterr()
        return Said(status, out, err)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def exported(devices: Iterable[dict[str, Any]]) -> str:
    """As `tpm2cloud manufacture` writes them: a line for each."""
    return "".join(json.dumps(each) + "\n" for each in devices)


# --- devices that there are not ---


def made_up(number: int, **more: Any) -> dict[str, Any]:
    """The export of a device, as `tpm2cloud identity --json` writes it."""
    name = f"device-{number:06}"
    return of_blob(blob(modulus(number)), **{"registration_id": name, **more})


def of_blob(public: bytes, **more: Any) -> dict[str, Any]:
    """The same, with this TPM2B_PUBLIC."""
    key = {
        "template": "EK-RSA2048",
        "algorithm": "rsa2048",
        "public": b64encode(public).decode(),
        "sha256": registration_ids(public)["sha256_hex"],
        "registration_ids": registration_ids(public),
        "handle": None,
    }
    return {
        "format": 1,
        "tpm2cloud": "1",
        "registration_id": "device",
        "hostname": "device",
        "serial": None,
        "tpm": "SW",
        "endorsement_key": key,
        "endorsement_key_azure": None,
        "endorsement_certificates": [],
        "endorsement_chain": [],
        "idevid": None,
    } | more
