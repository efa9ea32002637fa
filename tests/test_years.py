"""A device lives for years: IoT Edge renews its certificates, the companion renews the LDevID, and
a client that connects all along does not notice."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent import pkcs11
from agent import pkcs11_rows as rows
from tests.lab import edge, pki, snapshot, turns
from tests.lab.client import Client
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.nginx import Request, Site
from tests.lab.renewals import agree
from tests.lab.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
QUARTER, YEAR = 90 * DAY, 365 * DAY
BLINK = timedelta(minutes=1)  # the client's interval: it connects at least so often


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    directory, lasts = tmp_path_factory.mktemp("years") / "world", 9 * pki.YEAR
    with World(
        directory, clock=clock, renewing=True, owner_lasts=lasts, operations_lasts=lasts
    ) as world:
        yield world


@dataclass
class Life:
    """`told`: what runs of the companion wrote into the journal; `codes`: how they ended."""

    device: Device
    clock: Clock
    start: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        world = self.device.world
        self.start = {site.name: len(world.requests(site)) for site in sites(world)}

    def born(self) -> "Life":
        done = self.device.agent("provision")
        assert done.returncode == 0, done.stderr
        self.looked_after()
        return self

    def looked_after(self) -> None:
        """The companion has its turn."""
        done = self.device.agent("health", "--json")
        self.codes[done.returncode] += 1
        self.report = json.loads(done.stdout)
        self.told += done.stderr.splitlines()

    def moment(self, name: str, what: str = "threshold") -> datetime:
        found = next(each for each in self.report["certificates"] if each["name"] == name)
        return datetime.fromisoformat(found[what])

    def until(self, moment: datetime) -> None:
        """IoT Edge does what is due by then without being asked."""
        due = [cert for cert in ("est-id", "device-id") if self.moment(cert) <= moment]
        done = {cert: len(edge.events(self.device, "renewed", cert=cert)) for cert in due}
        self.clock.advance(moment - self.clock.now())
        for cert in due:
            edge.awaited(self.device, "renewed", done[cert] + 1, cert=cert)

    def renewed(self) -> int:
        """The device-id."""
        return len(edge.events(self.device, "renewed", cert="device-id"))

    def issued(self, site: Site) -> list[Request]:
        """Requests of this device's for which there was a certificate."""
        asked = self.device.world.requests(site)[self.start[site.name] :]
        return [each for each in asked if each.issued]


def sites(world: World) -> tuple[Site, Site]:
    return world.owner_est, world.operations_est


def next_hour(life: Life) -> None:
    """The hour in which the next certificate is due, and the companion's turn in it."""
    due = min(life.moment(name) for name in ("ldevid", "est-id", "device-id"))
    life.until(due + HOUR)
    life.looked_after()


def a_day_between(life: Life) -> None:
    """Nothing is due, and nothing is done, said, sent or changed."""
    before, told = written(life.device.state), len(life.told)
    life.until(life.clock.now() + DAY)
    life.looked_after()
    assert (life.report["actions"], life.told[told:]) == ([], [])
    assert life.report["data"] == {"sent": 0, "received": 0, "limit": 0}
    assert written(life.device.state) == before


def written(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def belongings(device: Device) -> dict[str, Any]:
    """What could pile up: files by their names, keys in the token, rows of its table."""
    path = device.pkcs11 / pkcs11.DATABASE
    with rows.read(path, "ro") as db:
        [[objects]] = db.execute("SELECT COUNT(*) FROM tobjects")
    token = pkcs11.look(device.pkcs11, "edge")
    assert token is not None
    places = (device.state, device.pkcs11, device.edge / "certd", device.aziot)
    names = sorted(str(path) for place in places for path in place.rglob("*"))
    return {"files": names, "keys": sorted(key.label for key in token.keys), "objects": objects}


def chained(renewals: list[Request]) -> bool:
    """Each was asked for by the certificate before."""
    pairs = pairwise(renewals)
    return all(int(before.issued, 16) == int(after.serial, 16) for before, after in pairs)


def operations(requests: list[Request]) -> set[str]:
    return {each.uri.rpartition("/")[2] for each in requests}


def seen(client: Client, cert: str) -> list[int]:
    """The serial numbers of the certificates by which it connected, each once."""
    probes = [each for each in client.probes(cert) if not each.error]
    return list(dict.fromkeys(probe.serial for probe in probes))


def test_twenty_operational_and_five_ldevid_renewals_and_no_client_notices(
    world: World, clock: Clock, tmp_path: Path
) -> None:
    world.owner_server.lifetime(YEAR)
    world.operations_server.lifetime(QUARTER)
    begin = clock.now()
    with Device(world, tmp_path / "device") as device, turns.taken(device.tpm):
        life = Life(device, clock).born()
        next_hour(life)
        tpm, had = snapshot.take(device.tcti), belongings(device)
        with Client(device) as client:
            while life.renewed() < 20 or len(life.issued(world.owner_est)) < 6:
                next_hour(life)
                client.connects()
                if life.renewed() in (3, 17):
                    a_day_between(life)
        assert clock.now() - begin > 3.9 * YEAR
        assert client.longest_interruption() < BLINK, client.failed()

        ours, theirs = life.issued(world.owner_est), life.issued(world.operations_est)
        assert (len(ours), operations(ours[1:])) == (6, {"simplereenroll"})
        assert chained(ours)
        assert seen(client, "ldevid") == [int(each.issued, 16) for each in ours]
        assert len(theirs) == 2 * (1 + life.renewed())
        assert len(seen(client, "device-id")) == life.renewed()  # all but the first

        assert set(life.codes) == {0}
        lines = [line for line in life.told if "LDevID: renewed: valid until 20" in line]
        assert (len(lines), len(life.told)) == (5, 5)
        assert belongings(device) == had
        after = snapshot.take(device.tcti)
        assert (tpm.lost(after), tpm.added(after)) == ([], set())
        assert agree(device).serial == int(ours[-1].issued, 16)


@pytest.mark.parametrize(("key", "renewals"), [("ecc256", 2), ("rsa2048", 1)])
def test_nor_when_the_ldevid_gets_a_new_key_each_time(
    world: World, clock: Clock, tmp_path: Path, key: pki.Kind, renewals: int
) -> None:
    world.owner_server.lifetime(QUARTER)
    world.operations_server.lifetime(QUARTER)
    wish = Wish(id=f"device-{key}", key=key)
    with Device(world, tmp_path / "device", wish) as device, turns.taken(device.tpm):
        device.configure({"ldevid": {"rekey": True}})
        life = Life(device, clock).born()
        tpm, had, held = snapshot.take(device.tcti), belongings(device), {agree(device).key}
        with Client(device) as client:
            for turn in range(renewals):
                while len(life.issued(world.owner_est)) < 2 + turn:
                    client.connects()
                    next_hour(life)
                client.connects()
                life.until(clock.now() + HOUR)
                life.looked_after()  # the key before is taken away
                client.connects()
                held.add(agree(device).key)
        assert len(held) == 1 + renewals
        assert client.longest_interruption() < BLINK, client.failed()
        assert chained(life.issued(world.owner_est))
        assert len(seen(client, "ldevid")) == 1 + renewals
        assert set(life.codes) == {0}
        slot = agree(device).slot
        assert slot == ("ldevid", "ldevid-2")[renewals % 2]
        files = {path.name for path in device.state.glob("ldevid*")}
        assert files == {"ldevid.json", f"{slot}.pem", f"{slot}-key.pem"}
        assert belongings(device)["objects"] == had["objects"]
        after = snapshot.take(device.tcti)
        assert (after.keys.keys(), tpm.added(after)) == (tpm.keys.keys(), set())
        assert device.agent("status").returncode == 0
