"""What an import must know of each resource to keep it: type, id, version, whose it is; or why it is refused."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ehrseq.core.database import cursor
from ehrseq.core.errors import SourceError
from ehrseq.core.yaml_lines import load_yaml
from ehrseq.fhir.elements import children, is_resource
from ehrseq.fhir.owners import OWNERS, patient_of
from ehrseq.sources.fhir.links import with_ids, with_links
from ehrseq.sources.rejects import FILTERED, REJECTED

_STRUCTURE = json.dumps(
    {
        "resourceType": "VARCHAR",
        "id": "VARCHAR",
        "meta": {"lastUpdated": "VARCHAR", "versionId": "VARCHAR"},
        **{name: {"reference": "VARCHAR"} for name in OWNERS},
    }
)
_LEGAL_ID = r"^[A-Za-z0-9\-.]{1,64}$"
_REQUEST = r"^(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/.*)?$"

KEYS = pl.Schema({
    "type": pl.String(), "id": pl.String(), "patient": pl.String(), "updated": pl.String(), "version": pl.Int64(),
    "place": pl.Int64(), "_json": pl.String(), "_file": pl.String(), "_row": pl.Int64(),
})  # fmt: skip


VERSIONS = pl.Schema({name: KEYS[name] for name in ("type", "id", "updated", "version", "place")})


class Read(NamedTuple):
    """`kept`: columns of `KEYS`. `deleted`: type, id, updated, version and place of deletions, which are also among the
    `left`: `type`, `id`, `_file`, `_row`, outcome, rule and message of what is not kept.
    `elements`: top-level names by type. `unknown`: rows by type and top-level name that R4B does not have."""

    kept: pl.DataFrame
    deleted: pl.DataFrame
    left: pl.DataFrame
    elements: dict[str, set[str]]
    unknown: dict[str, dict[str, int]]


def keyed(texts: pl.DataFrame, *, place: int, strict: bool) -> Read:
    """Keys of a batch with the columns of `files.TEXTS`; `place` is that of its first row among all rows of the import.

    With `strict`, resources with unknown top-level elements are rejected. Raises: SourceError for STU3 and R5.
    """
    found = with_ids(_parsed(texts))
    if (linked := with_links(found)) is not found:
        found = _parsed(linked.select(texts.columns))
    deletion = pl.col("method").eq("DELETE").fill_null(False)
    named = found.with_columns(
        type=pl.when(deletion).then(pl.col("url").str.extract(_REQUEST, 1)).otherwise("type"),
        id=pl.when(deletion).then(pl.col("url").str.extract(_REQUEST, 2)).otherwise("id"),
        deleted=deletion,
        patient=patient_of(pl.col("type"), pl.col("id"), pl.col("owner")),
    )
    shapes = _shapes(named)
    _refuse_other_versions(named, shapes)
    unknown = _unknown(named, shapes)
    reason = _reasons(named, unknown if strict else pl.DataFrame(schema=_UNKNOWN))
    left = reason.filter(pl.col("rule").is_not_null())
    counted = unknown.group_by("type", "element").agg(pl.col("rows").list.len().sum()).sort("type", "element")
    by_type: dict[str, dict[str, int]] = {}
    for kind, name, rows in counted.iter_rows():
        by_type.setdefault(kind, {})[name] = rows
    elements: dict[str, set[str]] = {}
    for kind, names in shapes:
        elements.setdefault(kind, set()).update(names)
    reason = reason.with_columns(place=place + pl.int_range(pl.len(), dtype=pl.Int64))
    deleted = reason.filter(rule="deletion").select(VERSIONS.names())
    kept = reason.filter(pl.col("rule").is_null()).select(KEYS.names())
    left = left.select("type", "id", "_file", "_row", "outcome", "rule", "message")
    return Read(kept, deleted, left, elements, by_type)


def _parsed(texts: pl.DataFrame) -> pl.DataFrame:
    """The columns of `texts`, with type, id, updated, version, owner (a reference), valid, and shape: a hash of its
    names. The texts themselves do not pass through DuckDB: handing them back costs more than parsing them.
    """
    owner = ", ".join(f'x."{name}".reference' for name in OWNERS)
    query = f"""
        SELECT x.resourceType AS type, x.id AS id, x.meta.lastUpdated AS own_updated,
            try_cast(x.meta.versionId AS BIGINT) AS version, coalesce({owner}) AS owner, valid, shape
        FROM (
            SELECT _json IS NOT NULL AND shape IS NOT NULL AS valid, shape, TRY(from_json(_json, $structure)) AS x
            FROM (SELECT _json, TRY(hash(json_keys(_json))) AS shape FROM texts))"""
    with cursor() as database:
        database.register("texts", texts.select("_json").to_arrow())
        found: pl.DataFrame = database.sql(query, params={"structure": _STRUCTURE}).pl()
    whole = pl.concat([texts, found], how="horizontal")
    return whole.with_columns(updated=pl.coalesce("own_updated", "updated"))


def _shapes(found: pl.DataFrame) -> list[tuple[str, frozenset[str]]]:
    """Resource types with the top-level names that resources of each have together, one entry for each combination."""
    examples = found.filter(pl.col("valid") & pl.col("type").is_not_null()).unique(["type", "shape"])
    with cursor() as database:
        database.register("texts", examples.select("type", "_json").to_arrow())
        query = "SELECT DISTINCT type, json_keys(_json) FROM texts"
        return sorted((kind, frozenset(keys)) for kind, keys in database.sql(query).fetchall())


def _reasons(found: pl.DataFrame, unknown: pl.DataFrame) -> pl.DataFrame:
    """The frame with outcome, rule and message; null where the resource can be kept."""
    types = {name: is_resource(name) for name in found["type"].drop_nulls().unique()}
    legal = pl.col("type").replace_strict(types, default=False, return_dtype=pl.Boolean)
    strange = pl.int_range(pl.len()).is_in(unknown["rows"].explode().drop_nulls().implode())
    rules = [
        (pl.col("_json").is_null() & ~pl.col("deleted") & pl.col("method").is_null(), FILTERED, "blank",
         "a blank line, or an entry without a resource"),
        (pl.col("deleted") & pl.col("type").is_null(), REJECTED, "request", "a DELETE that names no Type/id"),
        (~pl.col("valid") & ~pl.col("deleted"), REJECTED, "json", "not a JSON object, or not UTF-8; perhaps cut off"),
        (pl.col("type").is_null() | ~legal, REJECTED, "resourceType", "no resource type of FHIR R4B"),
        (pl.col("type") == "OperationOutcome", FILTERED, "OperationOutcome", "a message of the server, no record"),
        (pl.col("type") == "Bundle", REJECTED, "bundle", "Bundles within Bundles, too deep"),
        (pl.col("id").is_null() | ~pl.col("id").str.contains(_LEGAL_ID), REJECTED, "id",
         "no logical id of letters, digits, - and ., at most 64"),
        (pl.col("deleted"), FILTERED, "deletion", "says that a resource was deleted"),
        (strange, REJECTED, "element", "has an element that R4B does not have (--strict)"),
    ]  # fmt: skip
    none = pl.lit(None, pl.String)
    chosen: list[pl.Expr] = []
    for index, name in enumerate(("outcome", "rule", "message"), start=1):
        expression = none
        for rule in reversed(rules):
            expression = pl.when(rule[0].fill_null(False)).then(pl.lit(rule[index])).otherwise(expression)
        chosen.append(expression.alias(name))
    return found.with_columns(chosen)


_UNKNOWN = pl.Schema({"type": pl.String(), "element": pl.String(), "rows": pl.List(pl.Int64())})


def _unknown(found: pl.DataFrame, shapes: list[tuple[str, frozenset[str]]]) -> pl.DataFrame:
    """Top-level elements that R4B does not have, with the rows (from 0) that have them."""
    strange = sorted({
        (kind, name)
        for kind, names in shapes
        if is_resource(kind)
        for name in names - {"resourceType"}
        if name.removeprefix("_") not in children(kind)
    })  # fmt: skip
    parts = [pl.DataFrame(schema=_UNKNOWN)]
    for kind, name in strange:
        mine = found.select("type", "_json", row=pl.int_range(pl.len(), dtype=pl.Int64)).filter(type=kind)
        with cursor() as database:
            database.register("texts", mine.to_arrow())
            query = "SELECT row FROM texts WHERE list_contains(json_keys(_json), $name)"
            rows = sorted(row for (row,) in database.sql(query, params={"name": name}).fetchall())
        parts.append(pl.DataFrame({"type": [kind], "element": [name], "rows": [rows]}, schema=_UNKNOWN))
    return pl.concat(parts)


@cache
def _telltales() -> dict[str, tuple[frozenset[str], dict[str, frozenset[str]]]]:
    found = load_yaml(Path(__file__).parent / "versions.yaml", SourceError).value
    return {
        version: (
            frozenset(item["types"]),
            {kind: frozenset(names) for kind, names in item["elements"].items()},
        )
        for version, item in found.items()
    }


def _refuse_other_versions(found: pl.DataFrame, shapes: list[tuple[str, frozenset[str]]]) -> None:
    for version, (types, elements) in _telltales().items():
        for kind, names in shapes:
            met = elements.get(kind, frozenset()) & names
            if kind not in types and not met:
                continue
            sign = kind if kind in types else f"{kind}.{min(met)}"
            first = found.filter(pl.col("type") == kind).row(0, named=True)
            raise SourceError(
                f"{first['_file']}: this is FHIR {version}, not R4: it has {sign} (its first {kind} stands in row "
                f"{first['_row']}). Convert it to R4 first, with your server or the HAPI FHIR converter; read as R4 it "
                "would be misread."
            )
