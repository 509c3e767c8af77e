"""What a source promises: its `source.yaml` names every table, every column and every type.

    source: mimic_iv
    version: "2.2"
    timezone: UTC
    subject: subject_id            # the column that says whose row it is
    constants: {systems: {lab: "http://..."}}
    tables:
      hosp/labevents: {columns: {labevent_id: integer, subject_id: integer, charttime: datetime, ...}}
      hosp/d_labitems: {shared: true, columns: {itemid: integer, label: string}}
      icu/chartevents: {optional: true, columns: ...}

Types: string, integer, number, boolean, date, datetime. `shared` tables belong to no subject (dictionaries,
staff). `optional` tables may be absent. `skip` (instead of mappings) says why a table is not mapped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ehrseq.core.errors import MappingError, closest
from ehrseq.core.yaml_lines import Document, check_keys, load_yaml

COLUMN_TYPES = ("string", "integer", "number", "boolean", "date", "datetime")
_TABLE_KEYS = {
    "columns",
    "shared",
    "optional",
    "subject",
    "skip",
    "datetime_format",
    "date_format",
    "null_values",
}
_SOURCE_KEYS = {"source", "version", "title", "timezone", "subject", "constants", "tables"}


@dataclass(frozen=True, slots=True)
class Table:
    """One declared table. `subject` is the column that names the subject; None for shared tables."""

    name: str
    columns: Mapping[str, str]
    subject: str | None
    optional: bool = False
    skip: str | None = None
    datetime_format: str = "%Y-%m-%d %H:%M:%S"
    date_format: str = "%Y-%m-%d"
    null_values: tuple[str, ...] = ("",)

    @property
    def shared(self) -> bool:
        """Whether the table belongs to no subject."""
        return self.subject is None


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source: name, version, time zone of its clocks, constants for mappings, tables."""

    name: str
    version: str
    title: str
    timezone: str
    constants: Mapping[str, Any]
    tables: Mapping[str, Table]
    folder: Path


def load_source(folder: Path) -> Source:
    """Read `FOLDER/source.yaml`. Raises: MappingError with file and line."""
    path = folder / "source.yaml"
    if not path.is_file():
        raise MappingError(
            f"{folder}: has no source.yaml, which declares the tables and columns of a source."
        )
    document = load_yaml(path, MappingError)
    check_keys(document, (), document.value, _SOURCE_KEYS, MappingError)
    value = document.value
    for key in ("source", "tables"):
        if key not in value:
            raise MappingError(f"{path}:1  lacks `{key}`.")
    zone = str(value.get("timezone", "UTC"))
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise MappingError(f"{document.at(('timezone',))}  `{zone}` is not an IANA time zone.") from error
    subject = value.get("subject")
    tables = {name: _table(document, name, subject) for name in value["tables"]}
    return Source(
        name=str(value["source"]),
        version=str(value.get("version", "1")),
        title=str(value.get("title", value["source"])),
        timezone=zone,
        constants=value.get("constants", {}),
        tables=tables,
        folder=folder,
    )


def _table(document: Document, name: str, subject: str | None) -> Table:
    where = ("tables", name)
    value = document.value["tables"][name]
    check_keys(document, where, value, _TABLE_KEYS, MappingError)
    columns = value.get("columns")
    if not isinstance(columns, dict) or not columns:
        raise MappingError(f"{document.at(where)}  table {name} declares no `columns`.")
    for column, kind in columns.items():
        if kind not in COLUMN_TYPES:
            raise MappingError(
                f"{document.at((*where, 'columns', column))}  column `{column}` has type `{kind}`."
                f"{closest(str(kind), COLUMN_TYPES)} Expected one of {', '.join(COLUMN_TYPES)}."
            )
    owner = None if value.get("shared") else value.get("subject", subject)
    if not value.get("shared") and owner not in columns:
        raise MappingError(
            f"{document.at(where)}  table {name} has no subject column `{owner}`. Declare it, or say `shared: true`."
        )
    formats = {key: value[key] for key in ("datetime_format", "date_format") if key in value}
    nulls = tuple(value.get("null_values", [""]))
    return Table(
        name, columns, owner, bool(value.get("optional")), value.get("skip"), null_values=nulls, **formats
    )
