"""Entra ID of the lab: OpenID discovery, tokens for client credentials, and what a token is worth.

As the Microsoft identity platform (OAuth 2.0 client credentials flow with a shared secret) words
it, errors and their AADSTS numbers included. The tokens are JWTs, signed with a key of its own.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import time
import uuid
from typing import Any
from urllib.parse import parse_qsl

from tests.lab.azure_wire import Error, Reply, Request, Script

PATHS = re.compile(
    r"/([^/]+)/(v2\.0/\.well-known/openid-configuration|oauth2/v2\.0/token)", re.IGNORECASE
)
MANAGEMENT, SERVICE = "https://management.azure.com", "https://azure-devices-provisioning.net"


class Entra:
    """One tenant with one application, in `settings`: port, tenant, client_id, client_secret."""

    def __init__(self, settings: dict[str, Any], script: Script) -> None:
        self._tenant, self._client = settings["tenant"], settings["client_id"]
        self._secret, self._script = settings["client_secret"], script
        self._at = f"https://localhost:{settings['port']}"
        # Who names the lab itself as the resource means its Resource Manager.
        self._audiences = {MANAGEMENT: MANAGEMENT, SERVICE: SERVICE, self._at: MANAGEMENT}
        self._key = os.urandom(32)

    def answer(self, request: Request) -> Reply | None:
        """None for what is not asked of Entra ID."""
        found = PATHS.fullmatch(request.path)
        if found is None:
            return None
        if found[1].lower() != self._tenant:
            return refusal(400, "invalid_request", 90002, f"Tenant '{found[1]}' not found.")
        if found[2].lower().endswith("token"):
            return self._token(request)
        return Reply(200, self._configuration())

    def _configuration(self) -> dict[str, Any]:
        at = f"{self._at}/{self._tenant}"
        return {
            "issuer": f"{at}/v2.0",
            "authorization_endpoint": f"{at}/oauth2/v2.0/authorize",
            "token_endpoint": f"{at}/oauth2/v2.0/token",
            "jwks_uri": f"{at}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["code", "token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _token(self, request: Request) -> Reply:
        form = dict(parse_qsl(request.body.decode()))
        if request.method != "POST" or form.get("grant_type") != "client_credentials":
            words = "The grant type is not supported over this endpoint."
            return refusal(400, "unsupported_grant_type", 70003, words)
        if form.get("client_id") != self._client:
            words = f"Application with identifier '{form.get('client_id')}' was not found."
            return refusal(400, "unauthorized_client", 700016, words)
        if not hmac.compare_digest(form.get("client_secret", "").encode(), self._secret.encode()):
            return refusal(401, "invalid_client", 7000215, "Invalid client secret provided.")
        resource = (form.get("scope") or "").split(" ")[0].removesuffix("/.default").rstrip("/")
        if resource not in self._audiences:
            words = f"The resource principal named {resource} was not found in the tenant."
            return refusal(400, "invalid_resource", 500011, words)
        return self._given(self._audiences[resource])

    def _given(self, audience: str) -> Reply:
        life, now = self._script.follow().token_life, time.time()
        claims = {"aud": audience, "iss": f"{self._at}/{self._tenant}/v2.0", "appid": self._client}
        claims |= {"iat": now, "nbf": now, "exp": now + life, "tid": self._tenant}
        text = ".".join(map(_encoded, (_json({"typ": "JWT", "alg": "HS256"}), _json(claims))))
        token = f"{text}.{_encoded(self._signature(text))}"
        words = {"token_type": "Bearer", "expires_in": life, "ext_expires_in": life}
        return Reply(200, {**words, "access_token": token}, {"Cache-Control": "no-store"})

    def _signature(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), hashlib.sha256)

    def verdict(self, header: str | None, audience: str) -> str:
        """In a few words why this `Authorization` is refused, or "good"."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or token.count(".") != 2:
            return "missing"
        text, _, signature = token.rpartition(".")
        if not hmac.compare_digest(_encoded(self._signature(text)).encode(), signature.encode()):
            return "signature"
        claims = json.loads(_decoded(text.partition(".")[2]))
        if claims["aud"] != audience:
            return "audience"
        revoked = claims["iat"] < self._script.wish.revoked
        return "expired" if revoked or claims["exp"] <= time.time() else "good"

    def admit(self, request: Request) -> None:
        """Raise 401 unless the request comes from somebody known to Resource Manager."""
        verdict = self.verdict(request.headers.get("Authorization"), MANAGEMENT)
        if verdict == "good":
            return
        challenge = f'Bearer authorization_uri="{self._at}/{self._tenant}", error="invalid_token"'
        codes = {"missing": "AuthenticationFailed", "expired": "ExpiredAuthenticationToken"}
        words = {
            "missing": "Authentication failed. The 'Authorization' header is missing or invalid.",
            "expired": "The access token expiry UTC time is earlier than current UTC time.",
            "audience": "The access token has been obtained for wrong audience or resource.",
            "signature": "The access token is invalid.",
        }
        code = codes.get(verdict, "InvalidAuthenticationToken")
        raise Error(401, code, words[verdict], {"WWW-Authenticate": challenge})


def refusal(status: int, error: str, number: int, words: str) -> Reply:
    trace = f"Trace ID: {uuid.uuid4()}"
    told = {"error": error, "error_description": f"AADSTS{number}: {words} {trace}"}
    return Reply(status, {**told, "error_codes": [number], "trace_id": trace})


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _encoded(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
