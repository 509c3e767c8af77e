"""FHIR files as batches of JSON text with provenance: NDJSON line by line, Bundles entry by entry.

Nothing is interpreted here but Bundles, which are opened however deep they lie in each other.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from ehrseq.core.database import cursor
from ehrseq.core.errors import SourceError
from ehrseq.sources.fhir.lines import BLOCK, LONGEST_LINE, LongLineError, blocks_of_lines

LINES = (".ndjson", ".ndjson.gz", ".ndjson.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst")
DOCUMENTS = (".json", ".json.gz", ".json.zst")
TEXTS = pl.Schema({
    "_json": pl.String(), "full_url": pl.String(), "method": pl.String(), "url": pl.String(), "updated": pl.String(),
    "_file": pl.String(), "_row": pl.Int64(),
})  # fmt: skip
"""`_json` is null where a line is blank or an entry has no resource; `method`, `url`: of a Bundle entry's request;
`updated`: of its Bundle; `_row`: of the line, or of the Bundle's entry, from 1."""

_ABOUT = ("manifest.json", "bulk-manifest.json", "run.json")  # what exports say about themselves
_DEEPEST_BUNDLE = 4
_NOT_TEXT = "not UTF-8"
_BUNDLE = r'"resourceType"\s*:\s*"Bundle"'
_BREAKS = re.compile(r"\s*[\r\n]\s*")  # JSON has none inside its strings


def fhir_files(data: Path) -> list[Path]:
    """All FHIR files at or below `data`, sorted. Raises: SourceError if there are none."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise SourceError(f"{data}: no such file or folder. Expected NDJSON files or Bundles.")
    found = sorted(p for p in data.rglob("*") if p.name.endswith((*LINES, *DOCUMENTS)) and p.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(data).parts)]
    found = [path for path in found if path.name not in _ABOUT]
    if not found:
        raise SourceError(f"{data}: holds no FHIR. Looked for {', '.join((*LINES, *DOCUMENTS))}.")
    return found


def read_texts(files: list[tuple[Path, str]]) -> Iterator[pl.DataFrame]:
    """Batches with the columns of `TEXTS`, for files with their names in provenance. Small documents come together.
    Shards of a FHIR store (`.parquet`) have the names in themselves.

    Raises: SourceError if a file cannot be decompressed or a line is too long.
    """
    held: list[pl.DataFrame] = []
    size = 0
    for path, name in files:
        if path.suffix == ".parquet":
            yield _shard(path)
            continue
        if path.name.endswith(LINES):
            for batch in _lines(path, name):
                yield opened(batch)
            continue
        text = _read(path)
        held.append(_texts(pl.DataFrame({"_json": [text]}).with_columns(_row=pl.lit(1, pl.Int64)), name))
        size += len(text)
        if size >= BLOCK:
            yield opened(pl.concat(held))
            held, size = [], 0
    if held:
        yield opened(pl.concat(held))


def opened(batch: pl.DataFrame) -> pl.DataFrame:
    """The batch with every Bundle in it replaced by its entries; rows of an opened Bundle are its entries, from 1."""
    done: list[pl.DataFrame] = []
    for _ in range(_DEEPEST_BUNDLE):
        bundles = batch["_json"].str.contains(_BUNDLE).fill_null(False)
        if not bundles.any():
            break
        done.append(batch.filter(~bundles))
        batch = _entries(batch.filter(bundles))
    return pl.concat([*done, batch])


def _entries(bundles: pl.DataFrame) -> pl.DataFrame:
    """Entries of those that are Bundles indeed; others (text that only speaks of one, or is no JSON) as they are."""
    query = """
        WITH given AS (
            SELECT *, coalesce(json_extract_string(CASE WHEN json_valid(_json) THEN _json END, '$.resourceType')
                = 'Bundle', false) AS is_bundle FROM bundles),
        opened AS (
            SELECT json_extract(_json, '$.entry[*]') AS entries, coalesce(json_extract_string(_json,
                '$.meta.lastUpdated'), json_extract_string(_json, '$.timestamp')) AS updated, _file
            FROM given WHERE is_bundle),
        entries AS (
            SELECT unnest(entries) AS entry, generate_subscripts(entries, 1) AS place, updated, _file FROM opened)
        SELECT CAST(json_extract(entry, '$.resource') AS VARCHAR) AS _json,
            json_extract_string(entry, '$.fullUrl') AS full_url,
            json_extract_string(entry, '$.request.method') AS method,
            json_extract_string(entry, '$.request.url') AS url, updated, _file, place AS _row FROM entries
        UNION ALL
        SELECT * EXCLUDE is_bundle FROM given WHERE NOT is_bundle"""
    with cursor() as database:
        database.register("bundles", bundles.to_arrow())
        entries: pl.DataFrame = database.sql(query).pl()
    return entries.cast(dict(TEXTS))  # type: ignore[arg-type]


def _shard(path: Path) -> pl.DataFrame:
    nothing = pl.lit(None, pl.String)
    bare = dict.fromkeys(("full_url", "method", "url", "updated"), nothing)
    return pl.read_parquet(path, columns=["_json", "_file", "_row"]).select(
        "_json", **bare, _file="_file", _row="_row"
    )


def _lines(path: Path, name: str) -> Iterator[pl.DataFrame]:
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    counted = 0
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            for lines in blocks_of_lines(stream):
                rows = counted + 1 + pl.int_range(len(lines), dtype=pl.Int64, eager=True)
                yield _texts(pl.DataFrame({"_json": lines, "_row": rows}), name)
                counted += len(lines)
    except (pa.ArrowInvalid, OSError, LongLineError) as error:
        where = f"{path}: cannot be read past line {counted}"
        raise SourceError(f"{where}: {_reason(error)}. Nothing was written.") from error


def _read(path: Path) -> str:
    """A document's text; if it is not UTF-8, a text that is no JSON."""
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            data: bytes = stream.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path}: cannot be read: {_reason(error)}. Nothing was written.") from error
    try:
        return _BREAKS.sub(" ", data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _NOT_TEXT


def _texts(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    nothing = pl.lit(None, pl.String)
    return frame.select(
        "_json",
        full_url=nothing,
        method=nothing,
        url=nothing,
        updated=nothing,
        _file=pl.lit(name),
        _row="_row",
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, LongLineError):
        return f"a line is longer than {LONGEST_LINE >> 20} MB"
    if isinstance(error, OSError) and error.errno:
        return str(error.strerror)
    cut = "runcated" in text or "EOF" in text or "zlib" in text or "ZSTD" in text
    return "the compressed stream is truncated or damaged" if cut else type(error).__name__
