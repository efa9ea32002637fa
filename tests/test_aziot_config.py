"""IoT Edge's config.toml: our keys in, the operator's left as they are."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent.aziot_config import (
    Basic,
    Desired,
    EdgeCa,
    Est,
    Issued,
    KeyPair,
    Keystore,
    TpmAttestation,
    backup_for,
    percent,
    render,
)
from agent.errors import AziotConfigInvalid
from agent.toml_edit import edit
from tests.lab.operators import OPERATORS

FILE = Path("/etc/aziot/config.toml")
STORE = Keystore(library=Path("/usr/lib/libtpm2_pkcs11.so"), token="edge", pin="a b&c/1")  # noqa: S106
LDEVID = KeyPair(certificate=Path("/etc/aziot/ldevid.pem"), key=STORE.uri("ldevid"))
BASIC = Basic(username="dev", password='p"w')  # noqa: S106
SERVER = Est(url="https://est.example.com/est", auth=LDEVID, trust=(Path("/etc/est ca.pem"),))


def desired(identity: Issued | KeyPair | TpmAttestation, **more: Any) -> Desired:
    return Desired(registration_id="dev-1", id_scope="0ne00000001", identity=identity, **more)


RENEWAL = {"rotate_key": True, "threshold": "80%", "retry": "4%"}
PIN = "?pin-value=a%20b%26c%2F1"
KEYS = {
    "pkcs11_lib_path": "/usr/lib/libtpm2_pkcs11.so",
    "pkcs11_base_slot": f"pkcs11:token=edge{PIN}",
}
METHODS = {
    "mtls": desired(Issued(), est=SERVER, keystore=STORE, edge_ca=EdgeCa(common_name="edge CA")),
    "basic": desired(
        Issued(renewal=None),
        est=Est(url="https://est.example.com", auth=BASIC),
        keystore=STORE,
    ),
    "static": desired(LDEVID, keystore=STORE),
    "tpm": desired(TpmAttestation(owner_auth="o")),
}


def rendered(existing: str, what: Desired) -> dict[str, Any]:
    return tomllib.loads(render(existing.encode(), what, FILE).decode())


def paths(table: dict[str, Any], above: str = "") -> set[str]:
    """Every value in it, by its dotted path."""
    below = (
        paths(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}"}
        for key, value in table.items()
    )
    return set().union(*below)


# --- the shapes are those that the services read -------------------------------------------------


def test_mutual_tls_by_the_ldevid_is_what_aziot_calls_bootstrap() -> None:
    assert rendered("", desired(Issued(), est=SERVER, keystore=STORE)) == {
        "provisioning": {
            "source": "dps",
            "global_endpoint": "https://global.azure-devices-provisioning.net/",
            "id_scope": "0ne00000001",
            "attestation": {
                "method": "x509",
                "registration_id": "dev-1",
                "identity_cert": {"method": "est", "common_name": "dev-1", "auto_renew": RENEWAL},
            },
        },
        "cert_issuance": {
            "est": {
                "trusted_certs": ["file:///etc/est%20ca.pem"],
                "auth": {
                    "bootstrap_identity_cert": "file:///etc/aziot/ldevid.pem",
                    "bootstrap_identity_pk": f"pkcs11:token=edge;object=ldevid{PIN}",
                },
                "identity_auto_renew": RENEWAL,
                "urls": {"default": "https://est.example.com/est"},
            }
        },
        "aziot_keys": KEYS,
    }


def test_a_static_certificate_and_its_key_are_given_as_they_are() -> None:
    found = rendered("", METHODS["static"])
    assert found["provisioning"]["attestation"] == {
        "method": "x509",
        "registration_id": "dev-1",
        "identity_cert": "file:///etc/aziot/ldevid.pem",
        "identity_pk": f"pkcs11:token=edge;object=ldevid{PIN}",
    }
    assert found["aziot_keys"] == KEYS
    assert "cert_issuance" not in found


def test_tpm_attestation_says_where_the_tpm_is() -> None:
    by_ek = TpmAttestation(tcti="device:/dev/tpmrm0", endorsement_auth="e")
    found = rendered("", desired(by_ek))
    assert found["provisioning"]["attestation"] == {"method": "tpm", "registration_id": "dev-1"}
    auth = {"endorsement": "e"}
    assert found["tpm"] == {"tcti": "device:/dev/tpmrm0", "hierarchy_authorization": auth}


def test_basic_authentication_has_no_certificate_for_the_est_server_to_renew() -> None:
    est = rendered("", METHODS["basic"])["cert_issuance"]["est"]
    assert est == {
        "auth": {"username": "dev", "password": 'p"w'},
        "urls": {"default": "https://est.example.com"},
    }


def test_an_edge_ca_is_issued_or_made_on_the_device() -> None:
    renew = {"rotate_key": True, "threshold": "80%", "retry": "4%"}
    issued = {"method": "est", "common_name": "edge CA", "auto_renew": renew}
    assert rendered("", METHODS["mtls"])["edge_ca"] == issued
    own = desired(LDEVID, keystore=STORE, edge_ca=EdgeCa(days=30))
    made = {"auto_generated_edge_ca_expiry_days": 30, "auto_renew": renew}
    assert rendered("", own)["edge_ca"] == made


def test_uris_are_percent_encoded() -> None:
    assert percent("Az09-_.~/é") == "Az09%2D%5F%2E%7E%2F%C3%A9"
    slot = rendered("", METHODS["static"])["aziot_keys"]["pkcs11_base_slot"]
    assert slot == "pkcs11:token=edge?pin-value=a%20b%26c%2F1"
    est = rendered("", METHODS["mtls"])["cert_issuance"]["est"]
    assert est["trusted_certs"] == ["file:///etc/est%20ca.pem"]
    assert est["auth"]["bootstrap_identity_pk"].startswith("pkcs11:token=edge;object=ldevid?pin")


def test_secrets_show_in_no_repr_and_are_known_in_both_spellings() -> None:
    for what in METHODS.values():
        assert what.secrets()
        assert not any(secret in repr(what) for secret in what.secrets() if len(secret) > 1)
    assert {"a b&c/1", "a%20b%26c%2F1", 'p"w'} <= METHODS["basic"].secrets()


# --- what was there ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("style", OPERATORS)
def test_an_operators_file_keeps_what_is_hers_and_says_what_we_want(
    style: str, method: str
) -> None:
    text = OPERATORS[style]
    once = render(text.encode(), METHODS[method], FILE)
    assert render(once, METHODS[method], FILE) == once
    theirs, ours = tomllib.loads(text), rendered("", METHODS[method])
    now = tomllib.loads(once.decode())
    assert paths(ours) <= paths(now)
    lost = {key.split(".")[0] for key in paths(theirs) - paths(now)}
    assert lost <= {"provisioning", "cert_issuance", "edge_ca"}
    foreign = set(theirs) - {"provisioning", "cert_issuance", "edge_ca", "aziot_keys", "tpm"}
    assert all(theirs[key] == now[key] for key in foreign)


@pytest.mark.parametrize("style", OPERATORS)
def test_every_comment_of_an_operators_file_survives(style: str) -> None:
    once = render(OPERATORS[style].encode(), METHODS["mtls"], FILE).decode()
    comments = [line for line in OPERATORS[style].splitlines() if line.startswith("#")]
    assert [line for line in once.splitlines()[1:] if line.startswith("#")] == comments


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(METHODS, 2)))
def test_changing_the_method_leaves_nothing_of_the_other_behind(before: str, after: str) -> None:
    kept = '# mine\nhostname = "box" # also mine\n'
    changed = render(render(kept.encode(), METHODS[before], FILE), METHODS[after], FILE)
    assert tomllib.loads(changed.decode()) == rendered(kept, METHODS[after])
    assert '# mine\nhostname = "box" # also mine\n' in changed.decode()


def test_settings_of_the_operator_that_we_never_made_are_not_taken_away() -> None:
    hers = (
        '[cert_issuance.est.urls]\ndefault = "https://hers"\n[tpm]\nauth_key_index = 7\n[agent]\n'
    )
    now = rendered(hers, METHODS["static"])
    assert now["cert_issuance"]["est"]["urls"]["default"] == "https://hers"
    assert now["tpm"] == {"auth_key_index": 7}
    assert now["agent"] == {}


def test_an_est_url_for_the_operational_certificate_alone_would_win_and_goes() -> None:
    hers = '[cert_issuance.est.urls]\ndevice-id = "https://old"\nmodule = "https://m"\n'
    urls = rendered(hers, METHODS["mtls"])["cert_issuance"]["est"]["urls"]
    assert urls == {"module": "https://m", "default": "https://est.example.com/est"}


def test_credentials_for_the_operational_certificate_alone_would_win_and_go() -> None:
    hers = '[provisioning.attestation]\nidentity_cert = { method = "est", url = "https://o" }\n'
    cert = rendered(hers, METHODS["basic"])["provisioning"]["attestation"]["identity_cert"]
    assert cert == {"method": "est", "common_name": "dev-1"}


ODD = {
    "dotted keys": 'provisioning.source = "none"\nprovisioning.attestation.x = 1 # c\nhostname="h"',
    "inline tables": 'provisioning = { source = "manual", attestation = { y = 1 } }\n[agent]',
    "scattered tables": """
        [provisioning]
        source = "dps"
        [agent]
        x = 1
        [provisioning.attestation]
        method = "tpm"
        [edge_ca.auto_renew]
        retry = "1%"
        [edge_ca]
        method = "est"
        """,
    "the inner table first": "[provisioning.attestation]\nx = 1\n[agent]\n[provisioning]\n",
    "dots inside": '[cert_issuance]\nest.urls.m = "https://m"\nest.auth.username = "u"\n[agent]\n',
    "arrays of tables": "[[provisioning]]\nx = 1\n[[provisioning]]\n[agent]\ny = 1\n",
    "no table where one must be": 'provisioning = 1\ntpm = "x"\ncert_issuance = [1]\n',
    "quoted keys": '["provisioning"]\n"source" = "dps"\n[ provisioning . "attestation" ]\n',
    "no last newline": 'hostname = "box"',
    "dos lines": '# c\r\nhostname = "box"\r\n[provisioning]\r\nsource = "manual" # c\r\n',
    "other types": "[agent]\nday = 1979-05-27\nx = 0x1F\ny = 1e3\ntext = '''\na\n'''\n",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_ways_to_write_toml(odd: str, method: str) -> None:
    once = render(ODD[odd].encode(), METHODS[method], FILE)
    assert render(once, METHODS[method], FILE) == once
    now, ours = tomllib.loads(once.decode()), rendered("", METHODS[method])
    assert paths(ours) <= paths(now)
    theirs = tomllib.loads(ODD[odd])
    assert all(theirs[key] == now[key] for key in {"hostname", "agent"} & theirs.keys())


def test_comments_outside_survive_even_where_dotted_keys_must_be_rewritten() -> None:
    text = '# top\nprovisioning.attestation.identity_cert.method = "est"\n[agent]\n# note\nx = 1\n'
    once = render(text.encode(), METHODS["mtls"], FILE).decode()
    assert "# top\n" in once
    assert "[agent]\n# note\nx = 1\n" in once


def test_setting_what_is_set_changes_no_byte() -> None:
    odd = 'a.b=1 # x\r\n\n[ c ]\nd   =  { e = "f" }'
    assert edit(odd, {("a", "b"): 1, ("c", "d", "e"): "f"}, [("nothing",), ("a", "no")]) == odd


def test_the_hostname_is_never_set() -> None:
    assert not any("hostname" in rendered("", what) for what in METHODS.values())


@pytest.mark.parametrize(
    "broken", [b"[provisioning", b"a = 1\na = 2\n", b"\xff\xfe", b"x = \0\n", b"\xef\xbb\xbfa = 1"]
)
def test_a_file_that_is_no_toml_is_refused_and_named(broken: bytes) -> None:
    with pytest.raises(AziotConfigInvalid, match=re.escape(str(FILE))) as refused:
        render(broken, METHODS["tpm"], FILE)
    assert str(FILE) in refused.value.remedy


# --- the backup ----------------------------------------------------------------------------------


def test_the_operators_file_is_kept_for_ever_and_later_states_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    assert backup_for(file) is None
    file.write_text("# hers")
    first = tmp_path / "config.toml.before-tpm2cloud"
    assert backup_for(file) == first
    first.write_text("# hers")
    assert backup_for(file) is None  # killed between backup and replacement
    file.write_text("# ours, and edited")
    assert backup_for(file) == tmp_path / "config.toml.previous"


def test_our_own_file_is_not_taken_for_the_operators(tmp_path: Path) -> None:
    """She had none, and now it changes for the first time."""
    file = tmp_path / "config.toml"
    file.write_bytes(render(b"", METHODS["tpm"], FILE))
    assert backup_for(file) == tmp_path / "config.toml.previous"
