"""The window language against an oracle that walks over events one by one, as the ACES paper describes it."""

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import yaml
from events_folder import timeline
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.manifest import read_manifest
from ehrseq.tasks.extract import DegenerateTaskError, label

START = datetime(2020, 1, 1)
CODES = ("T", "A", "B")
events = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(0, 12), st.sampled_from(CODES), st.sampled_from([None, 1.0, 2.0])
    ),
    max_size=40,
)
counts = st.sampled_from(["(None, 0)", "(1, None)", "(None, 2)", "(1, 2)"])


@st.composite
def tasks(draw: st.DrawFn) -> dict:
    hours = draw(st.integers(1, 5))
    first = {
        "start": draw(st.sampled_from([None, "trigger", "end - 3h", "end <- B"])), "end": f"trigger + {hours}h",
        "start_inclusive": draw(st.booleans()), "end_inclusive": draw(st.booleans()), "index_timestamp": "end",
        "has": draw(st.dictionaries(st.sampled_from(["a", "b", "big", "either"]), counts, max_size=2)),
    }  # fmt: skip
    if first["start"] == "trigger":
        first["end"] = f"start + {hours}h"
    if first["start"] is None:
        first["start_inclusive"] = True
    second = {
        "start": "first.end", "end": draw(st.sampled_from(["start + 4h", "start -> b", "start -> either", None])),
        "start_inclusive": draw(st.booleans()), "end_inclusive": draw(st.booleans()),
        "label": draw(st.sampled_from(["a", "b", "both", "big"])),
        "has": draw(st.dictionaries(st.sampled_from(["a", "both"]), counts, max_size=1)),
    }  # fmt: skip
    return {
        "predicates": {
            "t": {"code": "T"}, "a": {"code": {"any": ["A", "absent"]}}, "b": {"code": {"regex": "^B$"}},
            "big": {"code": "A", "value_min": 1, "value_min_inclusive": draw(st.booleans())},
            "either": {"expr": "or(a, b)"}, "both": {"expr": "and(either, b)"},
        },
        "trigger": "t",
        "windows": {"first": first, "second": second},
    }  # fmt: skip


def oracle(task: dict, rows: list[tuple]) -> list[tuple]:
    """(subject, prediction time, value), found by walking."""
    found = set()
    for subject in sorted({row[0] for row in rows}):
        mine = [row for row in rows if row[0] == subject]
        moments = {
            hour: _predicates(task, [row for row in mine if row[1] == hour])
            for hour in {row[1] for row in mine}
        }
        for trigger in sorted(hour for hour, held in moments.items() if held["t"]):
            places = {"trigger": trigger}
            kept = True
            for name in ("first", "second"):
                window = task["windows"][name]
                order = (
                    ("end", "start")
                    if str(window["start"]).startswith("end") or window["start"] is None
                    else ("start", "end")
                )
                for side in order:
                    place = _place(window, side, name, places, moments)
                    if place == "nowhere":
                        kept = False
                        break
                    places[f"{name}.{side}"] = place
                if not kept or not all(
                    _within(window, name, places, moments, *item) for item in window["has"].items()
                ):
                    kept = False
                    break
            if kept:
                window = task["windows"]["second"]
                found.add(
                    (
                        subject,
                        places["first.end"],
                        _count(window, "second", places, moments, window["label"]) > 0,
                    )
                )
    first: dict[tuple, bool] = {}
    for subject, hour, value in sorted(found, key=lambda item: item[:2]):
        first.setdefault((subject, hour), value)
    return [
        (subject, START + timedelta(hours=hour), value) for (subject, hour), value in sorted(first.items())
    ]


def _predicates(task: dict, at: list[tuple]) -> dict[str, int]:
    inclusive = task["predicates"]["big"]["value_min_inclusive"]
    held = {name: sum(row[2] == code for row in at) for name, code in (("t", "T"), ("a", "A"), ("b", "B"))}
    held["big"] = sum(
        row[2] == "A" and row[3] is not None and (row[3] >= 1 if inclusive else row[3] > 1) for row in at
    )
    held["either"] = int(held["a"] > 0 or held["b"] > 0)
    held["both"] = int(held["either"] > 0 and held["b"] > 0)
    return held


def _place(window: dict, side: str, name: str, places: dict, moments: dict):
    text = window[side]
    if text is None:
        return None
    reference, *rest = text.split(" ")
    base = places[f"{name}.{reference}" if reference in ("start", "end") else reference]
    if not rest:
        return base
    operator, what = rest
    if operator in "+-":
        return base + int(what.removesuffix("h")) * (1 if operator == "+" else -1)
    both = window["start_inclusive"] and window["end_inclusive"]
    if operator == "->":
        later = [
            h
            for h, held in moments.items()
            if held[what] and (h > base or (h == base and window["start_inclusive"]))
        ]
        return min(later, default="nowhere")
    earlier = [h for h, held in moments.items() if held[what.lower()] and (h < base or (h == base and both))]
    return max(earlier, default="nowhere")


def _count(window: dict, name: str, places: dict, moments: dict, predicate: str) -> int:
    start, end = places[f"{name}.start"], places[f"{name}.end"]
    total = 0
    for hour, held in moments.items():
        after = start is None or hour > start or (hour == start and window["start_inclusive"])
        before = end is None or hour < end or (hour == end and window["end_inclusive"])
        total += held[predicate] * (after and before)
    return total


def _within(window: dict, name: str, places: dict, moments: dict, predicate: str, bounds: str) -> bool:
    least, most = (None if part.strip() == "None" else int(part) for part in bounds.strip("()").split(","))
    return (
        (least or 0) <= _count(window, name, places, moments, predicate) <= (10**9 if most is None else most)
    )


@settings(max_examples=120, deadline=None)
@given(tasks(), events, st.integers(1, 2))
def test_labels_are_those_of_the_oracle(task: dict, rows: list[tuple], shards: int):
    for window in task["windows"].values():
        window["start"] = window["start"].replace("<- B", "<- b") if window["start"] else None
    rows = [*rows, (9, 0, "T", None)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        stamped = [
            (subject, START + timedelta(hours=hour), code, value) for subject, hour, code, value in rows
        ]
        made = timeline(folder / "timeline", stamped, shards)
        expected = oracle(task, rows)
        try:
            result = label(folder / "task.yaml", made, folder / "labels")
        except DegenerateTaskError:
            assert len({value for *_, value in expected}) < 2
            return
        found = pl.read_parquet(folder / "labels/data/*.parquet")
        assert found.select("subject_id", "prediction_time", "boolean_value").sort(pl.all()).rows() == sorted(
            expected
        )
        (books,) = result.manifest.sources.values()
        assert books.balanced
        assert books.rows_in == len({(subject, hour) for subject, hour, code, _ in rows if code == "T"})
        assert label(folder / "task.yaml", made, folder / "labels").status == "unchanged"
        label(folder / "task.yaml", made, folder / "again", workers=1)
        assert read_manifest(folder / "again").shards == result.manifest.shards
