"""The process with the network: no TPM, no secret of its own, no file of ours; for one connection.

tpm2cloud_network.socket starts it (systemd.socket(5), Accept=yes); standard input is the connection
to the process with the TPM, agent/network/far.py. What is to be signed is asked back for.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent import traffic
from agent.errors import AgentError
from agent.fetch import NotThere
from agent.network import wire
from agent.network.frames import Broken, Frame, Frames
from agent.network.login import TlsLogin, memory

if TYPE_CHECKING:
    from agent.http import Https
    from agent.hub import ByCertificate, ByToken, Hub

log = logging.getLogger(__name__)


class Asked:
    """A key that is over there (agent.tpm.operations.Signer)."""

    def __init__(self, frames: Frames, public: bytes) -> None:
        self._frames = frames
        self.public_key: Any = load_der_public_key(public)

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        """`digest` knows what it is of: over there they look at that. Raises wire.Unsigned."""
        message = getattr(digest, "message")  # noqa: B009  (agent.tpm.signature.Digest)
        return signed(self._frames, {"sign": message, "hash": hash_name, "pss": pss})


def signed(frames: Frames, question: Frame) -> bytes:
    """Raises wire.Unsigned, Broken."""
    frames.send(question)
    made = frames.receive().get("signed")
    if not isinstance(made, bytes):
        raise wire.Unsigned("the key did not sign")
    return made


class Desk:
    """What it is told to do, one after the other; what is open ends with `stack`."""

    def __init__(self, frames: Frames, stack: contextlib.ExitStack) -> None:
        self._frames, self._stack = frames, stack
        self._told, self._names = traffic.traffic(), dict[str, str]()
        self._https: Https | None = None
        self._hub: Hub | None = None
        self._acts: dict[str, Callable[[Frame], Any]] = {
            "https": self._open_https,
            "request": self._request,
            "get": _get,
            "card": _card,
            "hub": self._open_hub,
            "connect": lambda frame: self._there.connect(),
            "send": lambda frame: self._there.send(
                frame["data"], frame["message_id"], frame["kind"]
            ),
            "keep": lambda frame: self._there.keep(),
            "due": lambda frame: self._there.due(),
            "close": lambda frame: self._stack.close(),
        }

    def answer(self, frame: Frame) -> Frame:
        try:
            found = {"result": self._acts[frame["act"]](frame)}
        except Broken:
            raise
        except Exception as e:
            if not isinstance(e, AgentError | NotThere | wire.Unsigned):
                log.exception("a bug of tpm2cloud:")
            found = {"error": wire.error(e, self._names)}
        before, self._told = self._told, traffic.traffic()
        return found | {"traffic": wire.spent(before)}

    # --- HTTPS ---

    def _open_https(self, frame: Frame) -> None:
        from agent.http import Https

        os.environ.update(frame["environment"])
        chain = frame["login"] and frame["login"]["chain"]
        login = TlsLogin(self._key(frame), chain) if chain else None
        self._https = self._stack.enter_context(
            Https(
                wire.Sent.of(frame["trust"]),
                more=[x509.load_der_x509_certificate(each) for each in frame["more"]],
                identify=login,
                explain=login.explain if login else None,
                timeout=frame["timeout"],
                limit=frame["limit"],
                proxy=wire.as_proxy(frame["proxy"]),
                times=wire.as_times(frame["floor"]),
            )
        )

    def _request(self, frame: Frame) -> Frame:
        if self._https is None:
            raise RuntimeError("https comes first")
        method, url = frame["method"], frame["url"]
        return wire.reply(
            self._https.request(method, url, headers=frame["headers"], body=frame["body"])
        )

    def _key(self, frame: Frame) -> Asked:
        return Asked(self._frames, frame["login"]["key"])

    # --- the hub ---

    def _open_hub(self, frame: Frame) -> None:
        from agent import hub

        os.environ.update(frame["environment"])
        trust, proxy = wire.Sent.of(frame["trust"]), wire.as_proxy(frame["proxy"])
        made = hub.Hub(
            hub.Where(frame["hub"], frame["device_id"]),
            self._by_certificate(frame) if frame["login"] else self._by_token(frame),
            hub.Route(trust, frame["websockets"], proxy),
            wake=self._wake,
            patience=frame["patience"],
            login=frame["until"],
        )
        self._hub = self._stack.enter_context(made)

    def _by_certificate(self, frame: Frame) -> "ByCertificate":
        from agent.hub import ByCertificate

        chain = self._stack.enter_context(memory(frame["login"]["chain"]))
        self._names[str(chain)] = frame["chain"]
        return ByCertificate(self._key(frame), chain)

    def _by_token(self, frame: Frame) -> "ByToken":
        from agent.hub import ByToken

        return ByToken(lambda text: signed(self._frames, {"sign": text}), frame["lifetime"])

    def _wake(self) -> None:
        with contextlib.suppress(Broken):  # in a thread of the library's; ours notices it, too
            self._frames.send({"wake": True})

    @property
    def _there(self) -> "Hub":
        if self._hub is None:
            raise RuntimeError("hub comes first")
        return self._hub


def _get(frame: Frame) -> bytes:
    from agent import fetch

    os.environ.update(frame["environment"])
    return fetch.get(frame["url"], frame["hosts"], proxy=wire.as_proxy(frame["proxy"]))


def _card(frame: Frame) -> str:
    from agent import deviceid

    return deviceid.mac(Path("/"))


def serve(line: socket.socket) -> None:
    """Until the other side has what it wants."""
    frames = Frames(line)
    with contextlib.ExitStack() as stack:
        desk = Desk(frames, stack)
        try:
            while True:
                frames.send(desk.answer(frames.receive()))
        except Broken as e:
            log.debug("the end: %s", e)


def main() -> int:
    logging.basicConfig(format="%(message)s")
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as line:
        serve(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
