"""Whom HTTPS trusts and as whom it appears; each failure has its own code."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.errors import (
    AgentError,
    TlsClientRefused,
    TlsDates,
    TlsFailed,
    TlsName,
    TlsUntrusted,
    TrustUnreadable,
)
from agent.http import Https
from tests.lab import pki
from tests.lab.hostile import (
    Hostile,
    http,
    identity,
    whole,
)

FINE = whole(http(200, b"fine"))


# --- whom to trust -------------------------------------------------------------------------------


def refused(server: Hostile, trust: Path) -> AgentError:
    with Https(trust) as https, pytest.raises(AgentError) as caught:
        https.request("GET", f"{server.url}/it")
    assert not server.requests, "something was sent before the server was authenticated"
    return caught.value


def test_a_server_of_another_ca_is_refused_and_described(tls: pki.Tls, tmp_path: Path) -> None:
    with Hostile(pki.authority("Stranger").server(tmp_path), {"it": FINE}) as server:
        error = refused(server, tls.trust)
    assert type(error) is TlsUntrusted
    assert "'CN=localhost' issued by 'CN=Stranger'" in str(error)
    assert str(tls.trust) in error.remedy


def test_the_environment_adds_no_anchors(
    tls: pki.Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pki.authority("Stranger").server(tmp_path / "other")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(other.trust))
    with Hostile(other, {"it": FINE}) as server:
        assert type(refused(server, tls.trust)) is TlsUntrusted


def test_after_a_request_the_file_is_still_the_only_source_of_anchors(tls: pki.Tls) -> None:
    seen: list[ssl.SSLContext] = []
    with Hostile(tls, {"it": FINE}) as server, Https(tls.trust, identify=seen.append) as https:
        https.request("GET", f"{server.url}/it")
    assert seen[0].cert_store_stats()["x509"] == 1


def test_the_environment_adds_no_passwords(
    tls: pki.Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = pki.write_private(tmp_path / "netrc", b"machine localhost login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Hostile(tls, {"it": FINE}) as server, Https(tls.trust) as https:
        https.request("GET", f"{server.url}/it")
    assert "authorization" not in server.requests[0].headers


def test_an_intermediate_can_be_the_anchor(ca: pki.Authority, tls: pki.Tls, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_bytes(b"A comment, \xc3\xa9\n" + pki.pem(ca.certificate))
    with Hostile(tls, {"it": FINE}) as server, Https(anchor) as https:
        assert https.request("GET", f"{server.url}/it").status == 200


def test_a_server_by_another_name_is_refused(ca: pki.Authority, tmp_path: Path) -> None:
    elsewhere = identity(ca, tmp_path, name="elsewhere.example")
    with Hostile(elsewhere, {"it": FINE}) as server:
        error = refused(server, elsewhere.trust)
    assert type(error) is TlsName
    assert "elsewhere.example" in str(error)


def test_a_common_name_is_no_name(ca: pki.Authority, tmp_path: Path) -> None:
    nameless = ca.server(tmp_path)
    key = pki.new_key()
    nameless.chain.write_bytes(
        pki.pem(ca.issue(key.public_key(), "localhost", usages=[pki.SERVER]), ca.certificate)
    )
    nameless.key.write_bytes(pki.private_pem(key))
    with Hostile(nameless, {"it": FINE}) as server:
        assert type(refused(server, nameless.trust)) is TlsName


@pytest.mark.parametrize(
    ("starts", "says"), [(-2 * pki.YEAR, "no longer valid"), (pki.YEAR, "not valid yet")]
)
def test_a_certificate_out_of_date_is_shown_beside_our_clock_and_tried_again(
    ca: pki.Authority, tmp_path: Path, starts: timedelta, says: str
) -> None:
    with Hostile(identity(ca, tmp_path, starts=starts), {"it": FINE}) as server:
        error = refused(server, tmp_path / "root.pem")
    assert type(error) is TlsDates
    now = datetime.now(UTC)
    for part in (says, f"{now + starts:%Y-%m-%d}", f"the clock here says {now:%Y-%m-%d}"):
        assert part in str(error)


def test_tls_1_1_is_refused(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": FINE}, tls_1_1=True) as server:
        assert type(refused(server, tls.trust)) is TlsFailed


def test_a_server_without_tls_is_refused(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": FINE}, plain=True) as server:
        assert type(refused(server, tls.trust)) is TlsFailed


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_trust_file_without_certificates_is_a_matter_of_configuration(
    tmp_path: Path, content: bytes | None
) -> None:
    trust = tmp_path / "trust.pem"
    if content is not None:
        trust.write_bytes(content)
    with pytest.raises(TrustUnreadable) as caught:
        Https(trust)
    assert str(trust) in caught.value.remedy


# --- who we are ----------------------------------------------------------------------------------


def client_files(ca: pki.Authority, directory: Path) -> tuple[Path, Path]:
    key = pki.new_key()
    chain, private = directory / "client.pem", directory / "client.key"
    chain.write_bytes(pki.pem(ca.issue(key.public_key(), "device"), *ca.chain[:-1]))
    return chain, pki.write_private(private, pki.private_pem(key))


def test_a_client_certificate_opens_the_door(
    ca: pki.Authority, tls: pki.Tls, tmp_path: Path
) -> None:
    files = client_files(ca, tmp_path)
    with Hostile(tls, {"it": FINE}, clients=ca) as server:
        assert type(refused(server, tls.trust)) is TlsClientRefused
        with Https(tls.trust, identify=lambda context: context.load_cert_chain(*files)) as https:
            assert https.request("GET", f"{server.url}/it").body == b"fine"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_of_another_ca_is_said_to_be_refused(
    ca: pki.Authority, tls: pki.Tls, tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    files = client_files(pki.authority("Stranger"), tmp_path)

    def identify(context: ssl.SSLContext) -> None:
        context.load_cert_chain(*files)
        context.maximum_version = newest

    with (
        Hostile(tls, {"it": FINE}, clients=ca) as server,
        Https(tls.trust, identify=identify) as https,
        pytest.raises(TlsClientRefused, match="unknown ca"),
    ):
        https.request("GET", f"{server.url}/it")


def test_what_really_happened_to_the_key_is_told_instead_of_what_tls_saw(
    ca: pki.Authority, tls: pki.Tls, tmp_path: Path
) -> None:
    def explain() -> None:
        raise ZeroDivisionError("the key's own story")

    files = client_files(pki.authority("Stranger"), tmp_path)
    with (
        Hostile(tls, {"it": FINE}, clients=ca) as server,
        Https(tls.trust, identify=lambda c: c.load_cert_chain(*files), explain=explain) as https,
        pytest.raises(ZeroDivisionError, match="own story"),
    ):
        https.request("GET", f"{server.url}/it")
