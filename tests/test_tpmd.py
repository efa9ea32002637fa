"""What aziot-tpmd will find in the TPM: told before it finds it, each with a code of its own."""

import grp
import os
import pwd
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config
from agent.errors import (
    AgentError,
    AziotConfigInvalid,
    EkUnfit,
    HubKeyOccupied,
    SecretUnreadable,
    SrkPassword,
    SystemctlFailed,
    TpmAuth,
    TpmCommandMissing,
    TpmdDenied,
    TpmdNeedsManager,
    TpmdUserMissing,
    TpmFull,
)
from agent.steps.srk import HANDLE as SRK
from agent.steps.tpmd import ACL, EK, KEY_INDEX, PERSISTENT, device_node, may_open, service, tpmd
from agent.tpm import Tpm
from tests.lab import liar
from tests.lab.tools import Tools

HUB_KEY = PERSISTENT + KEY_INDEX
NOBODY, GROUP = "nobody", grp.getgrgid(os.getgid()).gr_name
GET_CAPABILITY, COMMANDS, HMAC = 0x17A, 2, 0x155


@pytest.fixture
def conf(tcti: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (tmp_path / "aziot").mkdir()
    return config.Config(
        dps=config.Dps(id_scope="0ne", attestation="tpm"),
        tpm=config.Tpm(tcti=tcti),
        aziot=config.Aziot(directory=tmp_path / "aziot"),
    )


@pytest.fixture
def ready(tpm: Tpm) -> Tpm:
    """With an SRK, as the step before leaves it; its EK is kept by its maker."""
    with tpm.srk("rsa2048") as srk:
        tpm.persist(srk, SRK)
    return tpm


def refused(conf: config.Config, tpm: Tpm, kind: type[AgentError]) -> str:
    with pytest.raises(kind) as caught:
        tpmd(conf, tpm).done()
    assert caught.type is kind
    assert tpm.loaded() == set()
    assert tpm.budget().lockout_counter == 0
    return str(caught.value)


def secret(name: str, text: str) -> None:
    Path(os.environ["CREDENTIALS_DIRECTORY"], f"tpm-{name}-auth").write_text(text)


def test_all_is_well_and_nothing_is_made(conf: config.Config, ready: Tpm) -> None:
    before = ready.handles(0x81000000)
    assert tpmd(conf, ready).done() == "0x81010001 RSA-2048, 0x81000100 free"
    assert (ready.handles(0x81000000), ready.loaded()) == (before, set())


@pytest.mark.parametrize("hierarchy", ["owner", "endorsement"])
def test_the_passwords_are_those_that_iotedge_is_told(
    conf: config.Config, ready: Tpm, tools: Tools, hierarchy: str
) -> None:
    tools("changeauth", "-c", hierarchy[0], "right")
    said = refused(conf, ready, TpmAuth)
    assert hierarchy in said
    secret(hierarchy, "wrong")
    assert "wrong" not in refused(conf, ready, TpmAuth)
    secret(hierarchy, "right\n")
    assert tpmd(conf, ready).done()
    tools("changeauth", "-c", hierarchy[0], "-p", "right")
    refused(conf, ready, TpmAuth)


def test_without_its_credentials_those_in_the_file_of_iotedge_are_tried(
    conf: config.Config, ready: Tpm, tools: Tools
) -> None:
    tools("changeauth", "-c", "o", "right")
    text = "[tpm.hierarchy_authorization]\nowner = 'right'\n"
    (conf.aziot.directory / "config.toml").write_text(text)
    assert tpmd(conf, ready).done()


@pytest.mark.parametrize("text", ["x" * 64, "with\0in it"])
def test_passwords_that_the_service_cannot_hold(conf: config.Config, ready: Tpm, text: str) -> None:
    secret("owner", text)
    assert text not in refused(conf, ready, SecretUnreadable)


def test_the_longest_password_that_it_can(conf: config.Config, ready: Tpm, tools: Tools) -> None:
    tools("changeauth", "-c", "o", "x" * 63)
    secret("owner", "x" * 63)
    assert tpmd(conf, ready).done()


def test_a_key_that_is_no_ek_of_the_usual_template(conf: config.Config, ready: Tpm) -> None:
    Tools(conf.tpm.tcti, conf.aziot.directory)("evictcontrol", "-C", "o", "-c", hex(EK))
    assert tpmd(conf, ready).done() == "0x81010001 free, 0x81000100 free"  # the service makes one
    with ready.ek("EK-HIGH-RSA2048") as other:
        ready.persist(other, EK)
    refused(conf, ready, EkUnfit)


def test_an_srk_with_a_password(conf: config.Config, ready: Tpm, tools: Tools) -> None:
    """It is tried without one, which does not count: the SRK is made so."""
    tools("evictcontrol", "-C", "o", "-c", hex(SRK))
    usual = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
    how = ["-C", "o", "-G", "rsa2048", "-p", "secret", "-a", usual, "-c", "srk.ctx"]
    tools("createprimary", *how)
    tools("evictcontrol", "-C", "o", "-c", "srk.ctx", hex(SRK))
    tools("flushcontext", "-t")
    refused(conf, ready, SrkPassword)


def test_what_the_service_would_evict(conf: config.Config, ready: Tpm) -> None:
    with ready.srk("ecc256") as other:
        ready.persist(other, HUB_KEY)
    assert "ECC" in refused(conf, ready, HubKeyOccupied)


def test_the_operator_may_have_named_another_place(conf: config.Config, ready: Tpm) -> None:
    with ready.srk("ecc256") as other:
        ready.persist(other, HUB_KEY)
    file = conf.aziot.directory / "config.toml"
    file.write_text("[tpm]\nauth_key_index = 0x00_02_00\n")
    assert tpmd(conf, ready).done() == "0x81010001 RSA-2048, 0x81000200 free"
    file.write_text("[tpm]\nauth_key_index = 1\n")  # the SRK's
    assert "0x81000001" in refused(conf, ready, HubKeyOccupied)


@pytest.mark.parametrize("index", ['"0x00_01_00"', "0x80_00_00", "-1", "true"])
def test_a_place_that_the_service_does_not_take(
    conf: config.Config, ready: Tpm, index: str
) -> None:
    file = conf.aziot.directory / "config.toml"
    file.write_text(f"[tpm]\nauth_key_index = {index}\n")
    assert str(file) in refused(conf, ready, AziotConfigInvalid)


def test_a_chip_without_one_of_the_commands(
    conf: config.Config, ready: Tpm, tmp_path: Path
) -> None:
    def answer(command: bytes, ask: liar.Ask) -> bytes:
        """TPM2_HMAC is not in the list: what comes after it is the first of what is asked for."""
        if int.from_bytes(command[6:10], "big") == GET_CAPABILITY:
            kind, first, count = struct.unpack(">III", command[10:22])
            if (kind, first) == (COMMANDS, HMAC):
                command = command[:10] + struct.pack(">III", kind, first + 1, count)
        return ask(command)

    with (
        liar.through(tmp_path / "tpm/tpm.sock", tmp_path / "other.sock", answer) as other,
        Tpm(other) as tpm,
    ):
        assert "TPM2_HMAC" in refused(conf, tpm, TpmCommandMissing)


def test_a_chip_that_can_keep_nothing_more(conf: config.Config, ready: Tpm) -> None:
    with ready.srk("rsa2048") as other:
        at = 0x81000300
        while ready.budget().persistent_available:
            ready.persist(other, at)
            at += 1
    refused(conf, ready, TpmFull)


# --- who may open it ---


def test_only_devices_have_rights_to_be_looked_at() -> None:
    assert device_node("swtpm:path=/run/tpm.sock") is None
    assert device_node("device:/dev/tpmrm0") == device_node("device") == Path("/dev/tpmrm0")


def test_a_tpm_without_a_resource_manager_cannot_be_shared() -> None:
    with pytest.raises(TpmdNeedsManager):
        device_node("device:/dev/tpm0")


def test_the_service_has_a_user(tmp_path: Path) -> None:
    with pytest.raises(TpmdUserMissing):
        may_open(tmp_path, "no-such-user")


def systemd(directory: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """What `systemctl` says, by $PATH, and how it ends."""
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


@pytest.mark.parametrize("given", ["", GROUP])
def test_groups_that_the_unit_gives_count(
    conf: config.Config,
    ready: Tpm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
) -> None:
    """The device is the group's, in which the service is by its unit alone."""
    systemd(tmp_path, monkeypatch, f"echo User={NOBODY}; echo SupplementaryGroups={given}")
    node = tmp_path / "node"
    node.touch()
    node.chmod(0o660)
    conf = replace(conf, tpm=config.Tpm(tcti=f"device:{node}"))
    if given:
        assert tpmd(conf, ready).done()
    else:
        assert str(node) in refused(conf, ready, TpmdDenied)


def test_whom_systemd_does_not_know_is_of_the_usual_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd(tmp_path, monkeypatch, "echo SupplementaryGroups=; echo User=")
    assert service() == ("aziottpm", [])


def test_a_systemd_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd(tmp_path, monkeypatch, "echo Failed to connect to bus; exit 1")
    with pytest.raises(SystemctlFailed, match="Failed to connect"):
        service()


@pytest.mark.parametrize(("mode", "may"), [(0o606, True), (0o660, False), (0o604, False)])
def test_rights_of_a_stranger(tmp_path: Path, mode: int, may: bool) -> None:
    node = tmp_path / "node"
    node.touch()
    node.chmod(mode)
    judged(node, may=may)


def judged(node: Path, *, may: bool) -> None:
    if may:
        may_open(node, NOBODY)
        return
    with pytest.raises(TpmdDenied) as caught:
        may_open(node, NOBODY)
    assert str(node) in str(caught.value)


@pytest.mark.parametrize(
    ("user", "group", "mask", "other", "may"),
    [
        (6, None, 6, 0, True),
        (6, None, 4, 0, False),  # the mask takes it away
        (4, None, 6, 6, False),  # who is named is no other
        (None, 6, 6, 0, True),
        (None, 4, 6, 6, False),
        (None, None, 6, 6, True),
        (None, None, 6, 0, False),
    ],
)
def test_rights_by_an_access_control_list(
    tmp_path: Path, user: int | None, group: int | None, mask: int, other: int, may: bool
) -> None:
    """As udev's uaccess and setfacl(1) give them."""
    node, entry, none = tmp_path / "node", pwd.getpwnam(NOBODY), 0xFFFFFFFF
    node.touch()
    named = [(0x02, user, entry.pw_uid), (0x08, group, entry.pw_gid)]
    entries = [(0x01, 6, none), *named[:1], (0x04, 0, none), *named[1:]]
    entries += [(0x10, mask, none), (0x20, other, none)]
    packed = [struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries if bits is not None]
    os.setxattr(node, ACL, struct.pack("<I", 2) + b"".join(packed))
    judged(node, may=may)
