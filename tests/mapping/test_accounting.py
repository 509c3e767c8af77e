"""Whatever the rows are: each is used, rejected or filtered, and every reject can be found by file and row."""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from hospital import write_mappings, write_tables
from hypothesis import given, settings
from hypothesis import strategies as st

import ehrseq

ids = st.sampled_from(["1", "2", "3", "9", "", "x"])
times = st.sampled_from(["2020-01-01 09:00:00", "2020-02-30 09:00:00", "", "soon"])
labs = st.lists(
    st.tuples(ids, ids, st.sampled_from(["5", "6", "77", ""]), ids, times, times,
              st.sampled_from(["1.5", "", "NaN", "much"]), st.sampled_from(["", "<5", "POSITIVE"]),
              st.sampled_from(["", "mg/dL"])),
    max_size=12,
)  # fmt: skip
patients = st.lists(
    st.tuples(ids, st.sampled_from(["F", "M", "?", ""]), st.sampled_from(["1950-02-03", "1950", ""])),
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(labs, patients)
def test_no_row_is_lost(lab_rows: list[tuple], patient_rows: list[tuple]):
    tables = {
        "labs": "lab,pid,visit,test,at,filed,number,text,unit\n"
        + "".join(",".join(row) + "\n" for row in lab_rows),
        "patients": "pid,sex,born\n" + "".join(",".join(row) + "\n" for row in patient_rows),
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        source, data = write_mappings(folder / "source"), write_tables(folder / "data", **tables)
        result = ehrseq.map(source, data, folder / "fhir", max_reject_fraction=1.0)
        books = result.manifest.sources
        assert books["labs"].rows_in == len(lab_rows)
        assert books["patients"].rows_in == len(patient_rows)
        shards = sorted((folder / "fhir/rejects").glob("*.parquet"))
        kept = pl.concat(map(pl.read_parquet, shards)) if shards else None
        for table in ("labs", "patients", "visits"):
            account = books[table]
            assert account.balanced
            assert sum(account.reasons.values()) == account.rejected + account.filtered
            mine = kept.filter(table=table) if kept is not None else pl.DataFrame({"outcome": [], "row": []})
            assert mine.filter(outcome="rejected")["row"].n_unique() == account.rejected
            assert mine.filter(outcome="filtered")["row"].n_unique() == account.filtered
        made = {path.parent.name: pl.read_parquet(path) for path in (folder / "fhir").glob("*/0*.parquet")}
        assert result.manifest.rows["used"] == sum(account.used for account in books.values())
        assert all(frame["_row"].min() >= 1 for kind, frame in made.items() if kind[0].isupper())
