"""Documents to batches of rows. A document that cannot be read is one reject, of the table `documents`.

A document is parsed once for all of its tables: its rows are held until those of other documents take their place.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import polars as pl
from lxml import etree

from ehrseq.core.errors import SourceError
from ehrseq.sources.ccda.entries import body_rows
from ehrseq.sources.ccda.header import document_row, patient_row
from ehrseq.sources.ccda.people import People, key_of
from ehrseq.sources.ccda.values import Columns, identifiers, named
from ehrseq.sources.ccda.xml import DocumentError, parse, read_bytes
from ehrseq.sources.declaration import Table
from ehrseq.sources.rejects import join_rejects, rejects

type Rows = dict[str, list[Columns]]

SUFFIXES = (".xml", ".ccda", ".cda")
"""What the name of a document ends in."""
_ROWS_AT_ONCE = 20_000
_BYTES_HELD = 16 << 20
_EVER = "9999-12-31 00:00:00"


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of a table of the documents: its columns as text, `_file` and `_row` (from 1).

    Raises: SourceError if a file cannot be opened.
    """
    rows: list[tuple[str | int | None, ...]] = []
    unread: list[pl.DataFrame] = []
    for path, name in files:
        found = _file_rows(path, table.timezone)
        if isinstance(found, DocumentError):
            if table.name == "documents":
                unread.append(_refused(name, found))
            continue
        columns = tuple(table.columns)
        for number, row in enumerate(found.get(table.name, ()), start=1):
            rows.append((*map(row.get, columns), name, number))
        if len(rows) >= _ROWS_AT_ONCE:
            yield _frame(table, rows), join_rejects(unread)
            rows, unread = [], []
    yield _frame(table, rows), join_rejects(unread)


def _frame(table: Table, rows: list[tuple[str | int | None, ...]]) -> pl.DataFrame:
    schema = {**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    values = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pl.DataFrame(
        {name: pl.Series(value, dtype=schema[name]) for name, value in zip(schema, values, strict=True)}
    )


def _refused(name: str, error: DocumentError) -> pl.DataFrame:
    place = pl.DataFrame({"_file": [name], "_row": [1]})
    return rejects(place, "documents", rule=error.rule, message=str(error))


@lru_cache(1)
def _held() -> dict[tuple[Path, int, int, str], Rows | DocumentError]:
    """Documents read by this process, for the tables that are read from them next."""
    return {}


def _file_rows(path: Path, timezone: str) -> Rows | DocumentError:
    held = _held()
    try:
        stat = path.stat()
        stamp = (path, stat.st_mtime_ns, stat.st_size, timezone)
        if stamp in held:
            return held[stamp]
        found: Rows | DocumentError = document_rows(read_bytes(path), timezone)
    except DocumentError as error:
        found = error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}. Check the file.") from error
    if sum(size for _, _, size, _ in held) + stat.st_size > _BYTES_HELD:
        held.clear()
    held[stamp] = found
    return found


def document_rows(data: bytes, timezone: str) -> Rows:
    """Rows of every table of one document. Raises: DocumentError.

    `document` is the hash of its bytes, `patient` root and extension of the patient's id.
    """
    root = parse(data)
    role = _patient_role(root)
    patient = _patient(role)
    people = People(role)
    about = document_row(root, people, timezone)
    version = about["version"] or ""
    about["version"] = version if version.isdigit() and about["set_id"] else None
    about["written"] = _clock(about["time"])
    keys: Columns = {"document": hashlib.sha256(data).hexdigest()[:16], "patient": patient, "set_id": about["set_id"],
                     "version": about["version"], "ever": _EVER, "document_time": about["time"],
                     "document_author": about["author"], "document_visit": about.get("visit")}  # fmt: skip
    body = body_rows(root, people, timezone)
    genders = {row["code"]: row for row in body.get("social_history", ())}
    found = {
        "documents": [about],
        "patients": [{**patient_row(root, people, timezone), **_genders(genders)}],
        **body,
    }
    rows: Rows = {name: [{**keys, **row} for row in part] for name, part in found.items()}
    return {
        **rows,
        "practitioners": [*people.practitioners.values()],
        "organizations": [*people.organizations.values()],
    }


def _clock(time: str | None) -> str | None:
    """A dateTime, which may be partial, as a clock in UTC; None if it is no time."""
    text = time or ""
    try:
        moment = datetime.fromisoformat(text + {4: "-01-01", 7: "-01"}.get(len(text), ""))
    except ValueError:
        return None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y-%m-%d %H:%M:%S")


def _genders(observations: dict[str | None, Columns]) -> Columns:
    """Birth sex and gender identity, which are observations of the social history."""
    sex, identity = observations.get("76689-9", {}), observations.get("76691-5", {})
    return {"birth_sex": sex.get("value_code") or sex.get("absent"), "gender_identity": identity.get("value_code"),
            "gender_identity_system": identity.get("value_system"),
            "gender_identity_display": identity.get("value_display")}  # fmt: skip


def _patient_role(root: etree._Element) -> etree._Element:
    """Raises: DocumentError (rules `no patient`, `patient conflict`)."""
    roles = root.findall("recordTarget/patientRole")
    if not roles:
        lacking = f"the header has no recordTarget: a fragment of {_content(root)}, of nobody who is named"
        raise DocumentError("no patient", lacking)
    if len({_name_of(role) for role in roles}) > 1:
        raise DocumentError(
            "patient conflict", f"recordTarget names {len(roles)} patients with different ids"
        )
    return roles[0]


def _content(root: etree._Element) -> str:
    sections, entries = len(root.findall(".//section")), len(root.findall(".//section/entry"))
    return (
        f"{sections} section{'' if sections == 1 else 's'} and {entries} entr{'y' if entries == 1 else 'ies'}"
    )


def _patient(role: etree._Element) -> str:
    name = _name_of(role)
    if name is None:
        raise DocumentError(
            "no patient", "recordTarget has no patient with an id: each has a nullFlavor, or none is there"
        )
    return name


def _name_of(role: etree._Element) -> str | None:
    """Root and extension of the first id that has an extension, or a root alone."""
    ids = sorted(identifiers(role.iterfind("id")), key=lambda x: named(x)[1] is None)
    return key_of(ids[0]) if ids else None
