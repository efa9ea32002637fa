"""A receipt in words, and for programs."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from agent import x509, x509_der
from agent.receipt.lines import Receipt


def as_json(receipt: Receipt, proofs: list[str] | None = None) -> dict[str, Any]:
    """`proofs`: who vouches for it; None if nobody was asked."""
    header, quote = receipt.header, receipt.quote
    return {
        "proved": proofs,
        "lines": receipt.length,
        "signer": header["signer"],
        "key": sha256(x509.spki(receipt.key)).hexdigest(),
        "idevid": [_certificate(der) for der in receipt.idevid],
        "ek": _ek(receipt),
        "after": header["after"],
        "events": [
            {name: event[name] for name in ("at", "clock", "did", "facts")}
            for event in receipt.events
        ],
        "tpm": {
            "clock": quote.clock,
            "clock_safe": quote.safe,
            "resets": quote.resets,
            "restarts": quote.restarts,
            "firmware": f"{quote.firmware:#x}",
            "pcrs": {f"{bank}:{number}": value for (bank, number), value in receipt.pcrs.items()},
        },
    }


def _ek(receipt: Receipt) -> dict[str, Any] | None:
    if receipt.ek is None:
        return None
    certificates = [_certificate(der) for der in receipt.ek.certificates]
    return {"name": receipt.ek.name.hex(), "certificates": certificates}


def _certificate(der: bytes) -> dict[str, str]:
    """What is no certificate has a digest all the same."""
    found = {"sha256": sha256(der).hexdigest()}
    try:
        read = x509_der.read(der).read
    except ValueError as e:
        return {**found, "unreadable": str(e)}
    return {**found, "subject": x509.written(read.subject), "issuer": x509.written(read.issuer)}


def as_text(found: dict[str, Any]) -> Iterator[str]:
    """Of `as_json`. A text in a receipt may be whatever its device wants: it makes no lines of its
    own, and tells a terminal nothing."""
    return map(_plain, _text(found))


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _text(found: dict[str, Any]) -> Iterator[str]:
    yield from _who(found)
    for number, event in enumerate(found["events"], 1):
        yield f"{number}. {', '.join(map(str, event['did']))}: {event['at']}, {_clock(event)}"
        yield from _facts(event["facts"] or {}, "   ")
    tpm = found["tpm"]
    yield f"Signed when the TPM had been reset {tpm['resets']} times, with these registers:"
    for register, value in tpm["pcrs"].items():
        yield f"   {register} {value}"
    if found["proved"] is None:
        yield "Nobody was asked who vouches for it: tpm2cloud receipt verify FILE --trust PEM"
    for proof in found["proved"] or ():
        yield f"Proved: {proof}."


def _who(found: dict[str, Any]) -> Iterator[str]:
    whose = "an attestation key, the TPM's IAK"
    if found["idevid"]:
        leaf = found["idevid"][0]
        who = "the IDevID" if found["proved"] else "a key that is said to be the IDevID"
        whose = f"{who} {leaf.get('subject')}, certificate sha256:{leaf['sha256']}"
    yield f"{found['lines']} lines, unchanged since they were signed by {whose}"
    yield f"Key: sha256:{found['key']}"
    if (ek := found["ek"]) is None:
        yield "EK: withheld"
    else:
        says = ", as the device says" if found["idevid"] else ""
        yield f"EK{says}: {ek['name']}"
        for each in ek["certificates"]:
            yield f"   certificate sha256:{each['sha256']}, {each.get('subject') or '-'}"
    if found["after"]:
        yield f"Another receipt was before it: sha256:{found['after']}"


def _clock(event: dict[str, Any]) -> str:
    """What is known of the time is that it was not earlier (agent/clock.py)."""
    clock = event["clock"]
    if not isinstance(clock, dict):
        return "by its own clock alone"
    return f"not before {clock.get('at_least')}, as {clock.get('by')} has said"


def _facts(found: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _facts(value, indent + "   ")
        else:
            yield f"{indent}{name}: {'-' if value is None else value}"
