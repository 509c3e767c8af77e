"""A code that too few patients have is read as what it is a case of, with its value where that has a scale."""

from pathlib import Path

import numpy as np
import polars as pl
from ward_events import SODIUM, event, splits_of, write_timeline

from ehrseq.tokens.backoff import ladder, parents_of
from ehrseq.tokens.store import TokenStore
from ehrseq.tokens.tokenize import tokenize

LOCAL = "Observation//analyser-7//NA+"


def test_subcategories_come_before_the_category() -> None:
    assert ladder("Condition//ICD-10-CM//E1165")[:3] == (
        "Condition//ICD-10-CM//E1165", "Condition//ICD-10-CM//E116", "Condition//ICD-10-CM//E11",
    )  # fmt: skip
    assert ladder("Condition//ICD-10-CM//E11")[1] == "Condition//ICD-10-CM"


def test_a_local_code_is_read_as_its_other_coding_with_its_value(tmp_path: Path) -> None:
    rows = [
        event(subject, hour, SODIUM, 130 + subject + hour, unit="mg/dL")
        for subject in range(1, 13)
        for hour in (1, 2)
    ]
    rows.append(event(3, 4, LOCAL, 150, unit="mg/dL"))
    timeline = write_timeline(tmp_path / "timeline", rows, splits_of())
    assert parents_of(timeline) == {}
    alone = TokenStore.open(tokenize(timeline, tmp_path / "alone", min_patients=2).out)
    last = alone.rows(int(alone.index_of([3])[0])).stop - 1
    assert alone.vocabulary["codes"][alone.code[last]] == "Observation"
    assert np.isnan(alone.value[last])
    pl.DataFrame({"code": [LOCAL], "parent_codes": [[SODIUM]]}).write_parquet(
        timeline / "metadata/codes.parquet"
    )
    told = TokenStore.open(tokenize(timeline, tmp_path / "told", min_patients=2, force=True).out)
    assert told.vocabulary["codes"][told.code[last]] == SODIUM
    assert told.value[last] > 0
    assert told.bin[last] > 0
