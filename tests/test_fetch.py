"""CA certificates that are fetched: from allowed hosts, within bounds, and believed for nothing."""

from pathlib import Path

import pytest

from agent import ek_path, fetch, x509_der
from agent.ek_path import Trust
from agent.errors import (
    AgentError,
    EkCertificateUntrusted,
    EkIssuerMissing,
    HttpGarbled,
    ReplyTooLarge,
    ReplyTruncated,
    TimedOut,
    Unreachable,
)
from tests.lab import maker, pki
from tests.lab.hostile import Hostile, Way, cut, drip, hang, http, moved, reset, whole
from tests.lab.hostile_http import for_ever
from tests.lab.maker import Ca, ca_says
from tests.lab.plain import Plain
from tests.lab.shapes import MIDDLE, ROOT, TPM, middle

FINE = whole(http(200, b"fine"))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK = 0.5  # seconds: the deadline where a test waits for it


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine that runs the tests is none of their business."""
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


# --- from where ---


@pytest.mark.parametrize(
    ("url", "hosts", "yes"),
    [
        ("http://pki.lab.test/a.crt", ["pki.lab.test"], True),
        ("https://PKI.lab.test:443/a.crt", ["pki.LAB.test"], True),
        ("http://pki.lab.test:8080/a", ["pki.lab.test:8080"], True),
        ("http://pki.lab.test/a", ["pki.lab.test:80"], True),
        ("http://pki.lab.test/a", [], False),
        ("http://pki.lab.test:8080/a", ["pki.lab.test"], False),
        ("http://pki.lab.test.evil.test/a", ["pki.lab.test"], False),
        ("http://evil.test/pki.lab.test", ["pki.lab.test"], False),
        ("http://pki.lab.test@evil.test/a", ["pki.lab.test"], False),
        ("http://x@pki.lab.test/a", ["pki.lab.test"], False),
        ("ftp://pki.lab.test/a", ["pki.lab.test"], False),
        ("file:///etc/passwd", ["", "pki.lab.test"], False),
        ("http://pki.lab.test:x/a", ["pki.lab.test"], False),
        ("http://[", ["["], False),
    ],
)
def test_only_the_hosts_that_are_named_are_asked(url: str, hosts: list[str], yes: bool) -> None:
    assert fetch.allowed(url, hosts) is yes


def test_a_file_is_got_by_http_and_by_https_from_whoever_answers(tls: pki.Tls) -> None:
    with Plain({"ca.crt": FINE}) as server:
        assert fetch.get(f"{server.url}ca.crt", [server.host]) == b"fine"
    with Hostile(tls, {"ca.crt": FINE}) as secured:
        url = f"https://127.0.0.1:{secured.port}/ca.crt"
        assert fetch.get(url, [f"127.0.0.1:{secured.port}"]) == b"fine"


def test_a_redirect_is_followed_a_few_times_and_to_allowed_hosts_only() -> None:
    ways = {"a": whole(moved("/b")), "b": whole(moved("c", 302)), "c": FINE, "x": whole(moved("x"))}
    with Plain(ways | {"out": whole(moved("http://evil.test/"))}) as server:
        assert fetch.get(f"{server.url}a", [server.host]) == b"fine"
        with pytest.raises(fetch.NotThere, match="too often"):
            fetch.get(f"{server.url}x", [server.host])
        with pytest.raises(fetch.NotThere, match=r"to evil\.test, which is not allowed"):
            fetch.get(f"{server.url}out", [server.host])
        with pytest.raises(fetch.NotThere, match="answers 404"):
            fetch.get(f"{server.url}none", [server.host])
    assert len([r for r in server.requests if r.path == "/x"]) == fetch.REDIRECTS + 1


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (hang, TimedOut),
        (drip(http(200, b"x" * 1000)), TimedOut),
        (whole(http(200, b"x" * 1001)), ReplyTooLarge),
        (cut(http(200, b"x" * 100)), ReplyTruncated),
        (whole(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), HttpGarbled),
        (reset, Unreachable),
        (for_ever(CHUNKED + b"-1\r\n", bytes(10000)), HttpGarbled),
        (cut(CHUNKED + b"1\r\nx\r\n", 0), ReplyTruncated),
    ],
    ids=[
        "silence",
        "a trickle",
        "too much",
        "too little",
        "not HTTP",
        "hung up",
        "less than nothing, for ever",
        "no last chunk",
    ],
)
def test_what_goes_wrong_has_its_own_code(way: Way, error: type[AgentError]) -> None:
    with Plain({"it": way}) as server, pytest.raises(error) as raised:
        fetch.get(f"{server.url}it", [server.host], timeout=QUICK, limit=1000)
    assert type(raised.value) is error


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with Plain({}) as server:
        pass
    with pytest.raises(Unreachable, match="localhost"):
        fetch.get(f"{server.url}it", [server.host])


def test_a_handshake_that_takes_too_long_ends(tls: pki.Tls) -> None:
    with Hostile(tls, mute=True) as server:
        host = f"localhost:{server.port}"
        with pytest.raises(TimedOut):
            fetch.get(f"https://{host}/", [host], timeout=QUICK)


def test_a_proxy_that_the_environment_names_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Plain({"ca.crt": FINE}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetch.get("http://pki.lab.test/ca.crt", ["pki.lab.test"]) == b"fine"
    assert [each.path for each in proxy.requests] == ["http://pki.lab.test/ca.crt"]


# --- for a path ---

BETWEEN = pki.der(middle())


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots/root.pem").write_bytes(pki.pem(ROOT.own()))
    return tmp_path / "roots"


def found(url: str, trust: Trust, *, now: bool = True) -> list[bytes]:
    leaf = MIDDLE.ek(TPM, (maker.at(url), False))
    path = ek_path.find(x509_der.read(pki.der(leaf)), [], trust, fetch=now)
    return [each.der for each in path[1:]]


def test_an_intermediate_is_fetched_once_and_kept(roots: Path, tmp_path: Path) -> None:
    with Plain({"ca.crt": whole(http(200, BETWEEN))}) as server:
        url = f"{server.url}ca.crt"
        trust = Trust([roots], fetch_from=[server.host], cache=tmp_path / "kept")
        assert found(url, trust)[0] == BETWEEN
        assert found(url, trust, now=False)[0] == BETWEEN
    assert len(server.requests) == 1
    [kept] = (tmp_path / "kept").iterdir()
    assert kept.read_bytes() == BETWEEN
    assert kept.stat().st_mode & 0o777 == 0o644


def test_what_was_kept_and_is_damaged_is_fetched_anew(roots: Path, tmp_path: Path) -> None:
    with Plain({"ca.crt": whole(http(200, BETWEEN))}) as server:
        trust = Trust([roots], fetch_from=[server.host], cache=tmp_path / "kept")
        found(f"{server.url}ca.crt", trust)
        [kept] = (tmp_path / "kept").iterdir()
        for damaged in (b"", BETWEEN[:-1], b"junk", pki.der(Ca(ROOT.name).own())):
            kept.write_bytes(damaged)
            assert found(f"{server.url}ca.crt", trust)[0] == BETWEEN
            assert kept.read_bytes() == BETWEEN
    assert len(server.requests) == 5


def test_a_chain_of_them_is_followed_up_to_the_root(roots: Path) -> None:
    """PKCS #7, PEM, DER: whatever they are served as."""
    low, high = Ca(pki.name("Low")), Ca(pki.name("High"))
    with Plain({}) as server:
        above = (maker.at(f"{server.url}high"), False)
        its = ROOT.issue(high.name, high.key.public_key(), ca_says())
        below = high.issue(low.name, low.key.public_key(), (*ca_says(), above))
        server.ways["high"] = [whole(http(200, pki.pem(its)))]
        server.ways["low"] = [whole(http(200, pki.certs_only(below)))]
        leaf = low.ek(TPM, (maker.at(f"{server.url}low"), False))
        trust = Trust([roots], fetch_from=[server.host])
        path = ek_path.find(x509_der.read(pki.der(leaf)), [], trust, fetch=True)
    assert [each.der for each in path[1:3]] == [pki.der(below), pki.der(its)]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (pki.der(Ca(MIDDLE.name).own()), EkCertificateUntrusted),
        (pki.der(Ca(ROOT.name).issue(MIDDLE.name, MIDDLE.key.public_key(), ca_says())),
         EkCertificateUntrusted),
        (pki.der(ROOT.own()), EkCertificateUntrusted),
        (b"<html>", EkIssuerMissing),
        (b"", EkIssuerMissing),
    ],
    ids=["a root of his own", "of a root of his own", "the root", "a web page", "nothing"],
)  # fmt: skip
def test_what_is_fetched_is_believed_only_as_far_as_it_leads_to_a_root(
    body: bytes, error: type[AgentError], roots: Path, tmp_path: Path
) -> None:
    with Plain({"ca.crt": whole(http(200, body))}) as server:
        trust = Trust([roots], fetch_from=[server.host], cache=tmp_path / "kept")
        with pytest.raises(error):
            found(f"{server.url}ca.crt", trust)
    assert not (tmp_path / "kept").exists()


def test_a_host_that_is_not_allowed_is_not_asked(roots: Path) -> None:
    with Plain({"ca.crt": whole(http(200, BETWEEN))}) as server:
        with pytest.raises(EkIssuerMissing, match="does not allow"):
            found(f"{server.url}ca.crt", Trust([roots], fetch_from=["pki.lab.test"]))
        with pytest.raises(EkIssuerMissing, match="answers 404") as raised:
            found(f"{server.url}other", Trust([roots], fetch_from=[server.host]))
        assert server.host in raised.value.remedy
    assert [each.path for each in server.requests] == ["/other"]
