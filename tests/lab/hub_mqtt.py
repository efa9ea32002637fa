"""MQTT 3.1.1 as far as the hub of the lab needs it: packets, written from the OASIS standard."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
LARGEST = 1 << 18  # bytes of a packet; IoT Hub takes messages of 256 KB at most
FAILURE = 0x80  # of a subscription
FLAGS = {SUBSCRIBE: 2, UNSUBSCRIBE: 2, CONNECT: 0, PINGREQ: 0, DISCONNECT: 0}


class Malformed(Exception):
    """What came is no MQTT 3.1.1, or nothing that a client may send."""


@dataclass(frozen=True)
class Packet:
    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True)
class Connect:
    """3.1; user name and password are None where their flag is not set."""

    level: int
    client_id: str
    user: str | None
    password: str | None
    keep_alive: int  # seconds
    clean: bool


@dataclass(frozen=True)
class Publish:
    topic: str
    qos: int
    again: bool  # the DUP flag
    retain: bool
    packet_id: int | None
    payload: bytes


class _Fields:
    """A packet's body, from its beginning to its end."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def take(self, count: int) -> bytes:
        if len(self._body) < count:
            raise Malformed("a packet that is too short")
        taken, self._body = self._body[:count], self._body[count:]
        return taken

    def number(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def text(self) -> str:
        try:
            return self.take(self.number()).decode()
        except UnicodeDecodeError as e:
            raise Malformed("a string that is not UTF-8") from e

    def rest(self) -> bytes:
        return self.take(len(self._body))

    def __bool__(self) -> bool:
        return bool(self._body)


def read(take: Callable[[int], bytes]) -> Packet:
    """The next packet; `take` gives exactly so many bytes."""
    first = take(1)[0]
    kind, flags = first >> 4, first & 15
    if FLAGS.get(kind, flags) != flags:
        raise Malformed(f"flags {flags} with a packet of type {kind}")
    length = _length(take)
    if length > LARGEST:
        raise Malformed(f"a packet of {length} bytes")
    return Packet(kind, flags, take(length))


def _length(take: Callable[[int], bytes]) -> int:
    length = 0
    for place in range(4):
        byte = take(1)[0]
        length |= (byte & 127) << 7 * place
        if byte < 128:
            return length
    raise Malformed("a length of more than four bytes")


def connect(packet: Packet) -> Connect:
    if packet.kind != CONNECT:
        raise Malformed(f"a packet of type {packet.kind} before CONNECT")
    fields = _Fields(packet.body)
    if (protocol := fields.text()) != "MQTT":
        raise Malformed(f"protocol {protocol!r}")
    level, flags, keep_alive = fields.take(1)[0], fields.take(1)[0], fields.number()
    client_id = fields.text()
    if flags & 1 or (flags & 0x40 and not flags & 0x80):
        raise Malformed(f"flags {flags:#x} in CONNECT")
    if flags & 4:  # a will: topic and message
        fields.text()
        fields.take(fields.number())
    user = fields.text() if flags & 0x80 else None
    password = fields.text() if flags & 0x40 else None
    if fields:
        raise Malformed("more after CONNECT's end")
    return Connect(level, client_id, user, password, keep_alive, bool(flags & 2))


def publish(packet: Packet) -> Publish:
    fields, qos = _Fields(packet.body), packet.flags >> 1 & 3
    topic = fields.text()
    packet_id = fields.number() if qos else None
    if qos == 3 or packet_id == 0 or set(topic) & {"+", "#"}:
        raise Malformed(f"PUBLISH with QoS {qos}, packet {packet_id}, topic {topic!r}")
    again, retain = bool(packet.flags & 8), bool(packet.flags & 1)
    return Publish(topic, qos, again, retain, packet_id, fields.rest())


def subscriptions(packet: Packet) -> tuple[int, list[tuple[str, int]]]:
    """Of SUBSCRIBE: its packet id; topics, each with the quality asked for."""
    fields = _Fields(packet.body)
    packet_id, wanted = fields.number(), []
    while fields:
        wanted.append((fields.text(), fields.take(1)[0]))
    return packet_id, wanted


def packet_id(packet: Packet) -> int:
    return _Fields(packet.body).number()


def answer(kind: int, body: bytes = b"") -> bytes:
    assert len(body) < 128
    return bytes([kind << 4, len(body)]) + body


def acknowledgement(kind: int, number: int, body: bytes = b"") -> bytes:
    return answer(kind, struct.pack(">H", number) + body)
