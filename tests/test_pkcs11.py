"""The token: what other programs see of it, and what they keep in it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from agent import pkcs11
from agent.errors import ConfigError, Later
from agent.tpm import Tpm
from agent.tpm.templates import KeyType
from tests.lab import cryptoki, token
from tests.lab.token import ME, PINS, SRK, TOKEN, Device

T = TypeVar("T")
KINDS: list[KeyType] = ["ecc256", "rsa2048"]


@pytest.fixture(params=KINDS)
def device(
    request: pytest.FixtureRequest, tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    """Once with an ECC, once with an RSA storage key."""
    made = token.device(tpm, tmp_path / "store", request.param)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    assert tpm.loaded() == set()


MECHANISMS: dict[str, list[str]] = {
    "ecc256": ["ECDSA-SHA256"],
    "rsa2048": ["SHA256-RSA-PKCS", "SHA256-RSA-PKCS-PSS"],
}


def verify(key: object, message: bytes, mechanism: str, signature: bytes) -> None:
    """Raises InvalidSignature."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(der(signature), message, ec.ECDSA(SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        salted = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
        pad = salted if mechanism.endswith("PSS") else padding.PKCS1v15()
        key.verify(signature, message, pad, SHA256())


def der(signature: bytes) -> bytes:
    half = len(signature) // 2
    return encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_list_the_ldevid_and_sign_with_it(
    device: Device, tmp_path: Path, kind: KeyType
) -> None:
    key = device.key(kind)
    device.create(key)

    listed = device.tool("--list-objects")
    assert listed.count("label:      ldevid\n") == 2
    assert "never extractable" in listed
    message, signature = tmp_path / "message", tmp_path / "signature"
    message.write_bytes(b"signed in the TPM")
    for mechanism in MECHANISMS[kind]:
        files: list[str | Path] = ["--input-file", message, "--output-file", signature]
        device.tool("--sign", "--label", "ldevid", "--mechanism", mechanism, *files)
        verify(key.key, message.read_bytes(), mechanism, signature.read_bytes())

    assert f"label: {TOKEN}" in device.run("tpm2_ptool", "listtokens", "--pid", "1", *at(device))
    objects = device.run("tpm2_ptool", "listobjects", "--label", TOKEN, *at(device))
    assert objects.count("CKA_LABEL: ldevid") == 2


def at(device: Device) -> list[str | Path]:
    return ["--path", device.directory]


def test_a_token_without_any_key_gets_its_key_later(device: Device) -> None:
    device.create()
    assert device.look().keys == ()

    key = device.key("ecc256")
    device.put(key)

    assert device.look().holds("ldevid", key.public)
    assert "Private Key Object; EC" in device.tool("--list-objects")


def test_the_blobs_of_a_key_can_be_had_back_from_the_token(device: Device) -> None:
    key = device.key("ecc256")
    device.create(key)
    (stored,) = device.look().keys
    assert (stored.public, stored.private) == (key.public, key.private)
    with device.tpm.load(SRK, stored.public, stored.private) as loaded:
        assert loaded.public.blob == key.public


def test_key_pairs_made_by_others_work_and_go_away_again(device: Device, tmp_path: Path) -> None:
    device.create(device.key("ecc256"))
    message = tmp_path / "message"
    message.write_bytes(b"signed in the TPM")
    for at, (kind, mechanism) in enumerate(
        [("EC:prime256v1", "ECDSA-SHA256"), ("rsa:2048", "SHA256-RSA-PKCS-PSS")]
    ):
        named = ["--label", "theirs", "--id", f"0{at}"]
        device.tool("--keypairgen", "--key-type", kind, *named)
        use: list[str | Path] = ["--input-file", message, "--mechanism", mechanism, *named[2:]]
        device.tool("--sign", *use, "--output-file", tmp_path / "signature")
        verified = device.tool("--verify", *use, "--signature-file", tmp_path / "signature")
        assert "Signature is valid" in verified
        for half in ("privkey", "pubkey"):
            device.tool("--delete-object", "--type", half, *named[2:])
    assert [key.label for key in device.look().keys] == ["ldevid"]


@pytest.mark.parametrize("kind", KINDS)
def test_iotedges_key_service_uses_the_ldevid_and_keys_of_its_own(
    device: Device, kind: KeyType
) -> None:
    key = device.key(kind)
    device.create(key)
    serve(lambda service: service.generate_ec("est-id"))
    serve(lambda service: service.generate_rsa("device-id"))
    for label in ("ldevid", "est-id", "device-id"):
        use(label)
    assert serve(lambda service: numbers(service, "ldevid")) == numbers_of(key.key)


def serve(work: Callable[[cryptoki.Service], T]) -> T:
    """A life of the key service, short: the module keeps in the TPM what it ever loaded, and
    without a resource manager there is room for three."""
    with cryptoki.service(TOKEN, PINS.user) as service:
        return work(service)


def use(label: str) -> None:
    """Sign as the key service signs: digests with ECDSA, padded or raw blocks with RSA."""
    serve(lambda service: _use(service, label))


def _use(service: cryptoki.Service, label: str) -> None:
    hashed = Hash(SHA256())
    hashed.update(b"a message")
    digest = hashed.finalize()
    if service.key_type(label) == 3:
        public = point(service, label)
        signature = der(service.sign(label, cryptoki.ECDSA, digest))
        public.verify(signature, digest, ec.ECDSA(Prehashed(SHA256())))
        return
    modulus, exponent = numbers(service, label)
    info = bytes.fromhex("3031300d060960864801650304020105000420") + digest  # RFC 8017, 9.2
    block = b"\x00\x01" + b"\xff" * (253 - len(info)) + b"\x00" + info
    for mechanism, data in ((cryptoki.RSA_PKCS, info), (cryptoki.RSA_X509, block)):
        signature = service.sign(label, mechanism, data)
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        key.verify(signature, digest, padding.PKCS1v15(), Prehashed(SHA256()))


def point(service: cryptoki.Service, label: str) -> ec.EllipticCurvePublicKey:
    assert service.get(cryptoki.PUBLIC_KEY, label, cryptoki.EC_PARAMS) == cryptoki.P256
    octets = service.get(cryptoki.PUBLIC_KEY, label, cryptoki.EC_POINT)
    assert octets[:2] == b"\x04\x41"  # a DER OCTET STRING of 65 bytes
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), octets[2:])


def numbers(service: cryptoki.Service, label: str) -> tuple[int, int]:
    if service.key_type(label) == 3:
        public = point(service, label).public_numbers()
        return public.x, public.y
    wanted = (cryptoki.MODULUS, cryptoki.PUBLIC_EXPONENT)
    n, e = (service.get(cryptoki.PUBLIC_KEY, label, each) for each in wanted)
    return int.from_bytes(n, "big"), int.from_bytes(e, "big")


def numbers_of(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> tuple[int, int]:
    public = key.public_numbers()
    if isinstance(public, rsa.RSAPublicNumbers):
        return public.n, public.e
    return public.x, public.y


def test_others_keys_are_renamed_and_deleted_and_survive_an_exchange_of_the_ldevid(
    device: Device,
) -> None:
    device.create(device.key("ecc256"))
    serve(lambda service: service.generate_ec("est-id"))
    serve(lambda service: service.generate_ec("est-id-temp"))
    serve(lambda service: service.generate_ec("gone"))
    serve(lambda service: service.generate_rsa("device-id"))
    successor = serve(lambda service: numbers(service, "est-id-temp"))
    serve(lambda service: service.rename("est-id-temp", "est-id"))
    serve(lambda service: service.delete("gone"))
    theirs = [key for key in device.look().keys if key.label != "ldevid"]

    new = device.key("rsa2048")
    device.put(new)

    assert [key for key in device.look().keys if key.label != "ldevid"] == theirs
    assert {key.label for key in theirs} == {"est-id", "device-id"}
    assert device.look().holds("ldevid", new.public)
    assert serve(lambda service: numbers(service, "est-id")) == successor
    assert serve(lambda service: numbers(service, "ldevid")) == numbers_of(new.key)
    for label in ("est-id", "device-id", "ldevid"):
        use(label)


def test_a_key_exchanged_under_a_running_service_hurts_neither(device: Device) -> None:
    old, new = device.key("ecc256"), device.key("ecc256")
    device.create(old)
    with cryptoki.service(TOKEN, PINS.user) as service:
        device.put(new)
        service.generate_ec("est-id-temp")
        service.rename("est-id-temp", "est-id")
        assert numbers(service, "ldevid") == numbers_of(old.key)  # until it is restarted
    assert device.look().holds("ldevid", new.public)
    assert serve(lambda service: numbers(service, "ldevid")) == numbers_of(new.key)
    use("ldevid")
    use("est-id")


def test_a_wrong_pin_is_no_attack_on_the_tpm(device: Device) -> None:
    device.create(device.key("ecc256"))
    for _ in range(5):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            device.tool("--list-objects", pin="a wrong one")
        assert "CKR_PIN_INCORRECT" in refused.value.stderr
    device.tpm.flush(sorted(device.tpm.loaded()))  # a resource manager does this on a device
    assert "TPM2_PT_LOCKOUT_COUNTER: 0x0" in device.run("tpm2_getcap", "properties-variable")
    assert "ldevid" in device.tool("--list-objects")


def test_a_key_cannot_be_put_where_there_is_no_token(device: Device) -> None:
    key = device.key("ecc256")
    with pytest.raises(Later, match="not there"):
        device.put(key)
    assert not device.directory.exists()
    device.create()
    with pytest.raises(Later, match="no token 'another'"):
        pkcs11.put(device.directory, "another", key, below=device.tpm.serialized(SRK))


def test_a_name_the_module_would_cut_off_is_refused(device: Device) -> None:
    for label in ("", "t" * 32, "ä" * 16):
        with pytest.raises(ConfigError, match="1 to 31 bytes"):
            pkcs11.create(device.directory, device.tpm, SRK, label=label, pins=PINS, owner=ME)
    assert not device.directory.exists()
