"""`ehrseq import bulk`: what a server has is in the store, and each time after that what has changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bulk_import import beside, content, fill, imported, patient, sodium, stored
from bulk_server import BulkServer, outcome, status
from hypothesis import given, settings
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.dataset import verify
from ehrseq.core.errors import ConfigError, DataQualityError, SchemaError, SourceError
from ehrseq.sources.bulk.lines import DamagedError, whole
from ehrseq.sources.bulk.waiting import Clock
from ehrseq.timeline import read_timeline


@pytest.fixture
def server() -> Iterator[BulkServer]:
    with BulkServer() as running:
        yield running
        assert running.complaints == []


def test_an_export_becomes_a_store(server: BulkServer, tmp_path: Path):
    fill(server)
    server.polls_needed = 2
    slept: list[float] = []
    result = imported(server, tmp_path / "fhir", clock=Clock(sleep=slept.append, jitter=lambda: 0.5))
    assert stored(result.out) == server.present()
    assert result.manifest.rows == {"in": 7, "used": 7, "rejected": 0, "filtered": 0}
    assert slept == pytest.approx([7.35, 7.35])  # Retry-After: 7, and never earlier
    assert server.count("GET .*export") == 1
    assert server.count("DELETE /status") == 1
    assert server.jobs == {}
    assert beside(result.out) == []
    notes = result.manifest.notes["bulk"]
    assert notes["files"] == {"output": 3}
    assert (notes["level"], notes["since"], notes["outcomes"]) == ("system", None, {})
    ehrseq.timeline(result.out, tmp_path / "timeline")
    assert read_timeline(tmp_path / "timeline")["subject_id"].n_unique() == 3


@pytest.mark.parametrize("level", ["", "/Patient", "/Group/icu", "/Group/icu/$export", "/"])
def test_levels_and_parameters(server: BulkServer, tmp_path: Path, level: str):
    fill(server)
    options = {"types": ["Patient", "Observation"], "since": "2026-01-01T00:03:00+00:00"}
    result = imported(server, tmp_path / "fhir", level, **options)
    asked = server.seen("export")[0].path
    base = level.removesuffix("$export").rstrip("/")
    assert asked.startswith(f"/fhir{base}/$export?")
    assert "_type=Observation%2CPatient" in asked
    assert "_since=2026-01-01T00%3A03%3A00%2B00%3A00" in asked
    assert set(stored(result.out)) == {
        ("Patient", "p1"),
        ("Patient", "p2"),
        ("Observation", "o1"),
        ("Observation", "o2"),
    }


def test_the_second_run_asks_for_what_is_new(server: BulkServer, tmp_path: Path):
    fill(server)
    first = imported(server, tmp_path / "fhir")
    server.put(**sodium("o1", "p2", 155))  # another value, and another patient
    server.put(**patient("p9"))
    server.remove("Observation", "o0")
    server.remove("Organization", "ward")
    second = imported(server, tmp_path / "fhir")
    assert "_since=2026-01-01T00%3A07%3A00Z" in server.seen("export")[1].path
    assert first.manifest.notes["bulk"]["transaction_time"] == second.manifest.notes["bulk"]["since"]
    assert stored(second.out) == server.present()
    assert second.manifest.sources["Observation"].reasons == {"deleted": 1, "deletion": 1, "superseded": 1}
    assert second.manifest.notes["bulk"]["files"] == {"output": 2, "deleted": 1}
    kept = pl.read_parquet(second.out / "Observation/*.parquet").filter(id="o2").row(0, named=True)
    before = pl.read_parquet(second.out / "Patient/*.parquet").filter(id="p0").row(0, named=True)
    assert (kept["_file"][:12], kept["_row"], before["_row"]) == (
        "Observation.",
        3,
        1,
    )  # where they came from at first
    assert imported(server, tmp_path / "all").manifest.made == second.manifest.made
    assert stored(tmp_path / "all") == stored(second.out)


changes = st.lists(
    st.tuples(st.sampled_from(["put", "put", "remove"]), st.integers(0, 3), st.integers(0, 3)), max_size=4
)


@settings(max_examples=5, deadline=None)
@given(st.lists(changes, min_size=1, max_size=3))
def test_any_history_of_deltas_equals_a_full_export(
    tmp_path_factory: pytest.TempPathFactory, nights: list[Any]
):
    out = tmp_path_factory.mktemp("deltas") / "fhir"
    with BulkServer() as server:
        fill(server)
        for night in [[], *nights]:
            for what, name, of in night:
                if what == "put":
                    server.put(**sodium(f"o{name}", f"p{of}", server.now.minute))
                else:
                    server.remove("Observation", f"o{name}")
            imported(server, out)
            assert stored(out) == server.present()
        assert server.count("_since") == len(nights)
        assert server.complaints == []


def test_nothing_new_is_nothing_done(server: BulkServer, tmp_path: Path):
    fill(server)
    imported(server, tmp_path / "fhir")
    before = content(tmp_path / "fhir")
    server.records.pop(("Organization", "ward"))  # of the watermark's own instant: it would come again
    again = imported(server, tmp_path / "fhir")
    assert again.status == "unchanged"
    assert content(tmp_path / "fhir") == before
    assert server.jobs == {}


def test_buckets_that_nothing_touches_stay_as_they_are(server: BulkServer, tmp_path: Path):
    fill(server, 20)
    out = tmp_path / "fhir"
    imported(server, out)
    places = {path: path.stat().st_ino for path in out.glob("[A-Z]*/*.parquet")}
    server.put(**sodium("o3", "p3", 1))
    server.put(**patient("p4", odd=True))
    imported(server, out)
    same = {path.stem for path, inode in places.items() if path.stat().st_ino == inode}
    assert len({path.stem for path in places} - same) in (
        2,
        3,
    )  # of o3, of p4; of what comes with them: the ward
    assert len(same) >= 2
    assert stored(out) == server.present()
    manifest = verify(out, "fhir")
    assert manifest.made == imported(server, tmp_path / "all").manifest.made
    assert manifest.rows["in"] == manifest.rows["used"] + manifest.rows["filtered"] == 41 + 3
    assert manifest.notes["unknown_elements"] == {"Patient": {"odd": 1}}
    victim = next(path for path in sorted(places) if path.stem in same)
    victim.write_bytes(victim.read_bytes()[:-9])
    server.put(**sodium("o3", "p3", 2))
    with pytest.raises(SchemaError, match="damaged or missing"):
        imported(server, out)
    imported(server, out, full=True)
    assert stored(out) == server.present()


def test_a_store_that_has_outgrown_its_buckets_gets_more(
    server: BulkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(server)
    first = imported(server, tmp_path / "fhir")
    monkeypatch.setattr("ehrseq.sources.fhir.stage._BUCKET_BYTES", 3000)
    fill(server, 40)
    second = imported(server, tmp_path / "fhir")
    assert second.manifest.config["buckets"] > 2 * first.manifest.config["buckets"]
    assert stored(second.out) == server.present()
    strict = imported(server, tmp_path / "fhir", strict=True)
    assert strict.manifest.rows["in"] == second.manifest.rows["used"] + 1  # the last comes again


def test_full_makes_the_store_anew(server: BulkServer, tmp_path: Path):
    fill(server)
    imported(server, tmp_path / "fhir")
    server.records.pop(("Patient", "p0"))  # a server that tells of no deletions
    server.put(**patient("p7"))
    imported(server, tmp_path / "fhir")
    assert ("Patient", "p0") in stored(tmp_path / "fhir")
    imported(server, tmp_path / "fhir", full=True)
    assert stored(tmp_path / "fhir") == server.present()
    assert server.count("_since") == 1


def test_the_result_does_not_depend_on_the_order_of_files(server: BulkServer, tmp_path: Path):
    fill(server, 40)
    server.errors = [outcome("processing")]
    server.lines_per_file = 7
    plain = imported(server, tmp_path / "1/fhir")
    server.reverse = server.packed = True
    server.fail(r"GET /files/job-1/3", status(503, Retry_After="0"), 3)
    other = imported(server, tmp_path / "2/fhir", workers=2)
    assert content(plain.out) == content(other.out)
    assert len(server.seen("GET /files/job-0")) == 14


def test_errors_are_counted_shown_and_kept(
    server: BulkServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fill(server)
    secret = "Patient p1 (Mr. Secret) cannot be read"
    server.errors = [outcome("processing", secret), outcome("processing"), outcome("Mr. Secret")]
    result = imported(server, tmp_path / "fhir")
    assert result.manifest.notes["bulk"]["outcomes"] == {"error other": 1, "error processing": 2}
    kept = pl.read_parquet(result.out / "outcomes/outcomes.parquet")
    assert json.loads(kept["json"][0]) == server.errors[0]
    assert result.manifest.sources["OperationOutcome"].filtered == 3
    assert stored(result.out) == server.present()
    from ehrseq import console

    console.present("import bulk", result, False)
    shown = capsys.readouterr().out
    assert "the server could not give all: error other 1, error processing 2" in shown
    assert "Secret" not in shown + (result.out / "manifest.json").read_text()
    ehrseq.timeline(result.out, tmp_path / "timeline")


def test_a_store_of_something_else_is_left_alone(server: BulkServer, tmp_path: Path):
    fill(server)
    (tmp_path / "in.ndjson").write_text(json.dumps(patient("x")) + "\n")
    ehrseq.import_fhir(tmp_path / "in.ndjson", tmp_path / "fhir")
    with pytest.raises(ConfigError, match="--full to replace"):
        imported(server, tmp_path / "fhir")
    imported(server, tmp_path / "fhir", full=True, types=["Patient"])
    with pytest.raises(ConfigError, match=r"holds system of http.* with --type Patient, so"):
        imported(server, tmp_path / "fhir")
    with pytest.raises(ConfigError, match="there would be a gap"):
        imported(server, tmp_path / "fhir", types=["Patient"], since="2027-01-01T00:00:00Z")
    imported(server, tmp_path / "fhir", types=["Patient"], since="2026-01-01T00:03:00Z")
    assert set(stored(tmp_path / "fhir")) == {("Patient", f"p{number}") for number in range(3)}
    assert server.count("export") == 2


def test_rejects_are_a_fraction_of_what_arrived(server: BulkServer, tmp_path: Path):
    fill(server, 30)
    imported(server, tmp_path / "fhir")
    server.put(**patient("fine"))
    server.put(**patient("not legal!"))
    with pytest.raises(DataQualityError, match="1 of 3 rows"):  # the last of the first time comes again
        imported(server, tmp_path / "fhir")
    kicked = server.count("export")
    result = imported(server, tmp_path / "fhir", max_reject_fraction=0.5)  # of what has been fetched already
    assert server.count("export") == kicked
    assert result.manifest.rows["rejected"] == 1
    assert beside(result.out) == []


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("/fhir?x=1", {}, "has a query"),
        ("/fhir", {"types": ["Patients"]}, 'Closest: "Patient"'),
        ("/fhir", {"since": "2026-01-01"}, "with a time zone"),
        ("/fhir", {"client_id": "me"}, "belong together"),
        ("/fhir", {"max_reject_fraction": 7}, "expected 0 to 1"),
    ],
)
def test_wrong_arguments_are_named(server: BulkServer, tmp_path: Path, url: str, options: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        ehrseq.import_bulk(server.url.removesuffix("/fhir") + url, tmp_path / "fhir", **options)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "no transactionTime"),
        ({"transactionTime": "yesterday"}, "transactionTime: no instant"),
        ({"transactionTime": "2026-01-01T00:00:00Z", "output": [{"url": "x"}]}, "`output`.*no type and url"),
        (
            {"transactionTime": "2026-01-01T00:00:00Z", "output": [{"type": "../../x", "url": "x"}]},
            "no type and url",
        ),
        (
            {"transactionTime": "2026-01-01T00:00:00Z", "link": [{"relation": "next", "url": "x"}]},
            "further pages",
        ),
        ("nothing", "no transactionTime"),
        ({"transactionTime": "2026-01-01T00:00:00Z", "output": 5}, "no list of objects"),
        (
            {"transactionTime": "2026-01-01T00:00:00Z", "output": [{"type": "Patient", "url": "x"}] * 2},
            "a file twice",
        ),
    ],
)
def test_a_damaged_manifest_is_refused(server: BulkServer, tmp_path: Path, told: Any, message: str):
    fill(server)
    server.fail("GET /status", status(200, told))
    with pytest.raises(SourceError, match=message):
        imported(server, tmp_path / "fhir")
    assert not (tmp_path / "fhir").exists()
    assert beside(tmp_path / "fhir") == []


@given(st.lists(st.sampled_from(['{"a":1}', "", " ", "\r", '{"b":"\\n"}']), max_size=8), st.booleans())
def test_lines_are_counted_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ended: bool
):
    part = tmp_path_factory.mktemp("lines") / "x.part"
    part.write_text("\n".join(lines) + "\n" * ended)
    expected = sum(bool(line.strip()) for line in lines)
    assert whole(part, count=expected, largest=1000).lines == expected
    with pytest.raises(DamagedError, match="where the manifest says"):
        whole(part, count=expected + 1, largest=1000)
