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
names of the files (the first group of a regular expression). `encoding` is that of text files, UTF-8 unless given.
`may_lack` lists columns that a file may do without; they are null then. `primary_key` lists the columns that name a
row, by which a later delivery replaces or deletes it. `ignore_case: true` (of the source) finds files and columns
whatever their case.
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
    "files",
    "file_name",
    "separator",
    "encoding",
    "may_lack",
    "primary_key",
}
_SOURCE_KEYS = {
    "source",
    "version",
    "title",
    "timezone",
    "subject",
    "ignore_case",
    "extends",
    "constants",
    "tables",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One declared table. `subject` is the column that names the subject; None for shared tables.

    `timezone` is that of the source: clocks that come with an offset are turned into its wall clock.
    """

    name: str
    columns: Mapping[str, str]
    subject: str | None
    optional: bool = False
    skip: str | None = None
    datetime_format: str = "%Y-%m-%d %H:%M:%S"
    date_format: str = "%Y-%m-%d"
    null_values: tuple[str, ...] = ("",)
    files: str | None = None
    file_name: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    encoding: str = "utf-8"
    may_lack: frozenset[str] = frozenset()
    primary_key: tuple[str, ...] = ()
    ignore_case: bool = False
    timezone: str = "UTC"

    @property
    def header(self) -> list[str]:
        """Columns that a file has to have."""
        return [name for name in self.columns if name not in self.file_name]

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
    """Read `FOLDER/source.yaml`, which extends nothing. Raises: MappingError with file and line."""
    return parse_source(load_yaml(folder / "source.yaml", MappingError), folder)


def parse_source(document: Document, folder: Path) -> Source:
    """Read a declaration. Raises: MappingError with file and line."""
    check_keys(document, (), document.value, _SOURCE_KEYS, MappingError)
    value = document.value
    for key in ("source", "tables"):
        if key not in value:
            raise MappingError(f"{document.path}:1  lacks `{key}`.")
    zone = str(value.get("timezone", "UTC"))
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise MappingError(f"{document.at(('timezone',))}  `{zone}` is not an IANA time zone.") from error
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
    )


def _table(document: Document, name: str, subject: str | None, zone: str) -> Table:
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
    listed = {key: tuple(map(str, value.get(key, ()))) for key in ("may_lack", "primary_key")}
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
    formats = {
        key: str(value[key])
        for key in ("datetime_format", "date_format", "files", "separator", "encoding")
        if key in value
    }
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
    nulls = tuple(value.get("null_values", [""]))
    return Table(
        name,
        columns,
        owner,
        bool(value.get("optional")),
        value.get("skip"),
        null_values=nulls,
        file_name=names,
        may_lack=frozenset(listed["may_lack"]),
        primary_key=listed["primary_key"],
        ignore_case=bool(document.value.get("ignore_case")),
        timezone=zone,
        **formats,
    )


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
