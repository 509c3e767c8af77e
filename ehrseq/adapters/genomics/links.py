"""`samples.csv` beside the files: whose each sample is, and when its report was out.

A sample's name is not a patient's number. Without this file nothing is read; a sample that it does not name is refused.

    sample,patient,reported,collected,assembly,source,sex,birth
    HG00096,10000032,2150-03-01 12:00:00,2150-02-10,GRCh37,germline,male,2098-04-01

`patient` may be left out as a column only: then samples are named by their patients, which the file says by being
there. Any other column but `sample` may be left out.
`reported` is when the result could be read (a date counts as its end), `source` germline or somatic.
"""

from functools import lru_cache
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SourceError, closest

_SEXES = {"m": "male", "1": "male", "f": "female", "2": "female", "0": "unknown", "": None}
NAMES = ("samples.csv", "samples.tsv")
LINK = pl.Schema({
    "sample": pl.String(), "patient": pl.String(), "reported": pl.Datetime("us"), "collected": pl.String(),
    "assembly": pl.String(), "source": pl.String(),
    "sex": pl.String(), "birth": pl.String(),
})  # fmt: skip


def read_links(folder: Path) -> pl.DataFrame:
    """LINK, one row a sample. Raises: SourceError if the file is missing, or a sample stands there twice."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise SourceError(
            f"{folder}: has no samples.csv, so nothing says whose the samples are. Write one beside the files: "
            "`sample,patient,reported,collected,assembly,source,sex,birth`; leave the column `patient` out if "
            "samples are named by their patients."
        )
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(8)
def _read(path: Path, _changed: int) -> pl.DataFrame:
    frame = pl.read_csv(path, infer_schema=False, separator="\t" if path.suffix == ".tsv" else ",")
    if "sample" not in frame.columns:
        raise SourceError(f"{path}: has no column `sample`.{closest('sample', frame.columns)}")
    if frame["sample"].is_duplicated().any():
        raise SourceError(f"{path}: a sample stands there twice. A sample is of one patient.")
    if "patient" not in frame.columns:
        frame = frame.with_columns(patient="sample")
    absent = [pl.lit(None, pl.String).alias(name) for name in LINK if name not in frame.columns]
    frame = frame.with_columns(*absent).with_columns(
        reported=moment(pl.col("reported")), sex=pl.col("sex").str.to_lowercase().replace(_SEXES)
    )
    return frame.select(LINK.names())


def moment(text: pl.Expr) -> pl.Expr:
    """The time that a text says; of a date, its last second: nothing says that it was known before.

    >>> texts = pl.DataFrame({"t": ["2012-12-29 08:00:00", "20121229"]})
    >>> [str(time) for time in texts.select(moment(pl.col("t")))["t"]]
    ['2012-12-29 08:00:00', '2012-12-29 23:59:59']
    """
    text = text.str.strip_chars()
    clocks = [
        text.str.to_datetime(form, time_unit="us", strict=False)
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M")
    ]
    days = [text.str.to_date(form, strict=False) for form in ("%Y-%m-%d", "%Y%m%d")]
    ends = [day.cast(pl.Datetime("us")) + pl.duration(seconds=86_399) for day in days]
    return pl.coalesce(*clocks, *ends)
