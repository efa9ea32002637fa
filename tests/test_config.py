"""The configuration: defaults that work, and everything that is wrong told at once."""

from datetime import timedelta
from pathlib import Path

import pytest

from agent import config, config_files
from agent.errors import ConfigError

GOOD = """
[dps]
id_scope = "0ne00000000"
[ldevid.est]
url = "https://est.example.com/.well-known/est"
[operational]
url = "https://ops.example.com/.well-known/est"
"""


def load(tmp_path: Path, text: str, **drop_ins: str) -> config.Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    (tmp_path / "config.d").mkdir(exist_ok=True)
    for name, more in drop_ins.items():
        (tmp_path / "config.d" / f"{name}.toml").write_text(more)
    return config.load(path)


def test_three_settings_are_enough_for_a_stock_device(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    assert loaded.device.id == "{serial}"
    assert loaded.tpm.tcti == "device:/dev/tpmrm0"
    assert loaded.tpm.wait == timedelta(seconds=30)
    assert loaded.ldevid is not None
    assert loaded.ldevid.est is not None
    assert loaded.ldevid.est.auth == "mtls"


def test_a_drop_in_overrides_one_setting_and_leaves_its_neighbours(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, GOOD, b='[tpm]\nkey = "rsa2048"', a='[tpm]\nkey = "ecc256"\nwait = "5s"'
    )
    assert loaded.tpm.key == "rsa2048"
    assert loaded.tpm.wait == timedelta(seconds=5)
    assert loaded.dps.id_scope == "0ne00000000"


def test_each_setting_names_the_file_it_comes_from(tmp_path: Path) -> None:
    load(tmp_path, GOOD, site='[tpm]\nkey = "rsa2048"')
    told = {
        at: origin
        for at, _, origin in config_files.effective(*config.read(tmp_path / "config.toml"))
    }
    assert told["tpm.key"].endswith("config.d/site.toml")
    assert told["dps.id_scope"].endswith("/config.toml")
    assert told["tpm.tcti"] == "default"


def test_settings_are_shown_as_they_could_be_written(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    shown = {
        at: config_files.written(v)
        for at, v, _ in config_files.effective(*config.read(tmp_path / "config.toml"))
    }
    assert shown["tpm.wait"] == '"30s"'
    assert shown["idevid.require"] == "true"
    assert shown["tpm.manufacturer_roots"].startswith('["/usr/share/')


def test_drop_ins_that_cannot_be_listed_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(GOOD)
    (tmp_path / "config.d").write_text("not a directory")
    with pytest.raises(ConfigError, match=r"config\.d': Not a directory"):
        config.load(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('[tpm]\nwait = "99999999999999999999d"', "tpm.wait: must be a duration"),
        ('[idevid]\ntrust = "/a\\u0000b"', "idevid.trust: must be an absolute path"),
        ("[pkcs11]\nlibrary = " + "[" * 5000, "is not TOML"),
        ('[dps]\nendpoint = "https://a b"', "dps.endpoint: must name a host"),
        ('[dps]\nendpoint = "https://a..b"', "dps.endpoint: must name a host"),
        ('[dps]\nendpoint = "https://a/ü"', "dps.endpoint: must be plain ASCII"),
        ('[tmp]\nkey = "ecc256"', "tmp: unknown setting, did you mean tpm?"),
        ('[tpm]\nkye = "ecc256"', "tpm.kye: unknown setting, did you mean key?"),
        ('[tpm]\nkey = "rsa1024"', "tpm.key: must be one of 'ecc256', 'rsa2048', not 'rsa1024'"),
        ("[tpm]\nkey = 3", "tpm.key: must be one of"),
        ("[tpm]\ntcti = 3", "tpm.tcti: must be a text, not a number"),
        ('[tpm]\nwait = "soon"', "tpm.wait: must be a duration (like '30d' or '12h'), not 'soon'"),
        ("[tpm]\nwait = 30", "tpm.wait: must be a duration (like '30d' or '12h'), not a number"),
        ('[tpm]\nmanufacturer_roots = "/x"', "tpm.manufacturer_roots: must be a list, not a text"),
        ('[tpm]\nmanufacturer_roots = ["x"]', "must be an absolute path, not 'x'"),
        ('[idevid]\ntrust = "ca.pem"', "idevid.trust: must be an absolute path, not 'ca.pem'"),
        ('[idevid]\nrequire = "yes"', "idevid.require: must be true or false, not a text"),
        ("[idevid]\nrequire = false", "idevid.require: must be true, for ldevid.est.auth = 'mtls'"),
        ('[tpm]\ntcti = ""', "tpm.tcti: must not be empty"),
        ("tpm = 3", "tpm: must be a table"),
        ("[device.id]\nx = 1", "device.id: must not be a table"),
        ('[ldevid.ca]\ncertificate = "/c"\nkey = "/k"', "ldevid.ca: give either"),
        ('[operational]\nrenew_at = "²%"', "operational.renew_at: must be '1%' to '99%'"),
        ('[operational]\nrenew_at = "101%"', "operational.renew_at: must be '1%' to '99%'"),
        ('[operational]\nauth = "basic"', "operational.username: required, for auth = 'basic'"),
        ('[ldevid.est]\npassword = "x"', "ldevid.est.password: unknown setting"),
        ('[ldevid.est]\nurl = "http://ca"', "ldevid.est.url: must be https://HOST"),
        ('[ldevid.est]\nurl = "https://u@ca"', "ldevid.est.url: must not contain a user"),
        ('[ldevid.est]\nurl = "https://ca:x/"', "ldevid.est.url: is not a URL"),
        ('[pkcs11]\ntoken = ""', "pkcs11.token: must be 1 to 31 bytes long"),
        ('[dps]\nid_scope = " "', "dps.id_scope: must not be empty"),
        ('[edge_ca]\nissued_by = "device"\ndays = 0', "edge_ca.days: must be at least 1"),
    ],
)
def test_says_what_is_wrong_where_and_in_which_file(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(tmp_path, GOOD, more=more)
    assert says in str(e.value)
    assert str(tmp_path / "config.d/more.toml") in str(e.value)


@pytest.mark.parametrize(
    "setting",
    ['payload = "/a.json"', 'trust = "/ca.pem"', 'api_version = "2031-01-01"', "fleet = 9"],
)
def test_what_iot_edge_would_not_be_told_is_not_passed_over(tmp_path: Path, setting: str) -> None:
    name = setting.partition(" ")[0]
    says = f"dps.{name}: has no meaning with device.target = 'edge': IoT Edge asks DPS"
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, GOOD, more=f"[dps]\n{setting}")
    alone = GOOD.partition("[operational]")[0]
    load(tmp_path, alone, more=f'[device]\ntarget = "device"\n[dps]\n{setting}')


def test_who_has_no_token_need_not_say_how_long_one_lasts(tmp_path: Path) -> None:
    alone, more = GOOD.partition("[operational]")[0], '[device]\ntarget = "device"\n'
    hub = '[hub]\ntransport = "websockets"\ntoken_lifetime = '
    load(tmp_path, alone, more=f'{more}{hub}"1h"')
    with pytest.raises(ConfigError, match=r"hub\.token_lifetime: has no meaning with dps\.attest"):
        load(tmp_path, alone, more=f'{more}{hub}"2h"')
    load(tmp_path, alone, more=f'{more}{hub}"2h"\n[dps]\nattestation = "tpm"')


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        load(tmp_path, 'bogus = 1\n[tpm]\nkey = "x"\n[ldevid.est]\n')
    for says in ("bogus: unknown", "tpm.key: must be", "ldevid.est.url: required", "dps: required"):
        assert says in str(e.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: No such file"):
        config.load(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"x\.toml: is not TOML"):
        load(tmp_path, GOOD, x="[")


def test_the_tpm_way_needs_neither_ldevid_nor_operational_certificate(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[dps]\nid_scope = "0ne"\nattestation = "tpm"')
    assert loaded.ldevid is None
    with pytest.raises(ConfigError, match="ldevid: required"):
        load(tmp_path, '[dps]\nid_scope = "0ne"')
