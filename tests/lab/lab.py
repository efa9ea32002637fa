"""A world with one device in it, for whoever wants no more than that."""

from pathlib import Path
from typing import Any

from tests.lab.device import Device, Wish
from tests.lab.world import World


class Lab:
    """Everything below `directory`, running for the length of the `with`, which gives the device:

    with Lab(directory, key="rsa2048", auth="basic") as device:
        device.agent("provision")

    Further arguments are those of tests.lab.device.Wish.
    """

    def __init__(self, directory: Path, **wish: Any) -> None:
        self.directory, self._wish = directory, Wish(**wish)
        self.world = World(directory / "world")

    def __enter__(self) -> Device:
        self.world.__enter__()
        try:
            self.device = Device(self.world, self.directory / "device", self._wish)
            return self.device.__enter__()
        except BaseException:
            self.world.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self.device.__exit__()
        self.world.__exit__()
