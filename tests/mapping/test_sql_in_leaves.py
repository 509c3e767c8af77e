"""The table of SQL functions in fhir_mappings/README.md: every line of it is run, and gives what it says."""

import re
from pathlib import Path

import polars as pl
import pytest

README = Path(__file__).parents[2] / "fhir_mappings/README.md"
ROWS = pl.DataFrame(
    {"a": ["x-1", "y-2", None], "n": [3, 1, 2], "v": [1.25, -2.5, None]},
).with_columns(at=pl.lit("2020-03-05 07:08:09").str.to_datetime("%Y-%m-%d %H:%M:%S"))
LINES = [
    (cells[1], cells[2])
    for line in README.read_text().splitlines()
    if len(cells := [cell.strip().strip("`").replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)])
    == 5
    and cells[3] == "first row"
]


def test_there_is_a_table():
    assert len(LINES) > 15


@pytest.mark.parametrize(("sql", "result"), LINES)
def test_it_gives_what_the_page_says(sql: str, result: str):
    assert str(ROWS.select(pl.sql_expr(sql).alias("x"))["x"][0]) == result
