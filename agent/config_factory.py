"""The configuration of the factory step, /etc/tpm2cloud/manufacture.toml: of the line that makes
boards, not of the golden image; see `manufacture` in agent/cli.py."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from agent import schema
from agent.config import ETC, Chip, Problems, login_problems
from agent.config_files import files, of_files
from agent.errors import FactoryConfigError

FILE = ETC / "manufacture.toml"
OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*)){1,20}")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who the board is (IEEE 802.1AR-2018, 8.6): texts, mixed with {serial} and the like."""

    serial_number: str = "{serial}"
    common_name: str = "{serial}"
    unit: str | None = None
    organization: str | None = None
    locality: str | None = None
    state: str | None = None
    country: str | None = None
    hardware_type: str | None = None

    def problems(self) -> Problems:
        for name in ("serial_number", "common_name"):
            if "{machine-id}" in getattr(self, name):
                yield name, "{machine-id} is the line's system, the same for all its boards"
        if self.country is not None and not re.fullmatch("[A-Z]{2}", self.country):
            yield "country", f"must be two capital letters (ISO 3166), not {self.country!r}"
        if self.hardware_type is not None and not OID.fullmatch(self.hardware_type):
            yield (
                "hardware_type",
                f"must be an OID like '1.3.6.1.4.1.99999.1', not {self.hardware_type!r}",
            )


@dataclass(frozen=True, kw_only=True)
class Est:
    """The EST server of whoever issues IDevIDs, and how this station logs in there."""

    url: str
    trust: Path = ETC / "factory-est-ca.pem"
    enrol: Literal["simpleenroll", "tpmenroll"] = "simpleenroll"
    auth: Literal["mtls", "basic", "secret", "none"] = "mtls"
    username: str | None = None
    password_file: Path | None = None
    secret_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout: timedelta = timedelta(seconds=30)

    def problems(self) -> Problems:
        yield from login_problems(self.url, self.auth, self.username)
        if self.auth == "none" and self.enrol != "tpmenroll":
            yield "auth", "'none' needs enrol = 'tpmenroll', where the TPM is what logs in"
        for name, given in {"certificate": self.certificate, "key": self.key}.items():
            if self.auth == "mtls" and given is None:
                yield name, "required, for auth = 'mtls': this station's, PEM"
            if self.auth != "mtls" and given is not None:
                yield name, f"has no meaning with auth = {self.auth!r}"


@dataclass(frozen=True, kw_only=True)
class Ca:
    """A CA on this very station."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Idevid:
    profile: Literal["tcg", "ek-child"] = "tcg"
    key: Literal["ecc256", "rsa2048"] = "ecc256"
    trust: Path = ETC / "idevid-ca.pem"
    certificate: Path | None = None
    policy_key: Path | None = None
    approvals: Path = ETC / "boot-states.d"
    csr: Literal["pkcs10", "tcg"] = "pkcs10"
    model: str | None = None
    subject: Subject = field(default_factory=Subject)
    est: Est | None = None
    ca: Ca | None = None

    def problems(self) -> Problems:
        if self.est and self.ca:
            yield "ca", "give either [idevid.est] or [idevid.ca]"
        if self.policy_key and self.profile != "tcg":
            yield "policy_key", "needs profile = 'tcg'"
        if self.csr == "tcg" and (self.est or self.ca):
            yield "csr", "'tcg' goes by file (--csr-out): neither [idevid.est] nor [idevid.ca]"
        if self.csr == "tcg" and self.profile != "tcg":
            yield "csr", "'tcg' needs profile = 'tcg'"
        if self.csr == "tcg" and not self.model:
            yield "model", "required, for csr = 'tcg'"


@dataclass(frozen=True, kw_only=True)
class Factory:
    tpm: Chip = field(default_factory=Chip)
    idevid: Idevid = field(default_factory=Idevid)


def load(path: Path) -> Factory:
    """Read and check everything; raises FactoryConfigError with every problem found."""
    return read(path)[0]


def read(path: Path) -> tuple[Factory, schema.Tree]:
    """The settings, and which file says what."""
    return of_files(Factory, files(path, "manufacture.d"), FactoryConfigError)
