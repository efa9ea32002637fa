"""Parts of `tpm2cloud check`, looked at on a device without a new process for each."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from agent import config
from agent.check import run
from agent.check.probe import Probe
from agent.check.run import Found
from agent.state import State
from agent.steps import preflight
from agent.tpm import Tpm
from tests.lab.device import Device


@contextmanager
def surrounded(by: Mapping[str, str]) -> Iterator[None]:
    """The environment of this process, for the length of the `with`."""
    before = dict(os.environ)
    os.environ.update(by)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def look(device: Device, *parts: Any) -> dict[str, Found]:
    """What these parts (modules of agent.check) find, by the names of their probes."""
    with surrounded(device.environment()):
        conf, state = config.load(device.config), State(device.state)
        with Tpm(conf.tpm.tcti) as tpm:
            asked = (conf, tpm, state, partial(preflight.who, conf, tpm))
            return found(probe for part in parts for probe in part.probes(*asked))


def found(probes: Iterable[Probe]) -> dict[str, Found]:
    return {each.probe: each for each in run.examine(probes)}


def bad(found: Mapping[str, Found]) -> dict[str, str | None]:
    """The probes that are not fine, and the codes of those that were looked at."""
    return {name: each.code for name, each in found.items() if each.state != "fine"}
