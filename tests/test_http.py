"""HTTPS to servers that behave and that do not; each failure has its own code."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agent.errors import (
    HttpGarbled,
    ReplyTooLarge,
    ReplyTruncated,
    TimedOut,
    Unreachable,
)
from agent.http import WEEK, Https, retry_after
from tests.lab import pki
from tests.lab.hostile import (
    Hostile,
    Way,
    chunked,
    cut,
    drip,
    hang,
    http,
    reset,
    then_hang,
    whole,
)

QUICK = 0.5  # seconds: the deadline where a test waits for it
FINE = whole(http(200, b"fine"))


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine that runs the tests is none of their business."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def get(tls: pki.Tls, way: Way, **https: float) -> bytes:
    with Hostile(tls, {"it": way}) as server, Https(tls.trust, **https) as client:  # type: ignore[arg-type]
        return client.request("GET", f"{server.url}/it").body


# --- a server that behaves -----------------------------------------------------------------------


def test_a_reply_has_a_status_headers_in_any_case_and_a_body(tls: pki.Tls) -> None:
    way = whole(http(418, b"short and stout", X_Pot="tea"))
    with Hostile(tls, {"it": way}) as server, Https(tls.trust) as https:
        reply = https.request("POST", f"{server.url}/it", headers={"X-Cup": "1"}, body=b"pour")
    assert (reply.status, reply.headers["x-pot"], reply.body) == (418, "tea", b"short and stout")
    (request,) = server.requests
    assert (request.method, request.headers["x-cup"], request.body) == ("POST", "1", b"pour")
    assert request.headers["content-length"] == "4"


def test_one_connection_serves_all_requests(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": FINE}) as server, Https(tls.trust) as https:
        for _ in range(3):
            assert https.request("GET", f"{server.url}/it").body == b"fine"
    assert server.connections == 1


def test_chunks_are_put_together(tls: pki.Tls) -> None:
    body = bytes(range(256)) * 10
    assert get(tls, chunked(http(200, body))) == body


def test_a_redirect_is_an_answer_and_is_not_followed(tls: pki.Tls) -> None:
    ways = {"it": whole(http(301, Location="/there")), "there": FINE}
    with Hostile(tls, ways) as server, Https(tls.trust) as https:
        assert https.request("GET", f"{server.url}/it").status == 301
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["https://[::1", "\xff\xfe", "http://", ""])
def test_a_redirect_to_nonsense_is_an_answer_too(tls: pki.Tls, location: str) -> None:
    ways = {"it": whole(http(301, Location=location))}
    with Hostile(tls, ways) as server, Https(tls.trust) as https:
        assert https.request("GET", f"{server.url}/it").headers["location"] == location


def test_a_compressed_reply_is_not_asked_for(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": FINE}) as server, Https(tls.trust) as https:
        https.request("GET", f"{server.url}/it")
    assert server.requests[0].headers["accept-encoding"] == "identity"


# --- nobody there, or nobody well ----------------------------------------------------------------


def test_nobody_listens(tls: pki.Tls) -> None:
    with Hostile(tls) as server:
        pass
    with Https(tls.trust) as https, pytest.raises(Unreachable, match="connection refused") as e:
        https.request("GET", server.url)
    assert f"localhost:{server.port}" in e.value.remedy


def test_the_name_is_not_known(tls: pki.Tls) -> None:
    with Https(tls.trust) as https, pytest.raises(Unreachable, match=r"cannot reach no\.invalid: "):
        https.request("GET", "https://no.invalid/it")


def test_a_connection_reset_is_tried_again_later(tls: pki.Tls) -> None:
    with pytest.raises(Unreachable) as caught:
        get(tls, reset)
    assert type(caught.value) is Unreachable


def test_a_server_that_hangs_up_without_a_word_is_unreachable(tls: pki.Tls) -> None:
    with pytest.raises(Unreachable) as caught:
        get(tls, cut(b"", 0))
    assert type(caught.value) is Unreachable


@pytest.mark.parametrize(
    "way",
    [
        hang,
        then_hang(b"HTTP/1.1 200 OK\r\nContent-Le"),
        then_hang(http(200, Content_Length="5")),
        drip(http(200, b"x" * 1000)),
        drip(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, seconds=0.02),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, seconds=0.01),
    ],
    ids=["before", "in headers", "in body", "dripping", "dripping to the end", "never final"],
)
def test_an_exchange_ends_in_time_however_slowly_it_goes(tls: pki.Tls, way: Way) -> None:
    begin = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.5 s"):
        get(tls, way, timeout=QUICK)
    assert time.monotonic() - begin < 2 * QUICK + 1


def test_a_server_that_does_not_even_shake_hands_is_given_up_in_time(tls: pki.Tls) -> None:
    with (
        Hostile(tls, mute=True) as server,
        Https(tls.trust, timeout=QUICK) as https,
        pytest.raises(TimedOut),
    ):
        https.request("GET", server.url)


def test_after_a_deadline_the_next_request_has_a_connection_and_time_of_its_own(
    tls: pki.Tls,
) -> None:
    ways = {"it": [hang, FINE]}
    with Hostile(tls, ways) as server, Https(tls.trust, timeout=QUICK) as https:
        with pytest.raises(TimedOut):
            https.request("GET", f"{server.url}/it")
        assert https.request("GET", f"{server.url}/it").body == b"fine"


@pytest.mark.parametrize(
    "way",
    [
        cut(http(200, b"x" * 100)),
        cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 8),
        chunked(http(200, b"x" * 100), broken=True),
    ],
    ids=["shorter than said", "no last chunk", "longer chunk than said"],
)
def test_a_reply_that_breaks_off_is_not_used(tls: pki.Tls, way: Way) -> None:
    with pytest.raises(ReplyTruncated):
        get(tls, way)


@pytest.mark.parametrize("of", [http, lambda _, body: b"HTTP/1.1 200 OK\r\n\r\n" + body])
def test_a_reply_longer_than_the_limit_is_not_read_to_the_end(tls: pki.Tls, of: object) -> None:
    assert callable(of)
    with pytest.raises(ReplyTooLarge):
        get(tls, whole(of(200, bytes(1 << 25))))


def test_a_redirect_longer_than_the_limit_is_not_read_to_the_end(tls: pki.Tls) -> None:
    with pytest.raises(ReplyTooLarge):
        get(tls, whole(http(301, bytes(1 << 25), Location="/")))


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\x01\x1b[2J garbage\r\n\r\n" + bytes(range(256)),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        http(200, b"", **{f"X{i}": "x" for i in range(200)}),
        http(200, b"", X="x" * 100_000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ],
    ids=["garbage", "ssh", "many headers", "long header", "two lengths"],
)
def test_what_is_not_http_is_said_to_be_so_in_printable_words(tls: pki.Tls, reply: bytes) -> None:
    with pytest.raises(HttpGarbled) as caught:
        get(tls, cut(reply, 0))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


# --- Retry-After ---------------------------------------------------------------------------------

NOON = "Sun, 06 Nov 1994 12:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("600", 600),
        (" 0 ", 0),
        ("-5", 0),
        ("9" * 5000, WEEK),
        ("1000000", WEEK),
        ("Sun, 06 Nov 1994 12:01:00 GMT", 60),
        ("Sunday, 06-Nov-94 12:01:00 GMT", 60),
        ("Sun Nov  6 12:01:00 1994", 60),
        ("Sun, 06 Nov 1994 11:00:00 GMT", 0),
        ("Sun, 06 Nov 2094 12:00:00 GMT", WEEK),
        ("soon", None),
        ("1.5", None),
        ("Sun, 99 Nov 1994 99:00:00 GMT", None),
        ("\u0663", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(
    value: str, seconds: int | None
) -> None:
    assert retry_after({"Retry-After": value, "Date": NOON}) == seconds


def test_retry_after_is_none_if_nobody_said_so() -> None:
    assert retry_after({}) is None


def test_a_date_without_the_servers_clock_is_taken_by_ours() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 <= (retry_after({"Retry-After": at}) or 0) <= 100
