"""An IoT Hub on a loopback address of its own, a process: `python -m tests.lab.hub_server FILE`.

MQTT 3.1.1 on port 8883, and in WebSockets on another port. A client is who it says only if the
registry, a file that the provisioning service writes, has its key or its certificate: see
hub_identity. As at the real one a second connection of a device ends its first, a connection ends
with its token, and messages go to the topic of the device's own events; anything else ends the
connection. What happened is in the log before the client learns of it.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qsl

from cryptography import x509

from tests.lab import hub_mqtt as mqtt
from tests.lab.hub_identity import Door, Verdict, judge
from tests.lab.hub_line import Gone, TlsLine, WebSocket, server_context

LOOK_EVERY = 0.05  # seconds, for connections that have to end
# Seconds after a message that its connection breaks off, at the soonest: on a real network the one
# who sent it is done with sending by then.
DISTANCE = 0.03


@dataclass
class Behaviour:
    """What a test may ask for, read from the file whenever it has changed."""

    refuse: int = 0  # everybody, with this number in CONNACK: 3 unavailable, 5 not authorized
    refuse_times: int = -1  # only so often, counted from now on; -1: always
    close: bool = False  # connections are closed before TLS begins
    drop_at: list[int] = field(default_factory=list)  # these messages, counted from now on from 1,
    stored: bool = True  # end the connection: stored, but not acknowledged; or not even stored
    silent: bool = False  # messages are stored, and not acknowledged
    slow: float = 0.0  # seconds before each answer
    grace: float = 0.5  # seconds that a connection outlives its token


class Hub:
    """What the connections of a hub share; used by many threads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.host = settings["host"]
        self._registry = Path(settings["registry"])
        files = [Path(name).read_bytes() for name in settings["enrolled"]]
        self._enrolled = [c for data in files for c in x509.load_pem_x509_certificates(data)]
        self._log, self._script = Path(settings["log"]), Path(settings["behaviour"])
        self._behaviour, self._changed = Behaviour(), 0
        self._sessions: dict[str, Session] = {}
        self._count, self._published, self._refused = 0, 0, 0
        self._lock = threading.RLock()

    @property
    def behaviour(self) -> Behaviour:
        with self._lock:
            if self._script.exists() and (now := self._script.stat().st_mtime_ns) != self._changed:
                self._behaviour = Behaviour(**json.loads(self._script.read_text()))
                self._changed, self._published, self._refused = now, 0, 0
            return self._behaviour

    def note(self, event: str, **what: object) -> None:
        with self._lock, self._log.open("a") as log:
            log.write(json.dumps({"event": event, "time": time.time(), **what}) + "\n")

    def number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    def judge(self, connect: mqtt.Connect, chain: list[x509.Certificate]) -> Verdict:
        if code := self._refusal():
            return Verdict(code, "refuses everybody")
        known = json.loads(self._registry.read_text()) if self._registry.exists() else {}
        devices = known.get(self.host, {})
        return judge(Door(self.host, devices, self._enrolled, time.time()), connect, chain)

    def _refusal(self) -> int:
        with self._lock:
            wanted = self.behaviour
            if wanted.refuse == 0 or self._refused == wanted.refuse_times:
                return 0
            self._refused += 1
            return wanted.refuse

    def enter(self, session: "Session") -> None:
        with self._lock:
            if other := self._sessions.get(session.device):
                other.end("another connection of the same device")
            self._sessions[session.device] = session

    def leave(self, session: "Session") -> None:
        with self._lock:
            if self._sessions.get(session.device) is session:
                del self._sessions[session.device]

    def dropped_at(self) -> bool:
        """Another message has come; whether its connection ends with it."""
        with self._lock:
            wanted = self.behaviour.drop_at
            self._published += 1
            return self._published in wanted

    def watch(self) -> None:
        """End what has lasted too long, for ever."""
        while True:
            time.sleep(LOOK_EVERY)
            with self._lock:
                sessions = list(self._sessions.values())
            for session in sessions:
                session.look_at_the_clock(self.behaviour.grace)


class Session:
    """A connection, from CONNECT to its end."""

    def __init__(self, hub: Hub, line: TlsLine | WebSocket, tls: TlsLine) -> None:
        self._hub, self._line, self._tls = hub, line, tls
        self.number, self.device = hub.number(), ""
        self._expires: int | None = None
        self._keep_alive, self._heard = 0, time.monotonic()
        self._why: str | None = None

    def run(self) -> None:
        connect = mqtt.connect(mqtt.read(self._line.take))
        chain = self._tls.chain()
        verdict = self._hub.judge(connect, chain)
        self.device, self._keep_alive = connect.client_id, connect.keep_alive
        self._expires = verdict.expires
        if verdict.accepted:
            self._hub.enter(self)
        try:
            self._note_connect(connect, verdict, chain)
            self._answer(mqtt.answer(mqtt.CONNACK, bytes([0, verdict.code])))
            if verdict.accepted:
                self._listen()
        except (Gone, mqtt.Malformed) as e:
            self.end(str(e))
        finally:
            self._hub.leave(self)
            if verdict.accepted:
                self._note("closed", why=self._why or "disconnected by the client")

    def end(self, why: str) -> None:
        """From any thread; the first reason counts."""
        self._why = self._why or why
        self._line.cut()

    def look_at_the_clock(self, grace: float) -> None:
        if self._expires is not None and time.time() >= self._expires + grace:
            self.end("token expired")
        if self._keep_alive and time.monotonic() > self._heard + 1.5 * self._keep_alive:
            self.end("nothing heard")

    def _listen(self) -> None:
        while True:
            packet = mqtt.read(self._line.take)
            self._heard = time.monotonic()
            if packet.kind == mqtt.DISCONNECT:
                return
            self._serve(packet)

    def _serve(self, packet: mqtt.Packet) -> None:
        if packet.kind == mqtt.PUBLISH:
            self._take_in(mqtt.publish(packet))
        elif packet.kind == mqtt.SUBSCRIBE:
            number, wanted = mqtt.subscriptions(packet)
            granted = bytes(self._granted(topic, qos) for topic, qos in wanted)
            self._answer(mqtt.acknowledgement(mqtt.SUBACK, number, granted))
        elif packet.kind == mqtt.UNSUBSCRIBE:
            self._answer(mqtt.acknowledgement(mqtt.UNSUBACK, mqtt.packet_id(packet)))
        elif packet.kind == mqtt.PINGREQ:
            self._answer(mqtt.answer(mqtt.PINGRESP))
        else:
            raise mqtt.Malformed(f"a packet of type {packet.kind}")

    def _granted(self, topic: str, qos: int) -> int:
        own = topic.startswith((f"devices/{self.device}/", "$iothub/"))
        return min(qos, 1) if own else mqtt.FAILURE

    def _take_in(self, message: mqtt.Publish) -> None:
        events = f"devices/{self.device}/messages/events/"
        if not message.topic.startswith(events) or message.qos == 2:
            raise mqtt.Malformed(f"PUBLISH to {message.topic!r} with QoS {message.qos}")
        behaviour, dropped = self._hub.behaviour, self._hub.dropped_at()
        if behaviour.stored or not dropped:
            self._store(message, message.topic.removeprefix(events))
        if dropped:
            time.sleep(DISTANCE)
            raise Gone("dropped, as told")
        if message.packet_id is not None and not behaviour.silent:
            self._answer(mqtt.acknowledgement(mqtt.PUBACK, message.packet_id))

    def _store(self, message: mqtt.Publish, properties: str) -> None:
        named = dict(parse_qsl(properties.rstrip("/"), keep_blank_values=True))
        self._note(
            "message",
            text=message.payload.decode(errors="backslashreplace"),
            mid=named.get("$.mid"),
            properties=named,
            topic=message.topic,
            qos=message.qos,
            again=message.again,
        )

    def _answer(self, data: bytes) -> None:
        if wait := self._hub.behaviour.slow:
            time.sleep(wait)
        self._line.write(data)

    def _note(self, event: str, **what: object) -> None:
        self._hub.note(event, device=self.device, connection=self.number, **what)

    def _note_connect(
        self, connect: mqtt.Connect, verdict: Verdict, chain: list[x509.Certificate]
    ) -> None:
        self._note(
            "connect",
            user=connect.user,
            clean=connect.clean,
            keep_alive=connect.keep_alive,
            transport="websockets" if isinstance(self._line, WebSocket) else "mqtt",
            tls=self._tls.protocol,
            chain=[c.subject.rfc4514_string() for c in chain],
            accepted=verdict.accepted,
            **asdict(verdict),
        )


class Server(ThreadingTCPServer):
    """One port of a hub."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    def __init__(self, hub: Hub, settings: dict[str, Any], port: int, websockets: bool) -> None:
        self.hub, self.websockets = hub, websockets
        self.context = server_context(settings["certificate"], settings["key"])
        super().__init__((settings["address"], port), Handler)


class Handler(BaseRequestHandler):
    server: Server
    request: socket.socket

    def handle(self) -> None:
        hub = self.server.hub
        if hub.behaviour.close:
            return
        tls = TlsLine(self.server.context, self.request)
        try:
            tls.shake_hands()
            line = WebSocket(tls) if self.server.websockets else tls
            Session(hub, line, tls).run()
        except (Gone, mqtt.Malformed) as e:
            hub.note("stranger", why=str(e))  # gone before CONNECT
        else:
            tls.finish()


def main(settings: dict[str, Any]) -> None:
    hub = Hub(settings)
    ports = {settings["port"]: False, settings["websockets_port"]: True}
    work: list[Callable[[], None]] = [hub.watch]
    work += [Server(hub, settings, port, ws).serve_forever for port, ws in ports.items()]
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
