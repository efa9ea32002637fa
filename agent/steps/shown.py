"""What DPS is shown where it knows the device by its TPM, in its place: the EK, and the SRK."""

from functools import partial

from agent import inputs
from agent.config import Config
from agent.state import State
from agent.steps import Step
from agent.steps.dps_ek import dps_ek
from agent.steps.ek import trust
from agent.steps.same_tpm import same_tpm
from agent.steps.srk import srk
from agent.tpm import Tpm


def shown(conf: Config, tpm: Tpm, state: State) -> list[Step]:
    """In this order; and all else is of the same TPM, or it is begun anew."""
    return [
        dps_ek(tpm, trust(conf.tpm, state, partial(inputs.proxy, conf))),
        srk(tpm, "rsa2048", must_be_rsa=True),
        same_tpm(tpm, conf, state),
    ]
