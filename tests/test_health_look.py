"""What the companion finds of a provisioned device, part by part."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from agent import config
from agent.config import Config
from agent.health import certd, look
from agent.health.judge import Found, Judged, judge
from agent.state import State
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.world import World
from tests.test_provision import provisioned

HOME = Path("/var/lib/aziot")


@pytest.fixture(scope="module")
def device(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """Whoever changes something of it puts it back."""
    with Device(world, tmp_path_factory.mktemp("looked at") / "device") as device:
        yield provisioned(device)


@contextmanager
def looking(device: Device) -> Iterator[tuple[Tpm, Config, State]]:
    with Tpm(device.tcti) as tpm:
        yield tpm, config.load(device.config), State(device.state)


def found(device: Device, stopped: Mapping[str, str] | None = None) -> dict[str, Found]:
    with looking(device) as (tpm, conf, state):
        return {each.name: each for each in look.gather(tpm, conf, state, stopped or {})}


def judged(device: Device, now: datetime | None = None) -> dict[str, Judged]:
    return {name: judge(each, now or datetime.now(UTC)) for name, each in found(device).items()}


def test_every_certificate_of_a_provisioned_device_is_found_and_fresh(device: Device) -> None:
    seen = judged(device)
    for name in ("ldevid", "idevid", "est-id", "device-id", "operational.trust", "idevid.trust"):
        assert seen[name].state == "fresh", seen[name]
    assert seen["est-id"].by == certd.CERTD
    assert seen["device-id"].by == certd.IDENTITYD
    assert {"ldevid.est.trust", "ldevid.est.issuer"} <= seen.keys()
    assert len({each.path for each in found(device).values()}) == len(seen)


def test_as_time_passes_each_has_its_turn(device: Device) -> None:
    """All are for 90 days: IoT Edge renews at 80 %, we at 70 % and up to 10 % later."""
    now = datetime.now(UTC)

    def states(days: float) -> tuple[str, ...]:
        seen = judged(device, now + timedelta(days=days))
        return tuple(seen[name].state for name in ("ldevid", "est-id", "device-id"))

    assert states(60) == ("fresh", "fresh", "fresh")
    assert states(73) == ("due", "due", "due")
    assert states(80)[1:] == ("overdue", "overdue")
    assert states(91) == ("expired", "expired", "expired")


def test_what_a_service_said_is_found_with_its_certificate(device: Device) -> None:
    seen = found(device, {"est-id": "it will no longer be auto-renewed"})
    assert seen["est-id"].stopped
    assert judge(seen["est-id"], datetime.now(UTC)).state == "no longer auto-renewed"
    assert not seen["device-id"].stopped


def test_what_is_wrong_with_a_file_is_found(device: Device) -> None:
    files = {name: each.path for name, each in found(device).items()}
    whole = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    states = {}
    for name in ("ldevid", "est-id", "device-id"):
        other = pki.pem(pki.root("another").issue(pki.new_key().public_key(), "x"))
        for state, data in {"unreadable": whole[name][:200], "key mismatch": other}.items():
            files[name].write_bytes(data)
            states[name, state] = judged(device)[name].state
        files[name].unlink()
        states[name, "missing"] = judged(device)[name].state
        files[name].write_bytes(whole[name])
    assert all(state == wanted for (_, wanted), state in states.items()), states


def test_a_renewal_that_is_going_on_at_that_moment_is_no_mismatch(device: Device) -> None:
    path = found(device)["est-id"].path
    whole = path.read_bytes()
    for half in (pki.pem(pki.root("another").issue(pki.new_key().public_key(), "x")), b""):
        path.write_bytes(half)
        done = Timer(0.3, path.write_bytes, [whole])
        done.start()
        assert judged(device)["est-id"].state == "fresh"
        done.join()


def test_an_est_identity_that_is_missing_is_nothing_to_worry_about(device: Device) -> None:
    """aziot-certd makes it when it wants it; one that is there and expired it would not get by."""
    path = found(device)["est-id"].path
    assert judged(device)["est-id"].needed
    away = path.rename(path.with_suffix(".away"))
    seen = judged(device)["est-id"]
    away.rename(path)
    assert (seen.state, seen.needed) == ("missing", False)
    assert judged(device)["device-id"].needed


@pytest.mark.parametrize("wish", [{"issued_by": "static"}, {"operational_auth": "basic"}])
def test_what_a_device_has_depends_on_its_configuration(
    make_device: MakeDevice, wish: dict[str, Any]
) -> None:
    seen = judged(provisioned(make_device(**wish)))
    assert "est-id" not in seen
    assert seen["device-id"].state == "fresh"
    assert (seen["device-id"].by == seen["ldevid"].by) is (wish.get("issued_by") == "static")


def test_nothing_is_changed_by_looking(device: Device) -> None:
    files = [path for path in device.directory.rglob("*") if path.is_file()]
    kept = [path for path in files if device.tpm not in path.parents]
    before = {path: path.stat().st_mtime_ns for path in kept}
    found(device)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


# --- where aziot-certd keeps what ---


def test_files_have_the_names_that_aziot_certd_gives_them() -> None:
    """As its `get_path` does: what of the id is plain, and its SHA-256."""
    digest = "bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655"
    assert certd.file(HOME, "device-id") == HOME / f"certd/certs/deviceid-{digest}.cer"
    assert certd.key_file(HOME, "device-id") == HOME / f"keyd/keys/deviceid-{digest}.key"


@pytest.fixture
def conf(tmp_path: Path) -> Config:
    directory = tmp_path / "aziot"
    directory.mkdir()
    return Config(
        dps=config.Dps(id_scope="0ne1"),
        operational=config.Operational(url="https://est.test/"),
        pkcs11=config.Pkcs11(store=tmp_path / "none"),
        aziot=config.Aziot(directory=directory, state=tmp_path / "edge"),
    )


def edge_ca(conf: Config) -> certd.Kept | None:
    return {each.id: each for each in certd.kept(conf)}.get(certd.EDGE_CA)


def test_the_edge_ca_is_renewed_as_we_said_or_the_operator_did(conf: Config) -> None:
    ours = edge_ca(replace(conf, edge_ca=config.EdgeCa(issued_by="est")))
    assert ours is not None
    assert (ours.threshold, ours.retry, ours.by_est) == ("80%", "4%", True)
    file = conf.aziot.directory / "config.toml"
    file.write_text('[edge_ca]\nmethod = "est"\n[edge_ca.auto_renew]\nthreshold = "30day"\n')
    theirs = edge_ca(conf)
    assert theirs is not None
    assert (theirs.threshold, theirs.retry, theirs.by_est) == ("30day", "4%", True)


@pytest.mark.parametrize("text", ["", "[edge_ca]\nauto_renew = 5\n", "no TOML [", "edge_ca = 1"])
def test_the_edge_ca_is_quickstart_s_where_nobody_says_anything(conf: Config, text: str) -> None:
    (conf.aziot.directory / "config.toml").write_text(text)
    seen = edge_ca(conf)
    assert seen is not None
    assert (seen.threshold, seen.retry, seen.by_est) == ("80%", "4%", False)


def test_an_edge_ca_of_the_operator_s_own_is_hers(conf: Config) -> None:
    (conf.aziot.directory / "config.toml").write_text(
        '[edge_ca]\ncert = "file:///ca.pem"\npk = "file:///ca.key"\n'
    )
    assert edge_ca(conf) is None


def test_a_policy_that_makes_no_sense_gives_no_window(conf: Config) -> None:
    path = certd.file(conf.aziot.state, certd.EDGE_CA)
    path.parent.mkdir(parents=True)
    path.write_bytes(pki.pem(pki.root("Edge CA").root))
    file = conf.aziot.directory / "config.toml"
    for threshold, known in {"30day": True, "soon": False}.items():
        file.write_text(f'[edge_ca.auto_renew]\nthreshold = "{threshold}"\n')
        seen = look.found_kept(conf, certd.EDGE_CA)
        assert seen is not None
        assert (seen.window is not None) is known
