"""Records for a Bulk Data server, an import from it, and what is in the store then."""

import json
from pathlib import Path
from typing import Any

import jwt
import polars as pl
from bulk_server import BulkServer
from cryptography.hazmat.primitives.asymmetric import rsa

import ehrseq
from ehrseq.sources.bulk.waiting import Clock


def patient(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "birthDate": "1980-01-02", **more}


def sodium(name: str, of: str, value: float = 140) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "id": name, "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2951-2"}]},
        "subject": {"reference": f"Patient/{of}"}, "effectiveDateTime": "2020-01-01T08:00:00Z",
        "valueQuantity": {"value": value, "unit": "mmol/L"},
    }  # fmt: skip


def fill(server: BulkServer, patients: int = 3) -> None:
    for number in range(patients):
        server.put(**patient(f"p{number}"))
        server.put(**sodium(f"o{number}", f"p{number}"))
    server.put(resourceType="Organization", id="ward")


def imported(server: BulkServer, out: Path, level: str = "", **options: Any) -> Any:
    clock = options.pop("clock", None) or Clock(sleep=lambda _: None)
    return ehrseq.import_bulk(server.url + level, out, clock=clock, **options)


def stored(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path.parent.name, row["id"]): json.loads(row["_json"])
        for path in out.glob("[A-Z]*/*.parquet")
        for row in pl.read_parquet(path).to_dicts()
    }


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "run.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    kind = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey)
        else jwt.algorithms.ECAlgorithm
    )
    return {**kind.to_jwk(key, as_dict=True), **more}
