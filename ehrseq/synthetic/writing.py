"""Streamed output: one open gzip file per table, one Parquet file of truth, the same bytes every time."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import polars as pl
import pyarrow.parquet as pq

from ehrseq.core.errors import ConfigError
from ehrseq.core.files import storage_errors
from ehrseq.synthetic.layout import TABLES, conform
from ehrseq.synthetic.truth import Truth

_LEVEL = 1  # zlib's fastest: the files are read once or twice and thrown away
_TRUTH_ROWS = 200_000


class HospitalWriter:
    """Append blocks of tables to `out/<table>.csv.gz` and truth to `out/truth.parquet`. A context manager.

    Every table of the layout gets a file, if only with a header. `rows` counts what was written by table.
    """

    def __init__(self, out: Path, layout: Mapping[str, tuple[str, ...]] = TABLES) -> None:
        self.out, self.layout = out, layout
        self.rows = dict.fromkeys(layout, 0)
        self._raw: dict[str, IO[bytes]] = {}
        self._zipped: dict[str, gzip.GzipFile] = {}
        self._truth: pq.ParquetWriter | None = None
        self._waiting: list[pl.DataFrame] = []

    def __enter__(self) -> Self:
        with storage_errors(self.out):
            for table, columns in self.layout.items():
                path = self.out / f"{table}.csv.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._raw[table] = path.open("wb")
                # no file name and no time in the header, so that equal content means equal bytes
                zipped = gzip.GzipFile(
                    filename="", mode="wb", compresslevel=_LEVEL, fileobj=self._raw[table], mtime=0
                )
                zipped.write((",".join(columns) + "\n").encode())
                self._zipped[table] = zipped
            schema = Truth.empty().to_arrow().schema
            self._truth = pq.ParquetWriter(self.out / "truth.parquet", schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storage_errors(self.out):
            if kind is None:
                self._flush_truth()
            for zipped in self._zipped.values():
                zipped.close()
            for raw in self._raw.values():
                raw.close()
            if self._truth is not None:
                self._truth.close()

    def write(self, tables: dict[str, pl.DataFrame], truth: pl.DataFrame | None = None) -> None:
        """Append rows. Raises: SchemaError for a column, ConfigError for a table, that the layout has not."""
        for table, frame in tables.items():
            if table not in self.layout:
                raise ConfigError(f"There is no table {table!r} in this layout.")
            with storage_errors(self.out):
                self._zipped[table].write(to_csv(conform(table, frame, self.layout)))
            self.rows[table] += len(frame)
        if truth is not None:
            self._waiting.append(truth)
            if sum(map(len, self._waiting)) >= _TRUTH_ROWS:
                self._flush_truth()

    def _flush_truth(self) -> None:
        if self._waiting and self._truth is not None:
            self._truth.write_table(pl.concat(self._waiting).to_arrow().cast(self._truth.schema))
            self._waiting.clear()


def to_csv(frame: pl.DataFrame) -> bytes:
    r"""Rows as MIMIC-IV writes them: no header, `2180-05-06 22:23:00`, whole numbers without `.0`.

    >>> to_csv(pl.DataFrame({"value": [7.0, 7.25, None]}))
    b'7\n7.25\n\n'
    """
    plain = frame.with_columns(pl.col(pl.Float64).cast(pl.String).str.strip_suffix(".0"))
    return plain.write_csv(
        include_header=False, datetime_format="%Y-%m-%d %H:%M:%S", date_format="%Y-%m-%d"
    ).encode()
