"""Faults of the ways to servers, of the proxy, and of the clock."""

from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.lab.apart import BIND
from tests.lab.fault import Case, Fault, Server
from tests.lab.fault_relay import Relay, Then
from tests.lab.proxy import Proxy
from tests.lab.world import HOST

Steps = Generator[None, None, None]
NOBODY = "nobody.invalid"


# --- ways ---


def impatient(case: Case, server: Server) -> None:
    """So that a test need not wait as long as a device."""
    if server == "est":
        case.configure(ldevid={"est": {"timeout": "5s"}})
    if case.device.for_edge:
        case.configure(aziot={"timeout": "4s"})


def patient(case: Case) -> None:
    case.configure(aziot={"timeout": None})
    if "est" in case.changes.get("ldevid", {}):
        case.configure(ldevid={"est": {"timeout": None}})


def away(server: Server) -> Fault:
    """Nobody listens there; then it is back."""

    def fault(case: Case) -> Steps:
        relay = case.relay(server)
        impatient(case, server)
        relay.away()
        yield
        relay.well()
        patient(case)

    return fault


def breaks(server: Server, most: int, then: Then) -> Fault:
    """Only the first bytes of what it answers come through; then all do."""

    def fault(case: Case) -> Steps:
        relay = case.relay(server)
        impatient(case, server)
        relay.lets_through(most, then)
        yield
        relay.well()
        patient(case)

    return fault


def unknown_name(server: Server) -> Fault:
    """That is not that of a server; then it is set right."""

    def fault(case: Case) -> Steps:
        case.configure(**case.at(server, NOBODY))
        impatient(case, server)
        yield
        case.unconfigure()

    return fault


def no_dns(server: Server) -> Fault:
    """The resolver of the device's network knows nobody; then it does."""

    def fault(case: Case) -> Steps:
        resolver = case.watched / "tmp/resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        case.apart.mount(resolver, Path("/etc/resolv.conf").resolve(), flags=BIND)
        case.configure(**case.named(server))
        impatient(case, server)
        yield
        hosts = case.watched / "tmp/hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        case.apart.mount(hosts, "/etc/hosts", flags=BIND)
        patient(case)

    return fault


# --- proxies ---


def proxy_away(case: Case) -> Steps:
    with Relay(1) as relay:
        relay.away()
        case.configure(proxy={"url": f"http://127.0.0.1:{relay.port}"})
        yield
    case.configure(proxy={"url": case.stack.enter_context(Proxy()).url})


def proxy(**behaviour: Any) -> Fault:
    """That lets nobody through, until it is told to."""

    def fault(case: Case) -> Steps:
        there = case.stack.enter_context(Proxy())
        there.behave(**behaviour)
        case.configure(proxy={"url": there.url})
        impatient(case, "est")
        yield
        there.behave()
        patient(case)

    return fault


def login_at_proxy(user: str | None, given: str = "") -> Fault:
    def fault(case: Case) -> Steps:
        there = case.stack.enter_context(Proxy(username="device", password="of-the-proxy"))  # noqa: S106
        case.credential("proxy-password", given or "wr0ng-canary")
        case.configure(proxy={"url": there.url, "username": user})
        yield
        case.credential("proxy-password", there.password)
        case.configure(proxy={"username": "device"})

    return fault


# --- the clock ---


def clock(by: timedelta) -> Fault:
    """Of the device; then it is set."""

    def fault(case: Case) -> Steps:
        own = case.clock()
        own.jump(by)
        yield
        own.jump(-by)

    return fault
