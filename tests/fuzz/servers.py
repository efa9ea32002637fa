"""What servers say: EST, DPS, IoT Edge's identity service, the process with the network."""

import base64
import json
import socket
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import CertificateSigningRequest

from agent import aziot_identity, http, x509, x509_issued
from agent.clock import http_date
from agent.dps_wire import Wire
from agent.errors import AgentError, Later, Refused
from agent.est import Est
from agent.est_tpm import tpmenroll
from agent.network import wire
from agent.network.frames import Broken, Frames
from agent.tpm import Challenge
from tests.fuzz.certificates import asked
from tests.fuzz.readers import NOW, Said, refused, reply

WIRE = Wire("dps.example", "0ne00LAB000", "device-0001")
URL = "https://est.example/.well-known/est"
TPMT = bytes.fromhex("0001000b")


@cache
def _csr() -> CertificateSigningRequest:
    return x509_issued.request(ec.derive_private_key(7, ec.SECP256R1()), "device-0001")


def certificates_of_est(data: bytes) -> None:
    """The body of an answer to simpleenroll."""
    est = Est(Said(reply(data, "application/pkcs7-mime")), URL)
    with refused(Refused):
        found = est.simpleenroll(_csr())
        for each in found:
            asked(each, *x509.NONSENSE)
        x509_issued.issued(found, _csr(), found[:1], found, NOW)


def pkcs7(data: bytes) -> None:
    """The same, with the base64 around it that no fuzzer guesses."""
    certificates_of_est(base64.encodebytes(data))


def csr_attributes(data: bytes) -> None:
    est = Est(Said(reply(base64.encodebytes(data), "application/csrattrs")), URL)
    with refused(Refused):
        est.csrattrs()


def tpmenroll_reply(data: bytes) -> None:
    """Its type, a line, then its parts."""
    kind, _, body = data.partition(b"\n")
    est = Est(Said(reply(body, kind.decode("latin-1"))), URL)
    with refused(Refused, Later):
        tpmenroll(est, _csr(), [b"0\0"], TPMT, TPMT).unlock(bytes(32))


def dps_answer(data: bytes) -> None:
    """To a registration, and to a poll."""
    status, said = (int.from_bytes(data[:2], "big") % 500) + 100, data[2:]
    answer = reply(said, "application/json", status)
    with refused(Refused):
        found = WIRE.document(answer)
        WIRE.operation(found)
        WIRE.outcome(found)
    with refused(Refused, Later):
        Challenge.parse(WIRE.challenge(answer).blob)
    for kind in (WIRE.refusal(answer), WIRE.unauthorized(answer)):
        assert isinstance(kind, Refused | Later) or type(kind) is not AgentError


def dps_key(data: bytes) -> None:
    """The authenticationKey, out of its base64."""
    with refused(Refused):
        Challenge.parse(data)


def headers(data: bytes) -> None:
    text = data.decode("latin-1")
    seconds = http.retry_after({"Retry-After": text, "Date": text[::-1]})
    assert seconds is None or 0 <= seconds <= http.WEEK
    http_date(text)
    assert http.printable(text).isprintable()


def identity_service(data: bytes) -> None:
    """What IoT Edge says of itself, whatever listens there."""
    with refused(aziot_identity._NoAnswer):
        aziot_identity._json(200 if data[:1] == b"{" else 400, data)


def network_process(data: bytes) -> None:
    """What the process with the network sends to the one with the TPM."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(len(data).to_bytes(4, "big") + data)
        theirs.close()
        with refused(Broken):
            frame: dict[str, Any] = Frames(ours).receive(5)
            wire.spend(frame)
            for read in (wire.as_reply, wire.as_error):
                with refused(Broken):
                    read(frame.get("result"))
                    json.dumps(str(frame))
