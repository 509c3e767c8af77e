"""The window language against an oracle that walks over moments one by one."""

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
import yaml
from aces_oracle import CODES, VALUES, oracle, random_task
from events_folder import timeline
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.manifest import read_manifest
from ehrseq.tasks.extract import DegenerateTaskError, label

START = datetime(2020, 1, 1)
tasks = st.composite(lambda draw: random_task(lambda options: draw(st.sampled_from(options))))()
events = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.one_of(st.integers(0, 12), st.integers(0, 12), st.none()),
        st.sampled_from(CODES),
        st.sampled_from(VALUES),
    ),
    min_size=20,
    max_size=80,
)


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


def wanted(task: dict, rows: list[tuple]) -> list[tuple[int, datetime, bool]]:
    """The oracle's labels; of triggers with one prediction time the first counts."""
    labels: dict[tuple[int, int], bool] = {}
    for (subject, _), (hour, value) in sorted(oracle(task, rows).items()):
        labels.setdefault((subject, hour), value)
    return [(subject, at(hour), value) for (subject, hour), value in sorted(labels.items())]


@settings(max_examples=150, deadline=None)
@given(tasks, events, st.integers(1, 3))
def test_labels_are_those_of_the_oracle(task: dict, rows: list[tuple], shards: int):
    rows = [*rows, (9, 0, "T", None)]
    expected = wanted(task, rows)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        stamped = [(subject, None if hour is None else at(hour), *rest) for subject, hour, *rest in rows]
        made = timeline(folder / "timeline", stamped, shards)
        try:
            result = label(folder / "task.yaml", made, folder / "labels")
        except DegenerateTaskError:
            assert len({value for *_, value in expected}) < 2
            return
        found = pl.read_parquet(folder / "labels/data/*.parquet")
        assert found.sort(pl.all()).rows() == expected
        (books,) = result.manifest.sources.values()
        assert books.balanced
        assert books.rows_in == sum(code == "T" and hour is not None for _, hour, code, _ in rows)
        assert books.filtered == sum(books.reasons.values())
        assert books.used == len(expected) == result.manifest.made["labels"]
        assert result.manifest.made["positive"] == sum(value for *_, value in expected)


FOUR_HOURS = """\
predicates: {admission: {code: IN}, high: {code: LAB, value_min: 0.7, value_min_inclusive: true}}
trigger: admission
windows:
  target: {start: trigger, end: start + 4h, start_inclusive: false, end_inclusive: true, label: high,
           index_timestamp: start}
"""


@pytest.fixture
def ward(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve subjects in three shards; every other one has a value of 0.7 four hours after admission, others later."""
    rows = [(n, at(0), "IN", None) for n in range(12)]
    rows += [(n, at(4 + n % 2), "LAB", 0.7) for n in range(12)]
    (tmp_path / "task.yaml").write_text(FOUR_HOURS)
    return tmp_path / "task.yaml", timeline(tmp_path / "timeline", rows, shards=3)


def test_a_bound_includes_a_value_that_is_not_a_binary_fraction(ward: tuple[Path, Path], tmp_path: Path):
    task, made = ward
    labels = pl.read_parquet(label(task, made, tmp_path / "labels").out / "data/*.parquet").sort("subject_id")
    assert labels["boolean_value"].to_list() == [True, False] * 6
    task.write_text(FOUR_HOURS.replace("value_min_inclusive: true", "value_min_inclusive: false"))
    with pytest.raises(DegenerateTaskError, match="12 labels, 0 of them true"):
        label(task, made, tmp_path / "exclusive")


def test_one_worker_or_two(ward: tuple[Path, Path], tmp_path: Path):
    one, two = (label(*ward, tmp_path / f"by_{n}", workers=n) for n in (1, 2))
    assert read_manifest(one.out) == read_manifest(two.out)
    assert (one.out / "manifest.json").read_bytes() == (two.out / "manifest.json").read_bytes()


def test_a_second_run_has_nothing_to_do(ward: tuple[Path, Path], tmp_path: Path):
    task, made = ward
    assert label(task, made, tmp_path / "labels").status == "made"
    assert label(task, made, tmp_path / "labels").status == "unchanged"
    assert label(task, made, tmp_path / "labels", force=True).status == "made"
    task.write_text(FOUR_HOURS + "description: another text is another task\n")
    assert label(task, made, tmp_path / "labels").status == "made"


def test_triggers_at_the_same_moment_are_one_candidate_and_accounted_for(
    ward: tuple[Path, Path], tmp_path: Path
):
    task, _ = ward
    rows = [(n, at(0), "IN", None) for n in (1, 1, 1, 2)] + [(1, at(1), "LAB", 1.0), (1, None, "IN", None)]
    result = label(task, timeline(tmp_path / "twice", rows), tmp_path / "labels")
    (books,) = result.manifest.sources.values()
    assert (books.rows_in, books.used) == (4, 2)
    assert books.reasons == {"at the same moment as another admission": 2}
