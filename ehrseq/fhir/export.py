"""`ehrseq export fhir`: a FHIR store as files that other systems read.

- `ndjson`: one file a type, as a Bulk Data export lays them out, with its manifest as `bulk-manifest.json`;
- `bundles`: one Bundle a patient, with all that is about the patient; one more for what is nobody's;
- `transactions`: Bundles of PUTs that load a server, first what is nobody's. Ids are kept, so the same file may be
  loaded again.

Source: https://hl7.org/fhir/uv/bulkdata/export.html (output manifest); FHIR R4B, http.html (transaction).
"""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ehrseq.core.database import cursor
from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import ConfigError
from ehrseq.core.files import write_json
from ehrseq.core.hashing import stable_hash
from ehrseq.core.manifest import Account, read_manifest
from ehrseq.core.parquet import row_groups
from ehrseq.fhir.json_columns import JSON
from ehrseq.fhir.json_text import json_text
from ehrseq.fhir.owners import OWNERS, patient_of

type Form = Literal["ndjson", "bundles", "transactions"]
FORMS = ("ndjson", "bundles", "transactions")
_SHARED = "shared"
_ROWS_AT_ONCE = 50_000
_ENTRIES = 500
_STRUCTURE = json.dumps({name: {"reference": "VARCHAR"} for name in OWNERS})


def export_fhir(
    fhir: Path, out: Path, *, form: Form = "ndjson", compress: bool = False, force: bool = False
) -> Result:
    """Write the resources of a FHIR store below `out`.

    `form`: see the module. `compress`: gzip each file. Raises: SchemaError if `fhir` is no FHIR store; ConfigError for
    another form; StorageError; BusyError.

    Returns the result; the manifest counts files and resources by type.
    """
    if form not in FORMS:
        raise ConfigError(f"--form {form}: expected {', '.join(FORMS)}.")
    manifest = read_manifest(fhir, "fhir")
    shards = [Path(shard.path) for shard in manifest.shards if Path(shard.path).parent.name[:1].isupper()]
    config = {"form": form, "compress": compress}
    with Build(out, kind="export", config=config, inputs=[input_of("fhir", fhir)], force=force) as build:
        if not build.unchanged:
            writer = _Writer(build, ".gz" if compress else "")
            if form == "ndjson":
                _ndjson(fhir, shards, writer)
            else:
                _bundles(fhir, shards, writer, form)
            for kind, count in manifest.made.items():
                if any(path.parent.name == kind for path in shards):
                    build.account(kind, Account(count, count))
                    build.made(kind, count)
    return build.result


class _Writer:
    """Writes files of text below a build, compressed if wanted, and enters them."""

    def __init__(self, build: Build, suffix: str) -> None:
        self.build, self.suffix = build, suffix

    def write(self, name: str, texts: Iterator[pl.Series]) -> int:
        """Write the lines of all `texts` to one file; returns their number."""
        path, count = self.build.path(name + self.suffix), 0
        with path.open("wb") as raw:
            stream: Any = gzip.GzipFile("", "wb", 6, raw, mtime=0) if self.suffix else raw
            for lines in texts:
                lines.to_frame().write_csv(stream, include_header=False, quote_style="never")
                count += len(lines)
            if stream is not raw:
                stream.close()
        self.build.enter(name + self.suffix, rows=count)
        return count


def _texts(path: Path) -> Iterator[pl.DataFrame]:
    """`id` and `text` of the resources in a shard, a part at a time."""
    names = list(pl.read_parquet_schema(path))
    whole = pl.scan_parquet(path).select(["id", JSON] if JSON in names else names)
    height = whole.select(pl.len()).collect().item()
    for part in (part for group in row_groups(whole, height) for part in group.iter_slices(_ROWS_AT_ONCE)):
        text = part[JSON] if JSON in names else json_text(part.select(pl.exclude("^_.*$")), path.parent.name)
        yield pl.DataFrame({"id": part["id"], "text": text})


def _ndjson(fhir: Path, shards: list[Path], writer: _Writer) -> None:
    output = []
    for kind in sorted({path.parent.name for path in shards}):
        mine = sorted(path for path in shards if path.parent.name == kind)
        parts = (part["text"] for path in mine for part in _texts(fhir / path))
        name = f"{kind}.ndjson"
        count = writer.write(name, parts)
        output.append({"type": kind, "url": name + writer.suffix, "count": count})
    made = datetime.fromtimestamp(int((fhir / "manifest.json").stat().st_mtime), UTC)
    told = {
        "transactionTime": made.isoformat(),
        "request": "ehrseq export fhir",
        "requiresAccessToken": False,
        "output": output,
        "error": [],
    }
    write_json(writer.build.path("bulk-manifest.json"), told)
    writer.build.enter("bulk-manifest.json", rows=len(output))


def _bundles(fhir: Path, shards: list[Path], writer: _Writer, form: str) -> None:
    buckets = sorted({path.stem for path in shards}, key=lambda name: (name != _SHARED, name))
    for bucket in buckets:
        mine = sorted(path for path in shards if path.stem == bucket)
        entries = _entries(fhir, mine, with_request=form == "transactions")
        made = _chunks(entries) if form == "transactions" else _by_patient(entries)
        for name, text in made:
            writer.write(f"{form}/{bucket}/{name}.json", iter([pl.Series([text])]))


def _entries(fhir: Path, paths: list[Path], *, with_request: bool) -> pl.DataFrame:
    """`patient` and `entry`, the text of a Bundle's entry, of all resources in some shards; Patients first."""
    parts = [pl.DataFrame(schema={"patient": pl.String, "entry": pl.String})]
    for path in sorted(paths, key=lambda path: (path.parent.name != "Patient", path)):
        kind = path.parent.name
        for part in _texts(fhir / path):
            put = f',"request":{{"method":"PUT","url":"{kind}/'
            request = [pl.lit(put), pl.col("id"), pl.lit('"}')]
            entry = pl.concat_str(
                pl.lit('{"resource":'), "text", *(request if with_request else []), pl.lit("}")
            )
            owned = part.with_columns(owner=_owners(part["text"]))
            patient = patient_of(pl.lit(kind), pl.col("id"), pl.col("owner"))
            parts.append(owned.select(patient=patient, entry=entry))
    return pl.concat(parts)


def _owners(texts: pl.Series) -> pl.Series:
    whose = ", ".join(f'x."{name}".reference' for name in OWNERS)
    with cursor() as database:
        database.register("texts", texts.alias(JSON).to_frame().to_arrow())
        query = (
            f"SELECT coalesce({whose}) AS owner FROM (SELECT from_json({JSON}, $structure) AS x FROM texts)"
        )
        found: pl.DataFrame = database.sql(query, params={"structure": _STRUCTURE}).pl()
    return found["owner"]


def _by_patient(entries: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Name and text of a Bundle for each patient."""
    joined = entries.group_by("patient", maintain_order=True).agg(pl.col("entry").str.join(","))
    for patient, text in joined.iter_rows():
        name = "nobody" if patient is None else patient
        if name.startswith("."):
            name = f"x{int(stable_hash([name])[0]):x}"  # a legal id, but no file's name
        yield name, f'{{"resourceType":"Bundle","type":"collection","entry":[{text}]}}'


def _chunks(entries: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Name and text of transactions of `_ENTRIES` entries and more, none of which parts a patient's resources."""
    joined = entries.group_by("patient", maintain_order=True).agg(
        pl.col("entry").str.join(","), pl.len().alias("count")
    )
    numbered = joined.with_columns(chunk=(pl.col("count").cum_sum() - pl.col("count")) // _ENTRIES)
    chunks = numbered.group_by("chunk", maintain_order=True).agg(pl.col("entry").str.join(","))
    for number, text in enumerate(chunks["entry"]):
        yield f"{number:05d}", f'{{"resourceType":"Bundle","type":"transaction","entry":[{text}]}}'
