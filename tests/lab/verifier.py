"""A CA that issues IDevID certificates on TPM evidence: the other side of TCG-CSR-IDEVID.

TCG "TPM 2.0 Keys for Device Identity and Attestation", 1.0 revision 12, 6.2.2 and 13.1. Each link
has a reason of its own to refuse, and is looked at by code that shares nothing with the agent's.

What it cannot see: the ticket's HMAC is for the TPM that made it; so that the ticket is sound is
known by TPM2_CertifyCreation alone, which fails for any other. And a request bears no nonce: who
has seen one can send it again. So a request counts for nothing before its challenge is answered,
each challenge is good for one answer, and a request for one certificate.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from tests.lab import credential, tpm_wire
from tests.lab.tcg_request import Refused, Request, parse, signature_value
from tests.lab.tpm_wire import ENDORSEMENT, Area, Attest

EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
# 7.3.4, templates H-1 and H-2; the policies are as Keylime and others have them, too.
IDEVID_POLICY = bytes.fromhex("ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea")
IAK_POLICY = bytes.fromhex("5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07")
PRIMARY = ENDORSEMENT.to_bytes(4, "big")  # the name of a primary key's parent
IN_THIS_TPM = {"fixedTPM": True, "fixedParent": True, "sensitiveDataOrigin": True}
IAK = {**IN_THIS_TPM, "restricted": True, "sign": True, "decrypt": False}
IDEVID = {**IN_THIS_TPM, "restricted": False, "sign": True, "decrypt": False}


@dataclass(frozen=True)
class Claim:
    """What a request says, and nothing contradicts; true once its challenge is answered."""

    product: tuple[str, str]  # model, serial
    ek: x509.Certificate
    iak: Area
    idevid: Area
    request: bytes  # digest of csrContents


@dataclass
class Verifier:
    """The CA. `makers`: roots of TPM makers; `between`: their intermediates. `products`: models by
    serial number, as the factory has been told to build. `policy`: of IDevID keys, if it is not
    the TCG's, but the one that the factory gives them."""

    makers: Iterable[x509.Certificate]
    between: Iterable[x509.Certificate]
    products: Mapping[str, str]
    policy: bytes = IDEVID_POLICY
    _pending: dict[int, tuple[Claim, bytes]] = field(default_factory=dict)
    _issued: set[bytes] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def judge(self, data: bytes) -> Claim:
        """All that needs no TPM. Raises Refused."""
        request = parse(data)
        fields = request.fields
        idevid, iak = _area("idevid", fields["signingPub"]), _area("iak", fields["attestPub"])
        _signed_by(idevid, request)
        ek = self._ek(fields["ekCert"])
        _template("iak", iak, IAK, IAK_POLICY)
        _template("idevid", idevid, IDEVID, self.policy)
        _created(iak, fields)
        _certified(idevid, iak, fields)
        claim = Claim(self._product(fields), ek, iak, idevid, _digest(request.signed))
        self._not_issued(claim)
        return claim

    def challenge(self, data: bytes) -> tuple[int, bytes]:
        """A number, and the challenge to the TPM that the request says it is from."""
        claim, secret = self.judge(data), os.urandom(32)
        number = next(self._numbers)
        self._pending[number] = claim, secret
        key = claim.ek.public_key()
        assert isinstance(key, RSAPublicKey | EllipticCurvePublicKey)
        return number, credential.make(key, claim.iak.name, secret)

    def release(self, number: int, answer: bytes) -> Claim:
        """What a certificate may now be issued for. Raises Refused."""
        if (waiting := self._pending.pop(number, None)) is None:
            raise Refused("challenge-unknown", number)
        claim, secret = waiting
        if not hmac.compare_digest(answer, secret):
            raise Refused("answer-wrong")
        self._not_issued(claim)
        self._issued.add(claim.request)
        return claim

    def _not_issued(self, claim: Claim) -> None:
        if claim.request in self._issued:
            raise Refused("request-replayed")

    def _product(self, fields: Mapping[str, bytes]) -> tuple[str, str]:
        try:
            model, serial = (fields[each].decode("ascii") for each in ("prodModel", "prodSerial"))
        except UnicodeDecodeError as e:
            raise Refused("product", e) from e
        if self.products.get(serial) != model:
            raise Refused("product", f"{model}, {serial}")
        return model, serial

    def _ek(self, data: bytes) -> x509.Certificate:
        try:
            certificate = x509.load_der_x509_certificate(data)
            key, usage = certificate.public_key(), _usages(certificate)
        except (ValueError, x509.DuplicateExtension) as e:
            raise Refused("ek-certificate", e) from e
        if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
            raise Refused("ek-certificate", type(key))
        self._genuine(certificate)
        if EK_CERTIFICATE not in usage:
            raise Refused("ek-usage")
        return certificate

    def _genuine(self, certificate: x509.Certificate) -> None:
        """A chain to a maker; what is odd in EK certificates (an empty subject) is permitted."""
        builder = PolicyBuilder().store(Store(list(self.makers)))
        policies = {
            "ee_policy": ExtensionPolicy.permit_all(),
            "ca_policy": ExtensionPolicy.webpki_defaults_ca(),
        }
        try:
            verifier = builder.extension_policies(**policies).build_client_verifier()
            verifier.verify(certificate, list(self.between))
        except VerificationError as e:
            raise Refused("ek-untrusted", e) from e


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _area(which: str, data: bytes) -> Area:
    try:
        return tpm_wire.area(data)
    except ValueError as e:
        raise Refused(f"{which}-public", e) from e


def _template(which: str, area: Area, attributes: Mapping[str, bool], policy: bytes) -> None:
    for attribute, wanted in attributes.items():
        if area.has(attribute) != wanted:
            raise Refused(f"{which}-attributes", f"{attribute} is {not wanted}")
    if area.policy != policy:
        raise Refused(f"{which}-policy", area.policy.hex())
    if which == "iak" and area.scheme.hash is None:
        raise Refused("iak-scheme")  # part 2, 12.2.3.6: restricted signing keys have one


def _signed_by(idevid: Area, request: Request) -> None:
    value = signature_value(request.signature, of_rsa=isinstance(idevid.key, RSAPublicKey))
    try:
        if isinstance(idevid.key, rsa.RSAPublicKey):
            idevid.key.verify(value, request.signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            idevid.key.verify(value, request.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as e:
        raise Refused("request-signature") from e


def _created(iak: Area, fields: Mapping[str, bytes]) -> None:
    """The IAK says that it was made in its TPM (TPM2_CertifyCreation)."""
    said = _attested("creation", iak, fields["atCertifyInfo"], fields["atCertifyInfoSignature"])
    _about("creation", said, tpm_wire.CREATION, iak)
    try:
        hierarchy = tpm_wire.ticket(fields["atCreateTkt"])
    except ValueError as e:
        raise Refused("creation-ticket", e) from e
    if hierarchy != ENDORSEMENT:
        raise Refused("creation-ticket", hex(hierarchy))


def _certified(idevid: Area, iak: Area, fields: Mapping[str, bytes]) -> None:
    """The IAK says that the IDevID key is in its TPM, and a primary key of the endorsement
    hierarchy: its qualified name tells it from a public key that was merely loaded."""
    said = _attested("certify", iak, fields["sgnCertifyInfo"], fields["sgnCertifyInfoSignature"])
    _about("certify", said, tpm_wire.CERTIFY, idevid)
    if said.detail != idevid.qualified(PRIMARY):
        raise Refused("certify-qualified-name", said.detail.hex())


def _attested(which: str, iak: Area, info: bytes, signature: bytes) -> Attest:
    try:
        said, signed = tpm_wire.attest(info), tpm_wire.signature(signature)
        if signed.scheme != iak.scheme:
            raise InvalidSignature
        signed.verify(iak.key, info)
    except ValueError as e:
        raise Refused(f"{which}-structure", e) from e
    except InvalidSignature as e:
        raise Refused(f"{which}-signature") from e
    if said.magic != tpm_wire.GENERATED:
        raise Refused(f"{which}-magic", hex(said.magic))
    if said.signer != iak.qualified(PRIMARY):
        raise Refused(f"{which}-signer", said.signer.hex())
    return said


def _about(which: str, said: Attest, kind: int, key: Area) -> None:
    if said.type != kind:
        raise Refused(f"{which}-type", hex(said.type))
    if said.name != key.name:
        raise Refused(f"{which}-name", said.name.hex())


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
