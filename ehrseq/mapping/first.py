"""`ehrseq mappings new`: a first source.yaml, first mappings and cases from tables nobody has declared yet.

What is written is a start that runs, not an answer: types come from the first rows, meanings from names. Everything
that could not be placed is said, in the files (`TODO`, `ignore`) and in what the command prints. Cases are made of
invented values; nothing of a patient is copied.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from ehrseq.core.errors import MappingError
from ehrseq.mapping.cases import made_of
from ehrseq.mapping.check import load_mappings
from ehrseq.mapping.draft import Draft, draft
from ehrseq.mapping.guess import Guess, guess_tables, plain, subject_of
from ehrseq.mapping.sample import Sampled, sample_tables
from ehrseq.mapping.schema import mapping_schema
from ehrseq.sources.database import shown

SCHEMA = "schema.json"
_EDITOR = f"# yaml-language-server: $schema={SCHEMA}\n"


@dataclass(frozen=True)
class First:
    """What `new` wrote and guessed. `lines`: (table, what it was taken for, what is open)."""

    folder: str
    data: str
    subject: str
    lines: list[tuple[str, str, str]]
    unread: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        keys = ("table", "taken_for", "open")
        tables = [dict(zip(keys, line, strict=True)) for line in self.lines]
        return {"folder": self.folder, "subject": self.subject, "tables": tables, "unread": self.unread}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The guesses, a line a table, and what to do next."""
        grid = Grid("table", "taken for", "open", box=None, pad_edge=False, header_style="bold")
        for line in self.lines:
            grid.add_row(*(Text(part) for part in line))
        yield grid
        for file, reason in self.unread.items():
            yield Text(f"not read: {file}: {reason}", style="yellow")
        yield Text(
            f"patients are told apart by `{self.subject}`. Guessed from names and the first rows: look at each TODO."
        )
        yield Text(
            f"next:  ehrseq mappings check {self.folder}\n"
            f"       ehrseq mappings preview {self.folder} {self.data} MAPPING\n"
            f"       ehrseq map {self.folder} {self.data} --out fhir\n"
            f"       grep -n TODO {self.folder}/*.yaml, then: ehrseq mappings coverage {self.folder}"
        )


def new(folder: Path, data: str | Path, tables: Sequence[str] = (), timezone: str | None = None) -> First:
    """Write a first source into `folder`, which must not exist, for the tables of `data`, a folder or a database.

    Raises: MappingError if `folder` exists, or no column tells patients apart; SourceError if no table can be read.
    """
    if folder.exists():
        raise MappingError(
            f"{folder}: is there already, and is not overwritten. Name a folder that does not exist."
        )
    found, unread = sample_tables(data, tables)
    guesses = guess_tables(found)
    subject = subject_of(guesses)
    if subject is None:
        raise MappingError(
            f"{shown(str(data))}: no column looks like the number of a patient (patient_id, subject_id, PatNr, …). "
            "Name it so in a view or copy of the tables, or write source.yaml by hand (fhir_mappings/README.md)."
        )
    _same_types(guesses)
    drafts = draft(plain(folder.name), guesses)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as held:
        part = Path(held) / folder.name
        (part / "cases").mkdir(parents=True)
        used = {name for one in drafts for name in (one.table.name, *one.joined)}
        (part / "source.yaml").write_text(
            _source(plain(folder.name), guesses, subject, used, timezone), "utf-8"
        )
        for one in drafts:
            (part / f"{one.name}.yaml").write_text(_EDITOR + one.text(), "utf-8")
        (part / SCHEMA).write_text(json.dumps(mapping_schema(), separators=(",", ":")), "utf-8")
        _cases(part, drafts)
        shutil.move(part, folder)
    return First(str(folder), shown(str(data)), subject, _lines(guesses, drafts), unread)


def _same_types(guesses: list[Guess]) -> None:
    """Columns of patients and encounters are compared across tables, so that they need one type."""
    for role in ("patient", "encounter"):
        places = [(guess.table, guess.roles[role]) for guess in guesses if role in guess.roles]
        if len({table.columns[name] for table, name in places}) > 1:
            for table, name in places:
                table.columns[name] = "string"


def _source(name: str, guesses: list[Guess], subject: str, used: set[str], timezone: str | None) -> str:
    zone = (
        f"timezone: {timezone}\n"
        if timezone
        else "timezone: UTC  # TODO: the zone of the clocks, e.g. Europe/Berlin\n"
    )
    systems = {plain(guess.table.name): f"urn:ehrseq:{name}:{plain(guess.table.name)}" for guess in guesses}
    lines = [
        f"{_EDITOR}# First draft by `ehrseq mappings new`: types are those of the first rows.",
        f"source: {name}",
        'version: "1"',
        f"{zone}subject: {_flow(subject)}  # guessed: the column that says whose row it is",
        "constants:",
        "  systems:",
        "    act_code: http://terminology.hl7.org/CodeSystem/v3-ActCode",
        f"    patient: urn:ehrseq:{name}:patient-number  # TODO: URIs of your own",
        *(f"    {key}: {uri}" for key, uri in systems.items()),
        "tables:",
    ]
    for guess in guesses:
        table, owner = guess.table, guess.roles.get("patient")
        lines.append(f"  {_flow(table.name)}:")
        lines += [f"    # TODO: {doubt}" for doubt in table.doubts]
        if owner is None:
            lines.append("    shared: true  # why: no column of it looks like the number of a patient")
        elif owner != subject:
            lines.append(f"    subject: {_flow(owner)}")
        if table.name not in used:
            lines.append("    skip: 'TODO: not decided yet'")
        lines += [f"    {key}: {_flow(value)}" for key, value in table.options.items()]
        lines.append("    columns:")
        lines += [f"      {_flow(column)}: {kind}" for column, kind in table.columns.items()]
    return "\n".join(lines) + "\n"


def _cases(folder: Path, drafts: list[Draft]) -> None:
    """One case for each mapping: an invented row, and what the mapping makes of it."""
    mappings = load_mappings(folder)  # what was written passes its own check
    for one in drafts:
        rows: dict[str, list[Mapping[str, Any]]] = {one.table.name: [_invented(one.table, one.used)]}
        rows |= {table.name: [_invented(table, list(table.columns))] for table in one.dictionaries}
        made = made_of(mappings, one.name, rows)
        case = {"case": "invented values, as the first draft maps them", "rows": rows, **made}
        text = yaml.safe_dump([case], sort_keys=False, allow_unicode=True, width=110)
        said = (
            "# TODO: is this what it should be? Correct the resource, then the mapping until this passes.\n"
        )
        (folder / "cases" / f"{one.name}.yaml").write_text(said + text, "utf-8")


def _invented(table: Sampled, columns: Sequence[str]) -> dict[str, Any]:
    """A row of the right types and formats in which no value comes from the data."""
    moment = pl.Series([0]).cast(pl.Datetime("us")).dt.offset_by("50y3mo4d7h30m")
    row: dict[str, Any] = {}
    for column in dict.fromkeys(columns):
        match table.columns[column]:
            case "integer":
                row[column] = 1
            case "number":
                row[column] = "4" + table.options.get("decimal", ".") + "2"
            case "boolean":
                row[column] = True
            case ("datetime" | "date") as kind:
                usual = "%Y-%m-%d %H:%M:%S" if kind == "datetime" else "%Y-%m-%d"
                given = table.options.get(f"{kind}_format", usual)
                form = given if isinstance(given, str) else given[0]
                row[column] = moment.dt.strftime(form.replace("%z", "+0000"))[0]
            case _:
                row[column] = "invented"
    return row


def _lines(guesses: list[Guess], drafts: list[Draft]) -> list[tuple[str, str, str]]:
    lines = []
    for guess in guesses:
        mine = [one for one in drafts if one.table is guess.table]
        joined = [one.name for one in drafts if guess.table.name in one.joined]
        what = ", ".join(f"{one.resource} ({one.name})" for one in mine)
        if joined:
            what = f"dictionary of {', '.join(joined)}"
        open_ = ", ".join(dict.fromkeys(name for one in mine for name in one.left)) if mine else ""
        if not what:
            what = "-"
            open_ = (
                "skipped: no resource guessed" if "patient" in guess.roles else "skipped: no patient's column"
            )
        lines.append((guess.table.name, what, open_))
    return lines


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
