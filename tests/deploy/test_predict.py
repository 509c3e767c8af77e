"""`ehrseq predict`: the numbers of training, reasons that exist, abstention, and FHIR that a server takes twice."""

import json
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fhir.resources.R4B import get_fhir_model_class
from fhir_server import FhirServer, fhir_server
from tiny_run import TASKS

import ehrseq
from ehrseq.core.errors import ConfigError, EhrseqError, ModelError, SchemaError
from ehrseq.deploy.fitting import MODEL
from ehrseq.deploy.pipeline import Outcome
from ehrseq.deploy.registry import find_model
from ehrseq.deploy.send import ServerError, TryAgainError, send
from ehrseq.evaluation.schema import Prediction

RECORDED = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def batch(whole: Outcome, registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All patients of the run's own timeline, asked when the tasks ask."""
    out = tmp_path_factory.mktemp("batch")
    ehrseq.predict("tiny", whole.out, out, form="fhir", models=registered, recorded=RECORDED)
    return out / "predictions"


def patient_bundle(whole: Outcome, folder: Path, patients: int = 1) -> Path:
    """The first patients of the run as Bundles, in a folder."""
    ehrseq.export_fhir(whole.out / "fhir", folder / "all", form="bundles")
    files = sorted((folder / "all").rglob("*.json"))
    people = [path for path in files if '"resourceType":"Patient"' in path.read_text()][:patients]
    (folder / "given").mkdir()
    for path in people:
        (folder / "given" / path.name).write_bytes(path.read_bytes())
    return folder / "given"


def test_it_says_what_the_run_said_of_its_held_out_patients(batch: Path, whole: Outcome):
    """Same model, same tokens, same moments: the scores of `ehrseq run`, to the last bits of a float."""
    ours = pl.read_parquet(batch / "predictions.parquet")
    Prediction.check(ours.select(*Prediction.polars_schema()))
    theirs = pl.read_parquet(whole.out / "predictions/held_out.parquet").filter(model=MODEL)
    both = theirs.join(ours, on=["subject_id", "prediction_time", "task"], how="inner")
    refused = pl.read_parquet(batch / "abstained.parquet")
    missing = theirs.join(ours, on=["subject_id", "prediction_time", "task"], how="anti")
    assert missing.join(refused, on=["subject_id", "prediction_time", "task"], how="anti").is_empty()
    assert both.height > 20
    assert np.allclose(both["probability"], both["score"], atol=1e-5)


def test_intervals_hold_the_probability(batch: Path):
    found = pl.read_parquet(batch / "predictions.parquet")
    assert found.filter(
        (pl.col("low") > pl.col("probability")) | (pl.col("high") < pl.col("probability"))
    ).is_empty()
    assert (found["high"] - found["low"]).min() > 0


def test_the_books_balance(batch: Path):
    manifest = json.loads((batch / "manifest.json").read_text())
    scored, refused = (
        pl.read_parquet(batch / f"{name}.parquet").height for name in ("predictions", "abstained")
    )
    books = manifest["sources"].values()
    assert sum(one["rows_in"] for one in books) == scored + refused + sum(one["rejected"] for one in books)


def test_every_reason_is_a_resource_that_was_known_then(batch: Path, whole: Outcome):
    basis = pl.read_parquet(batch / "basis.parquet")
    assert basis.filter(pl.col("resource_id").is_null()).is_empty()
    assert basis.filter(pl.col("time") > pl.col("prediction_time")).is_empty()
    row = basis.row(0, named=True)
    store = whole.out / "fhir" / row["resource_type"]
    assert row["resource_id"] in pl.read_parquet(store / "*.parquet", columns=["id"])["id"].to_list()
    traced = ehrseq.show(whole.out, subject=row["subject_id"], token=row["token"])
    assert traced.event["resource_id"] == row["resource_id"]


def resources(batch: Path) -> list[dict[str, Any]]:
    return [
        entry["resource"]
        for path in sorted((batch / "bundles").glob("*.json"))
        for entry in json.loads(path.read_text())["entry"]
    ]


def test_every_resource_is_valid_r4b_and_preliminary(batch: Path):
    found = resources(batch)
    for resource in found:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    risks = [one for one in found if one["resourceType"] == "RiskAssessment"]
    scored = pl.read_parquet(batch / "predictions.parquet")
    assert {one["status"] for one in risks} == {"preliminary"}
    assert sum("probabilityDecimal" in one["prediction"][0] for one in risks) == scored.height
    one = next(one for one in risks if "probabilityDecimal" in one["prediction"][0])
    assert one["subject"]["reference"].startswith("Patient/")
    assert one["encounter"]["reference"].startswith("Encounter/")
    assert one["occurrenceDateTime"].endswith("Z")
    assert 1 <= len(one["basis"]) <= 10
    assert one["prediction"][0]["qualitativeRisk"]["coding"][0]["code"] in ("low", "moderate", "high")
    assert one["method"]["coding"][0]["display"].startswith("tiny/v0001-")
    targets = {one["target"][0]["reference"] for one in found if one["resourceType"] == "Provenance"}
    assert targets == {f"RiskAssessment/{one['id']}" for one in risks}


def test_put_twice_and_read_back_there_is_one_of_each_and_it_is_equal(batch: Path):
    with fhir_server() as server:
        first = send(batch, server.url)
        writes = server.writes
        again = send(batch, server.url)
        given = {f"{one['resourceType']}/{one['id']}": one for one in resources(batch)}
        assert server.resources == given
        assert (server.writes, again.created) == (writes, 0)
        assert first.created == len(given)
        for name, resource in list(given.items())[:5]:
            with urllib.request.urlopen(f"{server.url}/{name}") as answer:
                assert json.loads(answer.read()) == resource


@pytest.mark.parametrize("half", [False, True])
def test_a_server_that_rejects_half_of_a_bundle(batch: Path, half: bool):
    with fhir_server() as server:
        server.refuse, server.half = frozenset({"Provenance"}), half
        with pytest.raises(ServerError, match="took " if half else "taken whole") as caught:
            send(batch, server.url)
        assert int(caught.value.exit_code) == 3
        assert bool(server.resources) == half
        server.refuse = frozenset()
        send(batch, server.url)
        assert len(server.resources) == len({(one["resourceType"], one["id"]) for one in resources(batch)})


def test_a_server_that_is_away(batch: Path):
    with pytest.raises(TryAgainError, match="no answer"):
        send(batch, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no bundles"):
        send(batch / "bundles" / "none", "http://127.0.0.1:9")


def test_again_is_nothing_to_do(batch: Path, whole: Outcome, registered: Path):
    before = (batch / "bundles/00000.json").read_bytes()
    again = ehrseq.predict("tiny", whole.out, batch.parent, form="fhir", models=registered)
    assert again.result.status == "unchanged"
    assert (batch / "bundles/00000.json").read_bytes() == before


def test_one_patients_bundle_gives_what_the_batch_gave(
    batch: Path, whole: Outcome, registered: Path, tmp_path: Path
):
    """From the exported Bundle, through import, views and the model's vocabulary, to the same score."""
    given = patient_bundle(whole, tmp_path)
    made = ehrseq.predict("tiny", given, tmp_path / "out", models=registered)
    ours = pl.read_parquet(made.result.out / "predictions.parquet")
    theirs = pl.read_parquet(batch / "predictions.parquet").filter(
        pl.col("subject_id") == ours["subject_id"][0]
    )
    both = ours.join(theirs, on=["subject_id", "prediction_time", "task"], how="full")
    assert both.null_count().select("score", "score_right").sum_horizontal().item() == 0
    assert np.allclose(both["score"], both["score_right"], atol=1e-5)


def test_now_is_the_end_of_each_record_and_the_dead_are_not_asked_about(
    whole: Outcome, registered: Path, tmp_path: Path
):
    made = ehrseq.predict("tiny", whole.out / "timeline", tmp_path, at="now", models=registered)
    found = pl.concat(
        pl.read_parquet(made.result.out / f"{name}.parquet").select("subject_id", "prediction_time", "task")
        for name in ("predictions", "abstained")
    )
    events = pl.read_parquet(whole.out / "timeline/data/*.parquet")
    dead = events.filter(code="MEDS_DEATH")["subject_id"].unique()
    assert not set(found["subject_id"]) & set(dead)
    last = events.group_by("subject_id").agg(pl.col("time").max())
    assert found.join(last, on="subject_id").filter(pl.col("prediction_time") != pl.col("time")).is_empty()
    assert found.group_by("subject_id").len()["len"].unique().to_list() == [len(TASKS)]


def test_a_record_of_no_known_code_is_refused_with_its_reason(registered: Path, tmp_path: Path):
    patient = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-01-01"}
    strange = [
        {"resourceType": "Observation", "id": f"o{number}", "status": "final", "subject": {"reference": "Patient/p1"},
         "code": {"coding": [{"system": "urn:elsewhere", "code": f"x{number}"}]},
         "effectiveDateTime": f"2020-01-0{number}T10:00:00Z", "issued": f"2020-01-0{number}T11:00:00Z",
         "valueString": "seen"}
        for number in range(1, 9)
    ]  # fmt: skip
    lines = "\n".join(json.dumps(one) for one in [patient, *strange])
    (tmp_path / "all.ndjson").write_text(lines)
    made = ehrseq.predict(
        "tiny", tmp_path / "all.ndjson", tmp_path / "out", at="now", form="fhir", models=registered
    )
    assert made.result.manifest.made["predictions"] == 0
    refused = pl.read_parquet(made.result.out / "abstained.parquet")
    assert refused.height == len(TASKS)
    risk, *_ = [one for one in resources(made.result.out) if one["resourceType"] == "RiskAssessment"]
    assert "probabilityDecimal" not in risk["prediction"][0]
    assert risk["prediction"][0]["rationale"].startswith("No prediction: ")
    assert risk["subject"] == {"reference": "Patient/p1"}
    for resource in resources(made.result.out):
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_what_cannot_be_predicted_is_said(whole: Outcome, registered: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="does not know task 'sepsis'"):
        ehrseq.predict("tiny", whole.out, tmp_path, tasks=("sepsis",), models=registered)
    with pytest.raises(ConfigError, match="expected task, now, or an ISO time"):
        ehrseq.predict("tiny", whole.out, tmp_path, at="later", models=registered)
    with pytest.raises(SchemaError, match="holds 'tokens'"):
        ehrseq.predict("tiny", whole.out / "tokens", tmp_path, models=registered)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EhrseqError, match="holds no FHIR"):
        ehrseq.predict("tiny", tmp_path / "empty", tmp_path / "out", models=registered)


def test_another_vocabulary_is_refused(whole: Outcome, registered: Path):
    from ehrseq.deploy.scoring import Predictor
    from ehrseq.tokens.store import TokenStore

    predictor = Predictor(find_model("tiny", registered))
    store = TokenStore.open(whole.out / "tokens")
    other = object.__new__(TokenStore)
    other.__dict__.update({**store.__dict__, "vocabulary_sha256": "0" * 64})
    asked = pl.DataFrame(
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "task": pl.String}
    )
    with pytest.raises(ModelError, match="own vocabulary"):
        predictor.answer(other, asked)
    assert predictor.answer(store, asked).scored.is_empty()


def test_the_server_is_strict() -> None:
    """The wrong twin: what is not a PUT to its own place, or not valid, is not taken."""
    server = FhirServer()
    server.server_close()
    handler = type("H", (), {"server": server})()
    from fhir_server import _Handler

    bad = {"resource": {"resourceType": "RiskAssessment", "id": "a", "status": "maybe"},
           "request": {"method": "PUT", "url": "RiskAssessment/a"}}  # fmt: skip
    assert "not valid" in _Handler._problem(handler, bad)
    assert "own place" in _Handler._problem(
        handler, {**bad, "request": {"method": "POST", "url": "RiskAssessment"}}
    )
