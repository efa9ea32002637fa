"""What systemd has of our own units: a boot must start them."""

import shutil
from pathlib import Path

from agent import aziot, config
from agent.errors import SystemctlFailed, UnitOff
from agent.state import State

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
UNITS = (
    "tpm2cloud-firstboot.service",
    "tpm2cloud_network.socket",  # without which that has no network
    "tpm2cloud.target",
    "tpm2cloud-health.timer",
)
ENABLED = {"enabled", "enabled-runtime", "static", "generated", "alias", "indirect"}
PATIENCE = 10.0  # seconds, for systemd to answer


def enabled(state: State) -> str:
    """Of the installed program alone: who keeps her state elsewhere runs it by hand. Raises
    UnitOff, SystemctlFailed."""
    if not BOOTED.is_dir() or state.directory != config.VAR:
        return "not asked: this is run by hand"
    for unit in UNITS:
        said = _show(unit)
        if said.get("LoadState") != "loaded" or said.get("UnitFileState") not in ENABLED:
            what = said.get("UnitFileState") or said.get("LoadState", "unknown")
            raise UnitOff(f"cannot count on the next boot: {unit} is {what}", unit=unit)
    return f"{', '.join(UNITS)} are enabled"


def _show(unit: str) -> dict[str, str]:
    """As systemd has it."""
    what = f"cannot ask systemd about {unit}"
    if (program := shutil.which("systemctl")) is None:
        raise SystemctlFailed(f"{what}: there is no 'systemctl' on the PATH")
    wanted = "--property=LoadState,UnitFileState"
    try:
        status, output = aziot.run([program, "--no-pager", "show", wanted, unit], PATIENCE)
    except OSError as e:
        raise SystemctlFailed(f"{what}: {e.strerror}") from e
    if status != 0:
        raise SystemctlFailed(f"{what}: it said '{aziot.words(output)}'")
    lines = output.decode(errors="replace").splitlines()
    return dict(line.partition("=")[::2] for line in lines)
