"""What can be in the way of a registration: each for the length of a `with`, as a function of the
device (tests/lab/dps_faults.py)."""

import base64
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from agent.state import State
from tests.lab import dps_tpm, hostile, pki, states
from tests.lab.dps_faults import WELL, How, Registered
from tests.lab.factory import EK
from tests.lab.proxy import Proxy

REGISTER = "register?api-version=2021-06-01"
HUB_KEY = "0x81000100"
# PolicySecret(TPM_RH_ENDORSEMENT); TCG EK Credential Profile, B.3.3
EK_POLICY = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
IS_EK = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
SIGNS = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"

# --- the enrolment ---


@contextmanager
def forgotten(ours: Registered) -> Iterator[None]:
    service, ek = ours.device.world.dps, ours.device.endorsement_key()
    service.forget(ours.name)
    yield
    service.enrol_tpm(ours.name, ek)


@contextmanager
def disabled(ours: Registered) -> Iterator[None]:
    service = ours.device.world.dps
    service.enrolment(ours.name, enabled=False)
    yield
    service.enrolment(ours.name, enabled=True)


@contextmanager
def other_ek(ours: Registered) -> Iterator[None]:
    service, ek = ours.device.world.dps, ours.device.endorsement_key()
    service.enrolment(ours.name, ek=dps_tpm.elsewhere(ek))
    yield
    service.enrolment(ours.name, ek=ek)


@contextmanager
def disabled_at_hub(ours: Registered) -> Iterator[None]:
    service = ours.device.world.dps
    service.at_hub(ours.name, enabled=False)
    yield
    service.at_hub(ours.name, enabled=True)


@contextmanager
def group_disabled(ours: Registered) -> Iterator[None]:
    service, owner = ours.device.world.dps, pki.Files(ours.device.world.directory / "owner").root
    service.group(owner, enabled=False)
    yield
    service.group(owner, enabled=True)


@contextmanager
def other_certificate(ours: Registered) -> Iterator[None]:
    service, ca = ours.device.world.dps, ours.town.ca
    service.enrol_certificate(ours.name, ca.issue(pki.new_key().public_key(), ours.name))
    yield
    service.forget(ours.name)


@contextmanager
def unenrolled(ours: Registered) -> Iterator[None]:
    there = ours.town.elsewhere
    there.behave(polls=0, retry_after=0)
    ours.configure({"dps": {"endpoint": there.url}})
    yield


@contextmanager
def renamed(ours: Registered) -> Iterator[None]:
    """Its certificate is for another name than it has now."""
    with ours.put_back("state"):
        ours.configure({"device": {"id": "another"}})
        yield


@contextmanager
def cut_chain(ours: Registered) -> Iterator[None]:
    file, end = State(ours.device.state).ldevid_cert, b"-----END CERTIFICATE-----\n"
    with ours.put_back("state"):
        file.write_bytes(file.read_bytes().partition(end)[0] + end)
        yield


@contextmanager
def damaged(ours: Registered) -> Iterator[None]:
    with ours.put_back("state", "tpm"):
        file = State(ours.device.state).assignment
        file.write_bytes(file.read_bytes()[:-100])
        yield


@contextmanager
def damaged_key(ours: Registered) -> Iterator[None]:
    """A bit of what is wrapped by the SRK."""
    with ours.put_back("state"):
        file = State(ours.device.state).assignment
        found = json.loads(file.read_text())
        key = found["proven"]["key"]
        private = bytearray(base64.b64decode(key["private"]))
        private[-1] ^= 1
        key["private"] = base64.b64encode(private).decode()
        file.write_text(json.dumps(found))
        yield


def foreign_ca(ours: Registered) -> AbstractContextManager[None]:
    return showing("intercepted", ca=pki.root("Inspection Inc."))(ours)


def failing(code: int) -> How:
    """It ends with this, whatever the enrolment says."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        dps = ours.device.world.dps
        dps.behave(polls=0, retry_after=0, failing=[ours.name], failure=code)
        yield

    return how


# --- the TPM ---


def tpm(*commands: str, **credentials: str) -> How:
    """What tpm2-tools do to it; afterwards it is as before."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        with ours.put_back("tpm", "credentials", "state"):
            for name, text in credentials.items():
                path = ours.device.credentials / f"tpm-{name}-auth"
                pki.write_private(path, text.encode())
            for command in commands:
                ours.tools(*command.split())
            ours.tools("flushcontext", "-t")
            yield

    return how


@contextmanager
def c_sdk_ek(ours: Registered) -> Iterator[None]:
    """It differs from the TCG's in an empty `unique`."""
    with ours.put_back("tpm", "state"):
        (ours.device.directory / "policy").write_bytes(bytes.fromhex(EK_POLICY))
        ours.tools("evictcontrol", "-Q", "-C", "o", "-c", EK)
        make = f"createprimary -Q -C e -G rsa2048:aes128cfb -L policy -a {IS_EK} -c made.ctx"
        ours.tools(*make.split())
        ours.tools("evictcontrol", "-Q", "-C", "o", "-c", "made.ctx", EK)
        ours.tools("flushcontext", "-t")
        yield


def replaced(handle: str, *make: str) -> How:
    return tpm(f"evictcontrol -C o -c {handle}", *make, f"evictcontrol -C o -c made.ctx {handle}")


@contextmanager
def full(ours: Registered) -> Iterator[None]:
    """The hub key has gone, and others have taken its room: large ones, then small ones."""
    with ours.put_back("tpm"):
        ours.tools("evictcontrol", "-Q", "-C", "o", "-c", HUB_KEY)
        states.no_persistent_slot(ours.tools)
        ours.tools(*f"createprimary -Q -C o -G hmac -a {SIGNS} -c small.ctx".split())
        for handle in range(0x81008000, 0x81008100):
            done = ours.tools.ask("evictcontrol", "-C", "o", "-c", "small.ctx", hex(handle))
            if done.returncode:
                break
        ours.tools("flushcontext", "-t")
        yield


# --- what comes back ---


def drip(talk: hostile.Talk) -> None:
    hostile.drip(hostile.http(200, b" " * 100), 1.0)(talk)


def silent(talk: hostile.Talk) -> None:
    talk.over.wait(60)


def endless(talk: hostile.Talk) -> None:
    talk.line.sendall(b"HTTP/1.1 401 -\r\nContent-Type: application/json\r\n\r\n{")
    while not talk.over.is_set():
        talk.line.sendall(b" " * 65536)


# --- servers, and the ways to them ---


def dps(**behaviour: Any) -> How:
    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        ours.device.world.dps.behave(**{**WELL, **behaviour})
        yield

    return how


def configured(**tables: Any) -> How:
    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        ours.configure(tables)
        yield

    return how


def instead(way: hostile.Way, **server: Any) -> How:
    """In the place of DPS somebody answers, in this way, whatever is asked."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        with hostile.Hostile(ours.device.world.tls, {REGISTER: way}, **server) as there:
            ours.configure({"dps": {"endpoint": f"https://localhost:{there.port}"}})
            yield

    return how


def showing(label: str, **how_so: Any) -> How:
    """A server certificate that is not as it should be."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        made = ours.town.tls(f"{label}-{ours.kind}", **how_so)
        with hostile.Hostile(made) as there:
            ours.configure({"dps": {"endpoint": f"https://localhost:{there.port}"}})
            yield

    return how


def through(user: str | None = None, given: str = "", **behaviour: Any) -> How:
    """A proxy, that wants a login if `behaviour` names its `username`."""
    login = {name: behaviour.pop(name) for name in ("username", "password") if name in behaviour}

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        with Proxy(**login) as proxy:
            proxy.behave(**behaviour)
            pki.write_private(ours.device.credentials / "proxy-password", given.encode())
            ours.configure({"proxy": {"url": proxy.url, **({"username": user} if user else {})}})
            yield

    return how


def hub(which: str, known: dict[str, Any] | None = None, **changes: Any) -> How:
    """DPS assigns another one, which knows this of the device: by default nothing."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        host = which if "." in which else getattr(ours.town, which).host
        told = {host: {ours.name: known}} if known else {}
        ours.town.other.registry.write_text(json.dumps(told))
        ours.device.world.dps.behave(**WELL, state={"assignedHub": host}, **changes)
        yield

    return how


def jump(by: timedelta, also: How | None = None) -> How:
    """The clock of the device is set."""

    @contextmanager
    def how(ours: Registered) -> Iterator[None]:
        ours.town.clock.jump(by)
        try:
            with ExitStack() as stack:
                if also:
                    stack.enter_context(also(ours))
                yield
        finally:
            ours.town.clock.jump(-by)

    return how
