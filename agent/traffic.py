"""How many bytes this process has sent and received: for metered links, and as the kernel has it.

What TCP carried, retransmissions and all: TLS with its handshakes, HTTP, a proxy's CONNECT; not the
headers of TCP and IP (52 bytes a packet, 72 with IPv6), and no DNS. Not in agent/http.py, which
takes a while to import: who has sent nothing must not pay for it.
"""

import socket
import struct
from dataclasses import dataclass

# struct tcp_info of linux/tcp.h, tcp(7); tcpi_bytes_sent is there since Linux 4.19.
# Not tcpi_bytes_acked: what the other end has not acknowledged by now has been sent, too.
_SIZE = 208
_RECEIVED, _SENT = 128, 200
_COUNTER = struct.Struct("=Q")


@dataclass(frozen=True)
class Traffic:
    """Bytes."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent + other.sent, self.received + other.received)


_ended: list[Traffic] = []


def traffic() -> Traffic:
    """Over all connections of this process that have ended; also those that never came to HTTP."""
    return sum(_ended, Traffic())


def ends(line: socket.socket) -> None:
    """To be told once of each TCP connection, at its end and while `line` (or a duplicate) is open.

    The end of the other side's stream counts as one byte received, if it is here by then.
    """
    info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    (sent,), (received,) = (_COUNTER.unpack_from(info, at) for at in (_SENT, _RECEIVED))
    add(Traffic(sent, received))


def add(more: Traffic) -> None:
    """What another process has sent and received for this one."""
    _ended.append(more)
