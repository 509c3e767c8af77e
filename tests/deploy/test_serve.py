"""`ehrseq serve`: real HTTP; a token is asked for, size is limited, nothing of a patient is logged."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn

import ehrseq
from ehrseq.core import progress
from ehrseq.core.errors import ConfigError
from ehrseq.deploy.pipeline import Outcome
from ehrseq.deploy.registry import find_model
from ehrseq.deploy.serve import app, bundle_of, serve
from ehrseq.deploy.warm import Warm, one_patient

SECRET = "a-long-enough-secret"
MOST = 3_000_000


@dataclass
class Served:
    url: str
    hooks: dict[str, dict[str, Any]]  # patient-view requests by patient id
    living: list[str]

    def post(self, body: Any, token: str | None = SECRET) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(f"{self.url}/cds-services/tiny", content=content, headers=headers, timeout=120)


@pytest.fixture(scope="module")
def served(whole: Outcome, registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    ehrseq.export_fhir(whole.out / "fhir", folder / "all", form="bundles")
    people = [
        path
        for path in sorted((folder / "all").rglob("*.json"))
        if '"resourceType":"Patient"' in path.read_text()
    ]
    hooks = {path.stem: hook_of(json.loads(path.read_text())) for path in people[:12]}
    dead = set(pl.read_parquet(whole.out / "timeline/data/*.parquet").filter(code="MEDS_DEATH")["subject_id"])
    living = [name for name in hooks if int(name.rpartition(".")[2]) not in dead]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    application = app(Warm(find_model("tiny", registered)), token=SECRET, most_bytes=MOST)
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    while not server.started:
        time.sleep(0.02)
    assert httpx.get(f"{url}/health", timeout=120).json() == {"status": "alive"}
    while httpx.get(f"{url}/ready", timeout=120).status_code != 200:
        time.sleep(0.1)
    yield Served(url, hooks, living)
    server.should_exit = True
    thread.join()


def hook_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """A patient-view request with a patient's resources prefetched by type."""
    by_type: dict[str, list[dict[str, Any]]] = {}
    for entry in bundle["entry"]:
        by_type.setdefault(entry["resource"]["resourceType"], []).append({"resource": entry["resource"]})
    (patient,) = by_type.pop("Patient")
    prefetch: dict[str, Any] = {"patient": patient["resource"]}
    prefetch |= {
        kind: {"resourceType": "Bundle", "type": "searchset", "entry": rows} for kind, rows in by_type.items()
    }
    return {"hook": "patient-view", "hookInstance": "1", "context": {}, "prefetch": prefetch}


def test_discovery_names_one_patient_view_service_with_its_prefetch(served: Served):
    answer = httpx.get(
        f"{served.url}/cds-services", headers={"Authorization": f"Bearer {SECRET}"}, timeout=120
    )
    (service,) = answer.json()["services"]
    assert (service["hook"], service["id"]) == ("patient-view", "tiny")
    assert service["prefetch"]["patient"] == "Patient/{{context.patientId}}"


@pytest.mark.parametrize("token", [None, "wrong", SECRET + "x"])
def test_without_the_token_nothing_is_answered(served: Served, token: str | None):
    answer = served.post(served.hooks[served.living[0]], token)
    assert answer.status_code == 401
    assert "cards" not in answer.json()
    assert httpx.get(f"{served.url}/cds-services", timeout=120).status_code == 401


def test_a_card_says_what_a_batch_would_say(served: Served, whole: Outcome, registered: Path, tmp_path: Path):
    name = served.living[0]
    told = served.post(served.hooks[name]).json()["cards"]
    batch = ehrseq.predict("tiny", whole.out, tmp_path, at="now", models=registered).result.out
    mine = pl.read_parquet(batch / "predictions.parquet").filter(subject_id=int(name.rpartition(".")[2]))
    assert {card["summary"].split(": ")[0] for card in told if ": " in card["summary"]} == {
        task.replace("_", " ") for task in mine["task"]
    }
    record = bundle_of(served.hooks[name])
    (warm,) = Warm(find_model("tiny", registered)).answer([record])
    scores = {row["task"]: row["score"] for row in warm.predictions}
    assert all(np.isclose(scores[row["task"]], row["score"], atol=1e-5) for row in mine.to_dicts())
    for card in told:
        assert card["indicator"] in ("info", "warning")
        assert len(card["summary"]) <= 140
        assert "not a medical device" in card["source"]["label"]


def test_many_at_once_each_get_their_own(served: Served):
    alone = {name: served.post(served.hooks[name]).json() for name in served.living[:2]}
    with ThreadPoolExecutor(8) as pool:
        together = dict(
            zip(
                served.hooks,
                pool.map(lambda name: served.post(served.hooks[name]).json(), served.hooks),
                strict=True,
            )
        )
    assert all(together[name] == told for name, told in alone.items())
    assert all("cards" in told for told in together.values())


def test_what_is_wrong_is_said_without_quoting_it(served: Served):
    one, other = (served.hooks[name] for name in served.living[:2])
    two = json.loads(json.dumps(one))
    two["prefetch"]["Observation"]["entry"] += other["prefetch"]["Observation"]["entry"]
    two["prefetch"]["another"] = other["prefetch"]["patient"]
    answer = served.post(two)
    assert answer.status_code == 400
    assert "2 Patient resources" in answer.json()["error"]
    assert other["prefetch"]["patient"]["id"] not in answer.text
    assert served.post(b"{").status_code == 400
    assert served.post({"hook": "order-sign"}).status_code == 400
    assert "reads nothing by itself" in served.post({"hook": "patient-view"}).json()["error"]
    assert served.post(b" " * (MOST + 1)).status_code == 413
    assert httpx.get(f"{served.url}/ready", timeout=120).status_code == 200


def test_nothing_of_a_patient_is_logged(served: Served, capsys: pytest.CaptureFixture[str]):
    progress.set_quiet(False)
    name = served.living[0]
    served.post(served.hooks[name])
    httpx.get(f"{served.url}/Patient/{name}", headers={"Authorization": f"Bearer {SECRET}"}, timeout=120)
    progress.set_quiet(True)
    said = capsys.readouterr().err
    assert '"status": 200' in said
    assert '"path": "(unknown)", "status": 404' in said
    assert name not in said
    assert SECRET not in said


def test_it_does_not_start_open_to_the_world(registered: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EHRSEQ_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="EHRSEQ_TOKEN"):
        serve("tiny", models=registered)
    with pytest.raises(ConfigError, match="anybody could read"):
        serve("tiny", models=registered, host="0.0.0.0", open_to_all=True)


def test_a_record_of_nothing_known_gets_no_prediction(registered: Path):
    patient = {"resourceType": "Patient", "id": "p", "birthDate": "1990-01-01"}
    warm = Warm(find_model("tiny", registered))
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}]}
    (empty,) = warm.answer([json.dumps(bundle).encode()])
    assert empty.predictions == []
    assert one_patient(json.dumps(bundle).encode()).patient == "p"
