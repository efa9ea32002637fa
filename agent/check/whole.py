"""The examination from its beginning: the configuration, which may be what is wrong."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from agent import config, config_files, opened
from agent.check import run
from agent.check.probe import Probe
from agent.config import Config
from agent.reset import mark
from agent.state import State
from agent.steps import preflight

Auths = Callable[[], dict[str, bytes]]


def examined(file: Path, state: State, auths: Auths) -> list[run.Found]:
    """`file`: the configuration; `auths`: the passwords of the TPM's hierarchies, or why they
    cannot be read. Where the configuration does not load, nothing else can be looked at."""
    return run.examine(_probes(file, state, auths))


def _probes(file: Path, state: State, auths: Auths) -> Iterator[Probe]:
    loaded: list[Config] = []
    yield Probe("configuration", partial(_load, file, loaded))
    if not loaded:
        return
    yield Probe("reset", partial(_reset, loaded[0], state))
    given: dict[str, bytes] = {}
    yield Probe("credentials", partial(_read, auths, given))
    conf = loaded[0]
    with opened.tpm(conf.tpm.tcti, given=given, approvals=conf.idevid.approvals) as tpm:
        yield from run.probes(conf, tpm, state, cache(partial(preflight.who, conf, tpm)))


def _load(file: Path, loaded: list[Config]) -> str:
    loaded.append(config.load(file))
    files = ", ".join(str(path) for path in config_files.files(file) if path.exists())
    return f"{files}, for dps.attestation = '{loaded[0].dps.attestation}'"


def _reset(conf: Config, state: State) -> str:
    """Whether it is let go, and waits."""
    mark.admit(conf, state)
    return "not let go"


def _read(auths: Auths, given: dict[str, bytes]) -> str:
    given.update(auths())
    return f"passwords of the TPM: {', '.join(given) or 'none'}"
