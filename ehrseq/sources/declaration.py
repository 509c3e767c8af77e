r"""What a source promises: its `source.yaml` names every table, every column and every type.

    source: mimic_iv
    version: "2.2"
    timezone: UTC
    subject: subject_id            # the column that says whose row it is
    constants: {systems: {lab: "http://..."}}
    tables:
      hosp/labevents: {columns: {labevent_id: integer, subject_id: integer, charttime: datetime, ...}}
      hosp/d_labitems: {shared: true, columns: {itemid: integer, label: string}}
      icu/chartevents: {optional: true, columns: ...}
      stays: {files: "set-a/*.txt", separator: "|", file_name: {record: '(\d+)\.txt'}, columns: {...}}

Types: string, integer, number, boolean, date, datetime. `shared` tables belong to no subject (dictionaries,
staff). `optional` tables may be absent. `skip` (instead of mappings) says why a table is not mapped. By default a
table is a file of its name; `files` is a pattern for those with other names, and `file_name` fills columns from the
names of the files (the first group of a regular expression). `datetime_format` and `date_format` may list formats, of
which the first that fits counts. `decimal` and `thousands`, of the source or of a table, say how numbers are written.
`null_values` lists texts that are no value, or gives such lists by column: `{outtime: [9999-12-31]}`. `encoding` is
that of text files, UTF-8 unless given.
`may_lack` lists columns that a file may do without; they are null then. `primary_key` lists the columns that name a
row, by which a later delivery replaces or deletes it. `ignore_case: true` (of the source) finds files and columns
whatever their case. `merge: {table: patient_links, retired: old_id, into: new_id}` names the link table of patients who
turned out to be one. `format: ccda` (of the source): each file is a document, which gives rows of all the tables.
"""

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ehrseq.core.errors import MappingError, closest
from ehrseq.core.yaml_lines import Document, Where, check_keys, load_yaml
from ehrseq.sources.numbers import DECIMAL, THOUSANDS

COLUMN_TYPES = ("string", "integer", "number", "boolean", "date", "datetime")
TABLE_KEYS = {
    "columns",
    "shared",
    "optional",
    "subject",
    "skip",
    "datetime_format",
    "date_format",
    "null_values",
    "files",
    "file_name",
    "separator",
    "encoding",
    "may_lack",
    "primary_key",
    "since",
    "decimal",
    "thousands",
}
FORMATS = ("assay", "ccda", "hl7v2", "vcf")
"""Formats whose files each hold rows of several tables."""
_MERGE_KEYS = {"table", "retired", "into"}
SOURCE_KEYS = {
    "source",
    "version",
    "title",
    "timezone",
    "subject",
    "ignore_case",
    "extends",
    "format",
    "decimal",
    "thousands",
    "constants",
    "tables",
    "merge",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One declared table. `subject` is the column that names the subject; None for shared tables.

    `timezone` is that of the source: clocks that come with an offset are turned into its wall clock. `siblings` are the
    names of all tables of the source.
    """

    name: str
    columns: Mapping[str, str]
    subject: str | None
    optional: bool = False
    skip: str | None = None
    datetime_format: tuple[str, ...] = ("%Y-%m-%d %H:%M:%S",)
    date_format: tuple[str, ...] = ("%Y-%m-%d",)
    null_values: tuple[str, ...] = ("",)
    nulls_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decimal: str = "."
    thousands: str | None = None
    files: str | None = None
    file_name: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    encoding: str = "utf-8"
    may_lack: frozenset[str] = frozenset()
    primary_key: tuple[str, ...] = ()
    since: str | None = None
    ignore_case: bool = False
    timezone: str = "UTC"
    format: str | None = None
    siblings: frozenset[str] = frozenset()

    @property
    def header(self) -> list[str]:
        """Columns that a file has to have."""
        return [name for name in self.columns if name not in self.file_name]

    @property
    def shared(self) -> bool:
        """Whether the table belongs to no subject."""
        return self.subject is None


@dataclass(frozen=True, slots=True)
class Merge:
    """The link table of merged patients: column `retired` holds numbers that were given up, `into` those that stand for
    them.
    """

    table: str
    retired: str
    into: str


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source: name, version, time zone of its clocks, constants for mappings, tables, merged patients."""

    name: str
    version: str
    title: str
    timezone: str
    constants: Mapping[str, Any]
    tables: Mapping[str, Table]
    folder: Path
    merge: Merge | None = None


def load_source(folder: Path) -> Source:
    """Read `FOLDER/source.yaml`, which extends nothing. Raises: MappingError with file and line."""
    return parse_source(load_yaml(folder / "source.yaml", MappingError), folder)


def parse_source(document: Document, folder: Path) -> Source:
    """Read a declaration. Raises: MappingError with file and line."""
    check_keys(document, (), document.value, SOURCE_KEYS, MappingError)
    value = document.value
    for key in ("source", "tables"):
        if key not in value:
            raise MappingError(f"{document.path}:1  lacks `{key}`.")
    zone = str(value.get("timezone", "UTC"))
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise MappingError(f"{document.at(('timezone',))}  `{zone}` is not an IANA time zone.") from error
    if value.get("format") not in (None, *FORMATS):
        raise MappingError(f"{document.at(('format',))}  `format` is one of {', '.join(FORMATS)}.")
    subject = value.get("subject")
    tables = {name: _table(document, name, subject, zone) for name in value["tables"]}
    return Source(
        name=str(value["source"]),
        version=str(value.get("version", "1")),
        title=str(value.get("title", value["source"])),
        timezone=zone,
        constants=value.get("constants", {}),
        tables=tables,
        folder=folder,
        merge=_merge(document, tables) if "merge" in value else None,
    )


def _merge(document: Document, tables: Mapping[str, Table]) -> Merge:
    where: Where = ("merge",)
    value = document.value["merge"]
    check_keys(document, where, value, _MERGE_KEYS, MappingError)
    if set(value) != _MERGE_KEYS:
        raise MappingError(
            f"{document.at(where)}  `merge` is {{table: TABLE, retired: COLUMN, into: COLUMN}}; "
            f"lacks {', '.join(sorted(_MERGE_KEYS - set(value)))}."
        )
    merge = Merge(*(str(value[key]) for key in ("table", "retired", "into")))
    if merge.table not in tables:
        raise MappingError(
            f"{document.at((*where, 'table'))}  table {merge.table} is not declared.{closest(merge.table, tables)}"
        )
    table = tables[merge.table]
    for key, column in (("retired", merge.retired), ("into", merge.into)):
        if column not in table.columns:
            raise MappingError(
                f"{document.at((*where, key))}  column `{column}` is not declared.{closest(column, table.columns)}"
            )
    if table.subject != merge.retired or table.columns[merge.into] != table.columns[merge.retired]:
        raise MappingError(
            f"{document.at(where)}  table {merge.table} must be about the patients in `{merge.retired}` (say `subject: "
            f"{merge.retired}` there), and `{merge.into}` must have the same type."
        )
    return merge


def _table(document: Document, name: str, subject: str | None, zone: str) -> Table:
    where = ("tables", name)
    value = document.value["tables"][name]
    check_keys(document, where, value, TABLE_KEYS, MappingError)
    if name.startswith("/") or ".." in name.split("/"):
        raise MappingError(f"{document.at(where)}  table `{name}` is not below the folder of the data.")
    columns = value.get("columns")
    if not isinstance(columns, dict) or not columns:
        raise MappingError(f"{document.at(where)}  table {name} declares no `columns`.")
    for column, kind in columns.items():
        if kind not in COLUMN_TYPES:
            raise MappingError(
                f"{document.at((*where, 'columns', column))}  column `{column}` has type `{kind}`."
                f"{closest(str(kind), COLUMN_TYPES)} Expected one of {', '.join(COLUMN_TYPES)}."
            )
    listed = {key: tuple(map(str, value.get(key, ()))) for key in ("may_lack", "primary_key")}
    listed["since"] = (str(value["since"]),) if "since" in value else ()
    for key, column in [(key, column) for key, names in listed.items() for column in names]:
        if column not in columns:
            raise MappingError(
                f"{document.at((*where, key))}  column `{column}` is not declared.{closest(column, columns)}"
            )
    owner = None if value.get("shared") else value.get("subject", subject)
    if not value.get("shared") and owner not in columns:
        raise MappingError(
            f"{document.at(where)}  table {name} has no subject column `{owner}`. Declare it, or say `shared: true`."
        )
    formats: dict[str, Any] = {
        key: str(value[key]) for key in ("files", "separator", "encoding") if key in value
    }
    formats |= {
        key: tuple(map(str, given if isinstance(given := value[key], list) else [given]))
        for key in ("datetime_format", "date_format")
        if key in value
    }
    decimal, thousands = _number_marks(document, where, value)
    names = _file_names(document, where, value.get("file_name", {}), columns)
    try:
        codecs.lookup(formats.get("encoding", "utf-8"))
    except LookupError as error:
        raise MappingError(
            f"{document.at((*where, 'encoding'))}  `{formats['encoding']}` is not an encoding."
        ) from error
    if formats.get("files", "").startswith(("/", "..")) or "/../" in formats.get("files", ""):
        raise MappingError(
            f"{document.at((*where, 'files'))}  `files` is a pattern below the folder of the data."
        )
    nulls, nulls_of = _null_values(document, where, value.get("null_values", [""]), columns)
    return Table(
        name,
        columns,
        owner,
        bool(value.get("optional")),
        value.get("skip"),
        null_values=nulls,
        nulls_of=nulls_of,
        decimal=decimal,
        thousands=thousands,
        file_name=names,
        may_lack=frozenset(listed["may_lack"]),
        primary_key=listed["primary_key"],
        since=next(iter(listed["since"]), None),
        ignore_case=bool(document.value.get("ignore_case")),
        timezone=zone,
        format=document.value.get("format"),
        siblings=frozenset(document.value["tables"]),
        **formats,
    )


def _number_marks(document: Document, where: Where, value: Mapping[str, Any]) -> tuple[str, str | None]:
    """How numbers are written, by the table or else by the source."""
    found = {}
    for key, allowed in (("decimal", DECIMAL), ("thousands", THOUSANDS)):
        at: Where = (*where, key) if key in value else (key,)
        found[key] = value.get(key, document.value.get(key))
        if found[key] is not None and found[key] not in allowed:
            marks = " ".join(f'"{mark}"' for mark in allowed)
            raise MappingError(f"{document.at(at)}  `{key}` is one of {marks}.")
    decimal = str(found["decimal"] or ".")
    if decimal == found["thousands"]:
        raise MappingError(f"{document.at(where)}  `decimal` and `thousands` are the same, `{decimal}`.")
    return decimal, found["thousands"]


def _null_values(
    document: Document, where: Where, given: object, columns: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Texts that are no value: in all columns, and by column."""
    at = (*where, "null_values")
    if isinstance(given, list):
        return tuple(map(str, given)), {}
    if not isinstance(given, dict) or not all(isinstance(texts, list) for texts in given.values()):
        raise MappingError(f"{document.at(at)}  `null_values` is a list of texts, or {{column: [texts]}}.")
    for column in given:
        if column not in columns:
            raise MappingError(
                f"{document.at((*at, column))}  column `{column}` is not declared.{closest(str(column), columns)}"
            )
    return ("",), {str(column): tuple(map(str, texts)) for column, texts in given.items()}


def _file_names(
    document: Document, where: Where, given: object, columns: Mapping[str, str]
) -> dict[str, str]:
    at = (*where, "file_name")
    if not isinstance(given, dict):
        raise MappingError(
            f"{document.at(at)}  `file_name` is {{column: regular expression with one group}}."
        )
    for column, pattern in given.items():
        if column not in columns:
            raise MappingError(
                f"{document.at((*at, column))}  column `{column}` is not declared.{closest(column, columns)}"
            )
        try:
            groups = re.compile(str(pattern)).groups
        except re.error as error:
            raise MappingError(
                f"{document.at((*at, column))}  is not a regular expression: {error}."
            ) from error
        if groups != 1:
            raise MappingError(
                f"{document.at((*at, column))}  has {groups} groups; exactly one names the value."
            )
    return {str(column): str(pattern) for column, pattern in given.items()}
