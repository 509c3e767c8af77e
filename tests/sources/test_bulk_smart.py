"""SMART Backend Services: the key signs, the token is renewed, and neither is seen where it does not belong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bulk_import import fill, imported, jwk, stored
from bulk_server import BulkServer, Handler, status
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ehrseq.core import progress
from ehrseq.core.errors import ConfigError

RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def server() -> Iterator[BulkServer]:
    with BulkServer(needs_token=True, keys={"k1": RSA.public_key(), "k2": EC.public_key()}) as running:
        yield running
        assert running.complaints == []


@pytest.fixture
def key(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "key.jwk"
    path.write_text(json.dumps(jwk(EC, kid="k2")))
    return {"client_id": "ehrseq-test", "key": path}


@pytest.mark.parametrize(
    ("text", "key_id"),
    [
        (json.dumps(jwk(RSA, kid="k1", alg="RS384")), None),
        (json.dumps(jwk(EC, kid="k2")), None),
        (json.dumps({"keys": [jwk(RSA.public_key(), kid="k1"), jwk(EC, kid="k2")]}), None),
        (json.dumps({"keys": [jwk(RSA, kid="k1"), jwk(EC, kid="k2")]}), "k1"),
        (pem(RSA), "k1"),
        (pem(EC), "k2"),
    ],
    ids=["rsa", "ec", "set", "named", "rsa pem", "ec pem"],
)
def test_every_form_of_key(server: BulkServer, tmp_path: Path, text: str, key_id: str | None):
    fill(server)
    (tmp_path / "key").write_text(text)
    result = imported(
        server, tmp_path / "fhir", client_id="ehrseq-test", key=tmp_path / "key", key_id=key_id,
        types=["Patient"],
    )  # fmt: skip
    assert len(stored(result.out)) == 3
    assert server.count("POST /token") == 1  # for kick-off, status, file and delete


def test_scopes_of_both_versions(server: BulkServer, tmp_path: Path, key: dict[str, Any]):
    fill(server)
    imported(server, tmp_path / "1", **key)
    server.capabilities = ("permission-v1",)
    imported(server, tmp_path / "2", **key, types=["Patient", "Observation"])
    server.fail("POST /token", _scope_is("system/Patient.read"))
    imported(server, tmp_path / "3", **key, scope="system/Patient.read")


def _scope_is(wanted: str) -> Any:
    def fault(handler: Handler) -> bool:
        assert f"scope={wanted.replace('/', '%2F')}" in handler.form
        return False

    return fault


@pytest.mark.parametrize("where", ["GET .*export", "GET /status", "GET /files", "DELETE"])
def test_a_token_that_expires_is_renewed(server: BulkServer, tmp_path: Path, key: dict[str, Any], where: str):
    def expires(handler: Handler) -> bool:
        handler.bulk.tokens.clear()
        return False

    fill(server)
    server.fail(where, expires)
    result = imported(server, tmp_path / "fhir", **key)
    assert stored(result.out) == server.present()
    assert server.count("POST /token") == 2
    assert server.jobs == {}


def test_a_token_is_renewed_before_it_expires(server: BulkServer, tmp_path: Path, key: dict[str, Any]):
    fill(server)
    server.token_seconds = 0
    imported(server, tmp_path / "1", **key)
    assert server.count("POST /token") == len(server.seen("export|status|files"))
    server.token_seconds = None
    asked = server.count("POST /token")
    imported(server, tmp_path / "2", **key)
    assert server.count("POST /token") == asked + 1


def test_a_refusal_says_what_to_check(server: BulkServer, tmp_path: Path, key: dict[str, Any]):
    refused = {"error": "invalid_client", "error_description": "unknown\nclient"}
    server.fail("POST /token", status(400, refused))
    with pytest.raises(ConfigError, match=r"invalid_client: unknown client.*--client-id"):
        imported(server, tmp_path / "fhir", **key)
    server.fail("GET .*export", status(401), 2)
    with pytest.raises(ConfigError, match="answered 401"):
        imported(server, tmp_path / "fhir", **key)
    server.fail("GET .*smart", status(404))
    with pytest.raises(ConfigError, match="no token_endpoint"):
        imported(server, tmp_path / "fhir", **key)
    configuration = {"token_endpoint": "https://elsewhere.test/token"}
    server.fail("GET .*smart", status(200, configuration))
    with pytest.raises(
        ConfigError, match=r"elsewhere.test, which is not allowed.*--allow-host elsewhere.test"
    ):
        imported(server, tmp_path / "fhir", **key)
    configuration = {"token_endpoint_auth_signing_alg_values_supported": ["RS384"], "token_endpoint": "x"}
    server.fail("GET .*smart", status(200, configuration))
    with pytest.raises(ConfigError, match="for RS384, this one is for ES384"):
        imported(server, tmp_path / "fhir", **key)
    server.fail("POST /token", status(307, Location="https://elsewhere.test/token"))
    with pytest.raises(ConfigError, match="redirects a POST"):
        imported(server, tmp_path / "fhir", **key)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "{}",
        json.dumps(jwk(RSA.public_key())),
        json.dumps({"keys": [jwk(RSA), jwk(EC)]}),
        json.dumps({**jwk(RSA), "d": "c2VjcmV0"}),
        pem(rsa.generate_private_key(65537, 1024)),
        pem(ec.generate_private_key(ec.SECP256R1())),
        json.dumps({"kty": "oct", "k": "c2VjcmV0", "d": "x"}),
    ],
    ids=["text", "empty", "public", "two", "damaged", "short", "curve", "symmetric"],
)
def test_a_key_that_will_not_do_is_named_and_not_quoted(server: BulkServer, tmp_path: Path, text: str):
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match=r"Expected a private key, RSA") as raised:
        imported(server, tmp_path / "fhir", client_id="ehrseq-test", key=tmp_path / "key")
    assert "c2VjcmV0" not in str(raised.value)
    assert server.asked == []


def test_secrets_are_neither_logged_nor_kept(
    server: BulkServer, tmp_path: Path, key: dict[str, Any], capsys: pytest.CaptureFixture[str], caplog: Any
):
    fill(server)
    server.polls_needed = 1
    progress.set_quiet(False)
    caplog.set_level("INFO")
    result = imported(server, tmp_path / "fhir", **key)
    said = capsys.readouterr()
    seen = said.out + said.err + caplog.text + repr(result)
    seen += "".join(path.read_bytes().decode("latin1") for path in result.out.rglob("*") if path.is_file())
    assert "the server prepares it, 40%" in seen
    secrets = [*server.tokens, *server.nonces, "sig=", jwk(EC)["d"], "Secret"]
    assert [secret for secret in secrets if secret in seen] == []
