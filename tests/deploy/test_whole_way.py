"""From tables to a report: what `ehrseq run` promises, on a generated hospital."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq import console
from ehrseq.core.dataset import verify
from ehrseq.core.errors import EhrseqError
from ehrseq.deploy.pipeline import Outcome
from ehrseq.deploy.show import Origin, origin, show
from ehrseq.mapping.check import find_source, load_mappings
from ehrseq.tokens.store import TokenStore

RESULT_KEYS = {"task", "model", "metric", "value", "low", "high", "n", "positives"}
STAGES = (
    "fhir", "timeline", "tokens", "labels/in_hospital_mortality_24h", "labels/long_stay_7d",
    "examples", "audit", "model", "predictions", "report",
)  # fmt: skip


def test_every_stage_is_a_dataset_whose_books_balance(whole: Outcome):
    assert tuple(whole.stages) == STAGES
    for name, stage in whole.stages.items():
        assert stage.out == whole.out / name
        manifest = verify(stage.out)
        assert manifest == stage.manifest
        assert manifest.shards, name
        for table, account in manifest.sources.items():
            assert account.balanced, (name, table)
        listed = {shard.path for shard in manifest.shards} | {"manifest.json", "run.json"}
        present = {path.relative_to(stage.out).as_posix() for path in stage.out.rglob("*") if path.is_file()}
        assert present == listed, name
        assert {"seconds", "cpu_seconds", "peak_rss_bytes", "versions"} <= stage.run.keys()


def test_nothing_is_left_beside_the_stages(whole: Outcome):
    assert {path.name for path in whole.out.iterdir()} == {name.split("/")[0] for name in STAGES}


def test_each_stage_takes_in_what_the_one_before_made(whole: Outcome):
    made = {name: stage.manifest.made for name, stage in whole.stages.items()}
    books = whole.stages["timeline"].manifest.sources
    assert {kind: books[kind].rows_in for kind in made["fhir"]} == made["fhir"]
    store = TokenStore.open(whole.out / "tokens")
    events = pl.scan_parquet(whole.out / "timeline/data/*.parquet").select(pl.len()).collect().item()
    assert whole.stages["tokens"].manifest.rows["in"] == events
    assert store.subjects == made["fhir"]["Patient"] == 150


def test_a_task_whose_labels_are_all_the_same_is_left_out_and_says_why(whole: Outcome):
    ((task, why),) = whole.skipped.items()
    assert Path(task).name == "second_death.yaml"
    assert re.search(
        r"second_death: no event of .* is a `second_death` \(MEDS_DEATH//2\)\. Closest: \"MEDS_DEATH\"", why
    )
    assert not (whole.out / "labels/second_death").exists()


def test_json_has_the_keys_of_design_section_12(whole: Outcome):
    found = json.loads(json.dumps(console.summary("run", whole), default=str))
    assert found.keys() >= {
        "verb", "status", "exit_code", "out", "rows", "made", "seconds", "cpu_seconds", "peak_rss_bytes",
        "fhir", "timeline", "tokens", "model", "report", "results",
    }  # fmt: skip
    assert (found["verb"], found["exit_code"]) == ("run", 0)
    assert found["rows"].keys() == {"in", "used", "rejected", "filtered"}
    for name in ("fhir", "timeline", "tokens", "model", "report"):
        assert Path(found[name]).exists(), name
    assert {result["task"] for result in found["results"]} == {
        "in_hospital_mortality_24h",
        "long_stay_7d",
    }
    for result in found["results"]:
        assert result.keys() >= RESULT_KEYS
        if result["metric"] in ("auroc", "auprc", "brier") and result["value"] is not None:
            assert result["low"] <= result["value"] <= result["high"], result


def test_no_result_without_interval_and_baselines_beside_the_model(whole: Outcome):
    results = pl.DataFrame(whole.evaluation["results"])
    auroc = results.filter(pl.col("metric") == "auroc")
    for (task,), rows in auroc.group_by("task"):
        assert {"transformer", "logistic"} <= set(rows["model"]), task
        assert rows["low"].null_count() == rows["high"].null_count() == 0
        assert rows["attainable"].null_count() == 0, "the risks of a generated hospital are known"


def test_the_report_is_one_page_that_stands_alone_and_says_synthetic(whole: Outcome):
    page = whole.report.read_text()
    assert "synthetic" in page.lower()
    assert page.lstrip().lower().startswith("<!doctype html>")
    links = re.findall(r"""(?:src|href|xlink:href|action|data)\s*=\s*["']([^"']+)""", page)
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"""@import|url\(\s*["']?(?!data:|#)""", page)
    assert not re.search(r"<(script|link|iframe)[^>]+(src|href)=", page)
    for word in ("in_hospital_mortality_24h", "long_stay_7d", "labevents"):
        assert word in page or word.replace("_", " ") in page, word


def test_the_report_names_no_patient(whole: Outcome):
    page = whole.report.read_text()
    subjects = TokenStore.open(whole.out / "tokens").subject_id
    numbers = set(re.findall(r"\b\d{8}\b", page))
    assert numbers.isdisjoint(str(subject) for subject in subjects)


def test_predictions_have_the_schema_of_all_predictions(whole: Outcome):
    frame = pl.read_parquet(whole.out / "predictions/held_out.parquet")
    assert dict(frame.schema) == {
        "subject_id": pl.Int64,
        "prediction_time": pl.Datetime("us"),
        "task": pl.String,
        "probability": pl.Float64,
        "label": pl.Boolean,
        "model": pl.String,
    }
    assert frame["probability"].is_between(0, 1).all()
    keys = ["model", "task", "subject_id", "prediction_time"]
    assert frame.select(keys).is_duplicated().sum() == 0
    splits = pl.read_parquet(whole.out / "timeline/metadata/subject_splits.parquet")
    held_out = splits.filter(pl.col("split") == "held_out")["subject_id"]
    assert frame["subject_id"].is_in(held_out.implode()).all()
    labels = pl.concat(
        pl.read_parquet(whole.out / "labels" / task / "data/*.parquet").with_columns(task=pl.lit(task))
        for task in frame["task"].unique()
    ).filter(pl.col("subject_id").is_in(held_out.implode()))
    for (model,), rows in frame.group_by("model"):
        asked = labels.filter(pl.col("task").is_in(rows["task"].unique().implode()))  # a clinical score has one task
        joined = rows.join(asked, on=["task", "subject_id", "prediction_time"], how="inner")
        assert joined.height == rows.height == asked.height, model
        assert joined["label"].equals(joined["boolean_value"]), model
    assert frame.filter(model="transformer")["task"].n_unique() == frame["task"].n_unique()


AGAIN = """
import json, sys
from pathlib import Path
from ehrseq.core.progress import set_quiet
set_quiet(True)
sys.path.insert(0, sys.argv[1])
from tiny_run import TASKS, TINY
from ehrseq.deploy.pipeline import run
folder = Path(sys.argv[2])
tasks = [*TASKS, str(folder / "second_death.yaml")]
outcome = run("mimic_iv", folder / "hospital", folder / "run", tasks=tasks, config=TINY)
heavy = [name for name in ("jax", "flax", "optax", "sklearn", "matplotlib") if name in sys.modules]
print(json.dumps({"unchanged": outcome.unchanged, "status": outcome.summary()["status"], "heavy": heavy}))
"""


def test_a_second_run_has_nothing_to_do_and_loads_no_accelerator_library(whole: Outcome, shared: Path):
    before = {path: path.stat().st_mtime_ns for path in whole.out.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(Path(__file__).parent), str(shared)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "unchanged": True,
        "status": "unchanged",
        "heavy": [],
    }
    assert {path: path.stat().st_mtime_ns for path in whole.out.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def tables(shared: Path, whole: Outcome):
    """The source's tables as a person would read them, each read once."""
    read: dict[str, pl.DataFrame] = {}

    def table(file: str) -> pl.DataFrame:
        if file not in read:
            read[file] = pl.read_csv(shared / "hospital" / file, infer_schema=False)
        return read[file]

    return table


def sample(whole: Outcome) -> list[tuple[int, int]]:
    """(subject, token): of every resource type and modality some tokens, static ones, the first and the last."""
    store = TokenStore.open(whole.out / "tokens")
    subject = np.repeat(np.arange(store.subjects), np.diff(store.offsets))
    kinds = [code.split("//")[0].split(".")[0] for code in store.vocabulary["codes"]]
    kind = np.asarray(kinds)[store.code]
    random = np.random.default_rng(7)
    chosen = [0, store.tokens - 1]
    for name in np.unique(kind):
        chosen += random.choice(np.flatnonzero(kind == name), 4).tolist()
    for modality in np.unique(store.modality):
        chosen += random.choice(np.flatnonzero(store.modality == modality), 4).tolist()
    for shard in np.unique(store.shard):
        chosen += random.choice(np.flatnonzero(store.shard[subject] == shard), 2).tolist()
    return [
        (int(store.subject_id[subject[at]]), int(at - store.offsets[subject[at]])) for at in sorted(chosen)
    ]


def test_every_token_leads_back_to_its_source_row(whole: Outcome, tables):
    mappings = {item.name: item for item in load_mappings(find_source("mimic_iv")).mappings}
    seen: set[str] = set()
    for subject, token in sample(whole):
        found = origin(whole.out, subject, token)
        place = (found.code, found.file, found.row)
        table = tables(found.file)
        assert 1 <= found.row <= table.height, place
        row = table.row(found.row - 1, named=True)
        assert int(row["subject_id"]) == subject == found.subject_id == found.event["subject_id"], place
        assert found.resource["resourceType"] == found.event["resource_type"]
        assert found.resource["id"] == found.event["resource_id"]
        mapping = mappings[found.mapping.split("/")[1]]
        assert found.file.startswith(mapping.table), place
        agrees_with_key(found, row, mapping.key)
        agrees_with_values(found, row)
        seen.add(found.resource["resourceType"])
    kinds = pl.read_parquet(whole.out / "timeline/data/*.parquet")["resource_type"].unique()
    assert seen == set(kinds), "some resource type was never traced"


def agrees_with_key(found: Origin, row: dict[str, str], key) -> None:
    """The resource's id is made of the key's values in the row, unless it is a hash."""
    tail = found.resource["id"].split(".", 1)[1]
    if not re.fullmatch(r"x[0-9a-f]{32}", tail) and row.keys() >= set(key):
        assert tail == ".".join(row[column] for column in key), found.resource["id"]


def agrees_with_values(found: Origin, row: dict[str, str]) -> None:
    """A number on the timeline and a laboratory result's elements are those of the row."""
    if found.mapping.endswith("/labevents"):
        assert found.resource["code"]["coding"][0]["code"] == row["itemid"]
        assert found.resource["effectiveDateTime"][:16] == row["charttime"].replace(" ", "T")[:16]
        if row["valuenum"] and found.event["code"].startswith("Observation//"):
            assert found.event["numeric_value"] == pytest.approx(float(row["valuenum"]), rel=1e-6)
    if found.mapping.endswith("/patients"):
        assert found.resource["gender"][0].upper() == row["gender"]
    if found.event["modality"] == "note":
        assert row["text"], "a word of a note comes from a row with a text"


def test_static_tokens_and_words_of_notes_lead_back_too(whole: Outcome):
    store = TokenStore.open(whole.out / "tokens")
    assert store.vocabulary["modalities"].index("note") in store.modality
    for index in range(0, store.subjects, 50):
        found = origin(whole.out, int(store.subject_id[index]), 0)
        assert found.event["time"] is None
        assert found.resource["resourceType"] == "Patient"
    index = int(np.searchsorted(store.offsets, np.flatnonzero(store.modality == 1)[0], side="right")) - 1
    first = int(np.flatnonzero(store.modality[store.rows(index)] == 1)[0])
    words = {origin(whole.out, int(store.subject_id[index]), first + i).event["resource_id"] for i in (0, 1)}
    assert all("discharge" in word or "radiology" in word for word in words)


def test_a_token_that_is_not_there_says_which_are(whole: Outcome):
    with pytest.raises(EhrseqError, match=r"tokens 0 to \d+"):
        origin(whole.out, None, 10**6)
    with pytest.raises(EhrseqError, match="has no subject 1"):
        origin(whole.out, 1, 0)


@pytest.fixture
def copy(whole: Outcome, tmp_path: Path) -> Path:
    """A run of one's own to damage (the model and the report are left out)."""
    for name in ("fhir", "timeline", "tokens"):
        shutil.copytree(whole.out / name, tmp_path / "run" / name)
    return tmp_path / "run"


def largest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("stage", "shard"),
    [("timeline", "data/*.parquet"), ("fhir", "Patient/*.parquet"), ("tokens", "arrays/code.bin")],
)
def test_a_missing_shard_is_noticed_and_named(copy: Path, stage: str, shard: str):
    path = largest(copy / stage, shard)
    path.unlink()
    with pytest.raises(EhrseqError, match=re.escape(path.name)):
        verify(copy / stage)
    with pytest.raises(EhrseqError) as caught:
        for subject in TokenStore.open(copy / "tokens").subject_id:
            origin(copy, int(subject), 0)
    assert str(copy / stage) in str(caught.value)


@pytest.mark.parametrize(("stage", "shard"), [("timeline", "data/*.parquet"), ("tokens", "arrays/code.bin")])
def test_a_shard_cut_short_is_noticed_and_named(copy: Path, stage: str, shard: str):
    path = largest(copy / stage, shard)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EhrseqError, match=re.escape(path.name)):
        verify(copy / stage)
    with pytest.raises(EhrseqError) as caught:
        for subject in TokenStore.open(copy / "tokens").subject_id:
            origin(copy, int(subject), 0)
            show(copy, subject=int(subject))
    assert path.name in str(caught.value)


def test_a_changed_token_array_is_noticed_by_its_hash(copy: Path):
    path = copy / "tokens/arrays/code.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(EhrseqError, match=r"code\.bin.*sha256"):
        verify(copy / "tokens")


def test_a_stage_that_lost_a_shard_is_made_again_and_equal(whole: Outcome, copy: Path):
    import ehrseq

    path = largest(copy / "tokens", "arrays/code.bin")
    path.unlink()
    assert ehrseq.tokenize(copy / "timeline", copy / "tokens").status == "made"
    assert path.read_bytes() == (whole.out / "tokens/arrays/code.bin").read_bytes()
