"""The companion is cut off at what it does about certificates, and then run again.

Scenes of the life of a device: its LDevID is renewed, with its own key or a new one; its CA is
succeeded; it expires, or everything does, in a drawer; IoT Edge is stuck, and is restarted, or
loses a certificate. In each, the companion is killed at effects (as in test_crash), one after the
other, and every third time the power fails instead. `./tests/prove kill` goes through all of them.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.crash import Place
from tests.lab.cut_renewal import PLAYED, Renewal, own, rehearse, together
from tests.lab.cuts import Cut
from tests.lab.scenes import Scene


class Stages:
    """As many as there are workers; each scene is played undisturbed on all of them."""

    def __init__(self, stages: list[Renewal]) -> None:
        self._stages, self._common = stages, list[Place]()
        together(stages, lambda each: each.home.make())

    def survive(self, scene: Scene) -> str:
        found = rehearse(self._stages, scene)
        places = sampled(own(found, self._common))[:: 2 * scene.every]
        self._common = self._common or found
        some = [Cut(place, n % 3 == 0) for n, place in enumerate(places)]
        return f"{scene.name}: {cuts.summary(cuts.survive(self._stages, some))}"


# --- where ---


def sampled(places: list[Place]) -> list[Place]:
    """All that puts a file into its place or takes it away, changes the token or the TPM, or has to
    do with programs. The more places, the less of the rest: one of the steps to a new file, to some
    of them; and some of what cannot differ much: messages, waiting, syncing, and the token's
    journal, which test_pkcs11_crash is about."""
    every, every_file = 1 + len(places) // 20, 1 + len(places) // 60
    minor = [place for place in places if is_minor(place)]
    left_out = {place for n, place in enumerate(minor) if n % every}
    steps = [place for place in places if place.what.endswith(".new")]
    for n, file in enumerate(dict.fromkeys(place.what for place in steps)):
        of = [place for place in steps if place.what == file]
        left_out |= {*of} - ({of[n // every_file % len(of)]} if n % every_file == 0 else set())
    return [place for place in places if place not in left_out]


def is_minor(place: Place) -> bool:
    of_journal = place.call == "pwrite64" and place.what.endswith("-journal")
    return place.after or of_journal or "sync" in place.call or place.what in ("message", "")


# --- the tests ---


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with ExitStack() as stack:
        base = tmp_path_factory.mktemp("lives")
        made = [Renewal(base / name) for name in ("one", "two")]
        for stage in made:
            stack.enter_context(stage.home.world)
        yield Stages(made)


@pytest.mark.parametrize("scene", PLAYED, ids=lambda scene: scene.name)
def test_cut_off_anywhere_a_device_has_an_ldevid_and_finishes_what_it_began(
    stages: Stages, scene: Scene, tell: Tell
) -> None:
    tell(stages.survive(scene))
