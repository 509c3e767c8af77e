"""SMART Backend Services: an access token for a client that has a private key, and no user.

Source: hl7.org/fhir/smart-app-launch/backend-services.html and client-confidential-asymmetric.html; RFC 7523.
"""

import json
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ehrseq.core.errors import ConfigError
from ehrseq.sources.bulk.hosts import shown
from ehrseq.sources.bulk.http import Http
from ehrseq.sources.bulk.outcomes import plain

_ASSERTION_SECONDS = 240  # of 300 that the standard allows: clocks differ
_ASSUMED_SECONDS = 300
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_EXPECTED = "a private key, RSA (2048 bits or more) or EC P-384, as JWK or unencrypted PEM"


@dataclass(frozen=True)
class Signer:
    """A private key with its algorithm and id. It is never shown."""

    key: Any = field(repr=False)
    algorithm: str
    key_id: str | None

    @classmethod
    def load(cls, path: Path, key_id: str | None = None) -> "Signer":
        """Read a key. `key_id` names it at the server; a JWK has its own. Raises: ConfigError."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}. Expected {_EXPECTED}.") from error
        try:
            if content.lstrip().startswith(b"{"):
                chosen = _jwk(json.loads(content), key_id)
                key, key_id = (
                    jwt.PyJWK(chosen, algorithm=_algorithm_of(chosen)).key,
                    chosen.get("kid", key_id),
                )
            else:
                key = load_pem_private_key(content, None)
        except (ValueError, TypeError, KeyError, LookupError, jwt.PyJWTError):
            raise ConfigError(
                f"{path}: not a key that can sign. Expected {_EXPECTED}."
            ) from None  # may quote it
        if isinstance(key, RSAPrivateKey) and key.key_size >= 2048:
            return cls(key, "RS384", key_id)
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP384R1):
            return cls(key, "ES384", key_id)
        raise ConfigError(f"{path}: a key of another kind or size, or a public one. Expected {_EXPECTED}.")

    def assertion(self, client_id: str, audience: str) -> str:
        """A signed statement that we are this client, good once, for minutes."""
        now = int(time.time())
        claims = {
            "iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now + _ASSERTION_SECONDS,
            "jti": uuid.uuid4().hex,
        }  # fmt: skip
        headers = {"kid": self.key_id} if self.key_id else None
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers=headers)


def _jwk(content: dict[str, Any], key_id: str | None) -> dict[str, Any]:
    """The one private key of a JWK or a JWK set, or the one called `key_id`."""
    keys = [
        key
        for key in content.get("keys", [content])
        if "d" in key and key_id in (None, key.get("kid", key_id))
    ]
    if len(keys) != 1:
        raise LookupError
    found: dict[str, Any] = keys[0]
    return found


def _algorithm_of(key: dict[str, Any]) -> str:
    return {"RSA": "RS384", "EC": "ES384"}[key["kty"]]


class BackendTokens:
    """Access tokens of a client, fetched when first needed and again when they expire. Threads may share it."""

    def __init__(
        self, http: Http, base: str, client_id: str, signer: Signer, scope: str | None, types: Sequence[str]
    ) -> None:
        self._http, self._base, self._client_id, self._signer = http, base, client_id, signer
        self._scope, self._types = scope, types
        self._lock = threading.Lock()
        self._endpoint, self._token, self._until = "", "", 0.0

    def bearer(self, stale: str | None = None) -> str:
        """A token that is valid now, and is not `stale`. Raises: ConfigError, ServerError if there is none."""
        with self._lock:
            if not self._token or self._token == stale or self._http.clock.monotonic() >= self._until:
                self._renew()
            return self._token

    def _renew(self) -> None:
        if not self._endpoint:
            self._discover()
        answer = self._http.ask(
            "POST", self._endpoint, what="access token", authorised=False,
            headers={"Accept": "application/json"}, form=self._form,
        )  # fmt: skip
        told = _object(answer.body)
        token = told.get("access_token")
        if (
            answer.status != 200
            or not isinstance(token, str)
            or str(told.get("token_type")).lower() != "bearer"
        ):
            reason = plain(": ".join(str(told[key]) for key in ("error", "error_description") if key in told))
            raise ConfigError(
                f"{shown(self._endpoint)}: gives no access token ({answer.status}{', ' if reason else ''}{reason}). "
                "Check --client-id, --key, --key-id and --scope against the client's registration."
            )
        seconds = told.get("expires_in")
        seconds = float(seconds) if isinstance(seconds, int | float) else _ASSUMED_SECONDS
        self._token = token
        self._until = self._http.clock.monotonic() + seconds - min(30.0, seconds / 10)

    def _form(self) -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "scope": self._scope or "",
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._signer.assertion(self._client_id, self._endpoint),
        }

    def _discover(self) -> None:
        url = f"{self._base}/.well-known/smart-configuration"
        answer = self._http.ask(
            "GET", url, what="SMART configuration", headers={"Accept": "application/json"}, authorised=False
        )
        told = _object(answer.body) if answer.status == 200 else {}
        endpoint, algorithms = (
            told.get("token_endpoint"),
            told.get("token_endpoint_auth_signing_alg_values_supported"),
        )
        if not isinstance(endpoint, str):
            raise ConfigError(
                f"{url}: names no token_endpoint (answered {answer.status}). Without SMART Backend Services leave out "
                "--client-id."
            )
        if isinstance(algorithms, list) and self._signer.algorithm not in algorithms:
            raise ConfigError(
                f"{url}: the server takes keys for {plain(', '.join(map(str, algorithms)))}, this one is for "
                f"{self._signer.algorithm}. Register another key."
            )
        self._http.hosts.check(endpoint, "token endpoint")
        verb = "rs" if "permission-v2" in (told.get("capabilities") or []) else "read"
        self._scope = self._scope or " ".join(f"system/{kind}.{verb}" for kind in self._types or ("*",))
        self._endpoint = endpoint


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
