"""The escrow: all passwords that are kept, in a file that the owner of the device alone can open.

`openssl cms -decrypt -inform DER -in escrow.cms -inkey KEY` prints it: "device=ID", then a line for
each password, "NAME=PASSWORD", NAME being that of the credential which it can be given as.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agent import cms, store
from agent.authorization.kept import Kept, directory
from agent.errors import EscrowUnusable
from agent.state import State, read_json, write_json

LEAST_RSA = 2048  # bits
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
LARGEST = 64 * 1024  # bytes
ASIDE = "escrow-"  # how the names of those begin that are laid aside
Key = tuple[cms.Recipient, bytes]


def file(state: State) -> Path:
    return directory(state) / "escrow.cms"


def _about(state: State) -> Path:
    """Whose it is, and what is in it: digests of the files that the same is kept in here."""
    return directory(state) / "escrow.json"


def recipient(path: Path) -> tuple[cms.Recipient, bytes]:
    """The owner's key and its identifier; PEM, a public key or a certificate. Raises
    EscrowUnusable, NoPermission, PathUnusable."""
    data = store.read(path, LARGEST)
    try:
        if data is None:
            raise ValueError("there is no such file")
        if b"PRIVATE KEY" in data:
            raise ValueError("there is a private key in it, which must not be on any device")
        key, name = _of_certificate(data) if b"CERTIFICATE" in data else _of_key(data)
        return _strong(key), name
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as e:
        raise EscrowUnusable(f"cannot use '{path}' for the escrow: {e}", path=path) from e


def _of_key(data: bytes) -> tuple[object, bytes]:
    key = load_pem_public_key(data)
    return key, cms.key_id(_strong(key))


def _of_certificate(data: bytes) -> tuple[object, bytes]:
    certificate = x509.load_pem_x509_certificate(data)
    key = certificate.public_key()
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return key, found.value.digest
    except x509.ExtensionNotFound:
        return key, cms.key_id(_strong(key))


def _strong(key: object) -> cms.Recipient:
    if isinstance(key, RSAPublicKey) and key.key_size >= LEAST_RSA:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, CURVES):
        return key
    raise ValueError("the key is neither RSA of 2048 bits or more nor EC of P-256, P-384, P-521")


def covers(state: State, kept: Kept, names: list[str], key: Key) -> bool:
    """It is there, for this key, and what is in it is what is kept for these hierarchies."""
    data, about = store.read(file(state)), read_json(_about(state)) or {}
    told = _told(data or b"", kept, names, key)
    return data is not None and told == {name: about.get(name) for name in told}


def write(state: State, kept: Kept, passwords: Mapping[str, bytes], who: str, key: Key) -> None:
    """For the passwords that are kept by now."""
    lines = [f"device={who}".encode()]
    lines += [f"tpm-{name}-auth=".encode() + value for name, value in passwords.items()]
    data = cms.enveloped(*key, b"\n".join(lines) + b"\n")
    store.write(file(state), data)
    told = _told(data, kept, list(passwords), key)
    if (lockout := passwords.get("lockout")) is not None:
        told["lockout"] = _lockout(kept, lockout)
    write_json(_about(state), told)


def is_lockout(state: State, kept: Kept, password: bytes) -> bool:
    """It is the one in the escrow, of this TPM, not cleared since; the TPM cannot be asked, which
    takes no second try. By its digest: 128 random bits are not guessed. Where that is lost, it must
    be the one that is kept. Raises as Kept.open."""
    if (told := (read_json(_about(state)) or {}).get("lockout")) is None:
        return kept.open("lockout") == password
    return bool(told == _lockout(kept, password))


def _lockout(kept: Kept, password: bytes) -> str:
    return _digest(kept.tpm.likeness().encode() + password)


def _told(data: bytes, kept: Kept, names: list[str], key: Key) -> dict[str, object]:
    files = {
        name: [_digest(store.read(path) or b"") for path in kept.files(name)] for name in names
    }
    return {"file": _digest(data), "recipient": key[1].hex(), "kept": files}


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def lay_aside(state: State) -> None:
    """What is in it is of another TPM, which has these passwords still, and may come back: nobody
    else here knows them, and none but the owner reads it. Named by its digest; nothing removes
    it."""
    if (data := store.read(file(state))) is not None:
        store.write(directory(state) / f"{ASIDE}{_digest(data)[:8]}.cms", data)


def is_aside(name: str) -> bool:
    return name.startswith(ASIDE)
