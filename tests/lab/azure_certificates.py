"""CA certificates of the lab's provisioning services, and the proof that a key is had for them.

A certificate is uploaded unverified; who has its key issues a certificate for the verification
code, and that verifies it. Who manages the subscription may as well say `isVerified`.
"""

import base64
import os
from email.utils import formatdate
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.lab.azure_store import Document, Store, change, new_etag, shown
from tests.lab.azure_wire import Error, Reply, Request, Script

HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"


class Certificates:
    """Those of each service, by name."""

    def __init__(self, script: Script, store: Store) -> None:
        self._script, self._store = script, store

    def answer(
        self, request: Request, service: Document, name: str | None, act: str | None
    ) -> Reply:
        at = f"{service['id']}/certificates"
        if name is None:
            every = [shown(body) for _, body in self._store.below("resource", f"{at}/".lower())]
            return Reply(200, {"value": every})
        there = self._store.get("resource", f"{at}/{name}")
        if request.method == "PUT" and act is None:
            return self._put(request, f"{at}/{name}", there)
        if there is None:
            if request.method == "DELETE":
                return Reply(204)
            raise Error(404, "NotFound", f"The certificate '{name}' could not be found.")
        ways = {("GET", ""): self._get, ("DELETE", ""): self._delete}
        ways |= {("POST", "generateverificationcode"): self._code, ("POST", "verify"): self._verify}
        way = ways.get((request.method, (act or "").lower()))
        if way is None:
            raise Error(405, "MethodNotAllowed", f"{request.method} is not allowed here.")
        return way(request, there)

    def _get(self, request: Request, there: Document) -> Reply:
        return Reply(200, shown(there))

    def _put(self, request: Request, key: str, there: Document | None) -> Reply:
        asked = request.json().get("properties") or {}
        certificate = loaded(asked.get("certificate"))
        if there is not None:
            matched(request, there)
        elif request.etag is not None:
            raise Error(412, "PreconditionFailed", "There is no certificate of this name.")
        properties = described(certificate)
        was = there["properties"] if there else {}
        same = was.get("thumbprint") == properties["thumbprint"]
        verified = asked.get("isVerified") if not self._script.wish.unproven else None
        properties["isVerified"] = was.get("isVerified") if verified is None and same else verified
        properties["isVerified"] = bool(properties["isVerified"])
        properties["created"] = was.get("created", formatdate(usegmt=True))
        new: Document = {"id": key, "name": key.rpartition("/")[2], "properties": properties}
        new |= {"type": "Microsoft.Devices/ProvisioningServices/Certificates"}
        return self._kept(request, there, new)

    def _kept(self, request: Request, there: Document | None, new: Document) -> Reply:
        old = None
        if there is not None:
            properties = {n: v for n, v in there["properties"].items() if n != "updated"}
            old = {n: v for n, v in there.items() if n != "etag"} | {"properties": properties}
        request.log["change"] = change(old, new)
        if there is not None and request.log["change"] == "same":
            return Reply(200, shown(there))
        new["properties"]["updated"] = formatdate(usegmt=True)
        new |= {"etag": new_etag(), "lab": {"keys": [], "code": None}}
        self._store.put("resource", new["id"], new)
        return Reply(200, shown(new))

    def _delete(self, request: Request, there: Document) -> Reply:
        matched(request, there)
        self._store.delete("resource", there["id"])
        request.log["change"] = "delete"
        return Reply(200)

    def _code(self, request: Request, there: Document) -> Reply:
        matched(request, there)
        there["lab"]["code"] = os.urandom(24).hex().upper()
        there["etag"] = new_etag()
        self._store.put("resource", there["id"], there)
        request.log["change"] = "update"
        code = {"verificationCode": there["lab"]["code"]}
        return Reply(200, shown(there) | {"properties": there["properties"] | code})

    def _verify(self, request: Request, there: Document) -> Reply:
        matched(request, there)
        proof = loaded(request.json().get("certificate"))
        issuer = loaded(there["properties"]["certificate"])
        names = [str(n.value) for n in proof.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if there["lab"]["code"] is None or names != [there["lab"]["code"]]:
            raise Error(400, "BadRequest", "The subject is not the verification code.")
        try:
            proof.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError) as e:
            raise Error(400, "BadRequest", "Not issued with the certificate's key.") from e
        there["properties"] |= {"isVerified": True, "updated": formatdate(usegmt=True)}
        there["lab"]["code"], there["etag"] = None, new_etag()
        self._store.put("resource", there["id"], there)
        request.log["change"] = "update"
        return Reply(200, shown(there))


def loaded(text: object) -> x509.Certificate:
    """From base64 of DER or PEM, or PEM as such. Raises 400."""
    if not isinstance(text, str) or not text:
        raise Error(400, "InvalidRequestContent", "There is no certificate.")
    try:
        data = text.encode() if text.lstrip().startswith("-----") else base64.b64decode(text)
        if data.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as e:
        raise Error(400, "BadRequest", f"That is no certificate: {e}") from e


def described(certificate: x509.Certificate) -> dict[str, Any]:
    """Raises 400 for what is no CA."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        basic = x509.BasicConstraints(ca=False, path_length=None)
    if not basic.ca:
        raise Error(400, "BadRequest", "The certificate is not one of a CA.")
    der = certificate.public_bytes(Encoding.DER)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "expiry": certificate.not_valid_after_utc.strftime(HTTP_DATE),
        "thumbprint": certificate.fingerprint(hashes.SHA1()).hex().upper(),  # noqa: S303
        "certificate": base64.b64encode(der).decode(),
    }


def matched(request: Request, there: Document) -> None:
    """Raise 412 unless If-Match is there and is the certificate's ETag."""
    if request.etag not in ("*", there["etag"]):
        raise Error(412, "PreconditionFailed", "The If-Match header is not the current ETag.")
