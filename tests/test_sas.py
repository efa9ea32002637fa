"""Shared access signatures are what others make of the same key."""

import base64
import hashlib
import hmac
from urllib.parse import parse_qs

from agent import sas

KEY = bytes(range(32))


def sign(data: bytes) -> bytes:
    return hmac.digest(KEY, data, "sha256")


def test_a_token_of_a_hub_is_as_it_always_was() -> None:
    """Made by `az iot hub generate-sas-token`'s own way, with the standard library."""
    assert sas.token("hub.example/devices/edge-1", sign, 1700000000) == (
        "SharedAccessSignature sr=hub.example%2Fdevices%2Fedge-1"
        "&sig=" + _signature(b"hub.example%2Fdevices%2Fedge-1\n1700000000") + "&se=1700000000"
    )


def _signature(text: bytes) -> str:
    raw = base64.b64encode(hmac.new(KEY, text, hashlib.sha256).digest()).decode()
    return raw.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")


def test_dps_is_told_the_name_of_the_key() -> None:
    token = sas.token("0ne00000000/registrations/a", sign, 1, "registration")
    assert token.endswith("&se=1&skn=registration")
    assert "skn" not in sas.token("0ne00000000/registrations/a", sign, 1)


def test_what_is_signed_is_what_is_sent_whatever_the_name() -> None:
    signed = list[bytes]()

    def keep(data: bytes) -> bytes:
        signed.append(data)
        return bytes(32)

    token = sas.token("hub.example/devices/a b%2F:+&é", keep, 7)
    fields = token.removeprefix("SharedAccessSignature ")
    (sr,) = (part[3:] for part in fields.split("&") if part.startswith("sr="))
    assert signed == [f"{sr}\n7".encode()]
    assert parse_qs(fields)["sr"] == ["hub.example/devices/a b%2F:+&é"]
