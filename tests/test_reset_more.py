"""What may go with a reset besides: the configuration, the IDevID; and what never does."""

import pytest

from agent.authorization.kept import Kept
from agent.config import Authorization
from agent.state import State
from agent.steps import idevid, ldevid_key, srk
from agent.steps.authorization import authorization
from agent.steps.completing import converge
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.factory import Board, Tools
from tests.lab.owner import Owner
from tests.test_reset import let_go, public


def test_with_its_configuration_a_device_forgets_who_it_was_for_even_if_that_is_cut_off(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    drop_in, password = device.etc / "config.d/50-est.toml", device.etc / "password"
    pki.write_private(password, b"password")
    drop_in.parent.mkdir()
    drop_in.write_text(
        f'[ldevid.est]\nauth = "basic"\nusername = "u"\npassword_file = "{password}"\n'
    )
    let_go(device, "--configuration")
    assert not any(path.exists() for path in (drop_in, password, device.config))
    assert (device.etc / "est-ca.pem").exists()

    mark = State(device.state).reset  # a power cut before the last word
    mark.write_text(mark.read_text().replace('"done"', '"configuration"'))
    pki.write_private(password, b"password")
    assert device.agent("reset").returncode == 0
    assert not password.exists()
    assert '"done"' in mark.read_text()


@pytest.mark.parametrize("undefinable", [True, False], ids=["open platform", "locked platform"])
def test_an_idevid_is_burnt_as_far_as_the_platform_lets_it(
    make_device: MakeDevice, undefinable: bool
) -> None:
    device = make_device(board=Board(readable=True))
    if not undefinable:
        Tools(device.tcti, str(device.directory))("changeauth", "-c", "platform", "firmware's")
    told = let_go(device, "--burn-idevid")
    assert public(device, idevid.HANDLE) is None
    with Tpm(device.tcti) as tpm:
        assert (tpm.nv_public(idevid.INDEX) is None) == undefinable
    assert ("0x01c90000" in told["stays"]["tpm"]) != undefinable
    assert [each["what"] for each in told["hand_over"]["certificates"]] == ["IDevID"]
    assert any("TCG" in note for note in told["notes"])


def test_a_key_that_is_not_ours_stays(make_device: MakeDevice) -> None:
    device = make_device()
    tools = Tools(device.tcti, str(device.directory))
    tools("createprimary", "-C", "o", "-G", "ecc", "-c", "other.ctx")
    tools("evictcontrol", "-C", "o", "-c", "other.ctx", "0x81000002")
    theirs = public(device, ldevid_key.HANDLE)
    told = let_go(device)
    assert "did not make" in told["stays"]["tpm"]["0x81000002"]
    assert public(device, ldevid_key.HANDLE) == theirs


def test_without_the_owners_password_nothing_is_begun(make_device: MakeDevice) -> None:
    """It is an administrator's, and a credential has it not, or a wrong one."""
    device = make_device()
    Tools(device.tcti, str(device.directory))("changeauth", "-c", "owner", "hers")
    for _ in range(2):
        refused = device.agent("reset", "-y", "--burn-idevid")
        assert (refused.returncode, "[tpm-auth]" in refused.stderr) == (69, True), refused.stderr
        assert not State(device.state).reset.exists()
        pki.write_private(device.credentials / "tpm-owner-auth", b"a guess")
    pki.write_private(device.credentials / "tpm-owner-auth", b"hers")
    let_go(device, "--burn-idevid")
    assert public(device, idevid.HANDLE) is None


def test_as_long_as_one_password_cannot_be_taken_back_nothing_is_begun(
    make_device: MakeDevice,
) -> None:
    """That of lockout is needed at the end alone; here what it is bound to has changed."""
    device = make_device()
    state, owner = State(device.state), Owner(device.directory, device.etc / "escrow.pem")
    wanted = Authorization(lockout="random", keep="sealed", escrow=owner.public)
    with Tpm(device.tcti) as tpm:
        with tpm.srk("ecc256") as key:
            tpm.persist(key, srk.HANDLE)
        converge(authorization(tpm, wanted, state, lambda: "device-0001"))
    Tools(device.tcti, str(device.directory))("pcrextend", f"7:sha256={'11' * 32}")

    refused = device.agent("reset", "-y", "--burn-idevid")
    assert "[sealed-to-another-state]" in refused.stderr
    assert public(device, idevid.HANDLE)
    assert not state.reset.exists()
    password = owner.opens(state.directory / "authorization/escrow.cms")["tpm-lockout-auth"]
    pki.write_private(device.credentials / "tpm-lockout-auth", password.encode())
    let_go(device, "--burn-idevid")
    with Tpm(device.tcti) as tpm:
        assert not tpm.passwords_set()
        assert not Kept(tpm, state).has("lockout")
