"""Documents to batches of rows. A document that cannot be read is one reject, of the table `documents`."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl
from lxml import etree

from ehrseq.core.errors import SourceError
from ehrseq.sources.ccda.entries import entries, may_have
from ehrseq.sources.ccda.values import coding, fhir_time, plain_text
from ehrseq.sources.ccda.xml import DocumentError, parse, read_bytes
from ehrseq.sources.declaration import Table
from ehrseq.sources.rejects import join_rejects, rejects

SUFFIXES = (".xml", ".ccda", ".cda")
"""What the name of a document ends in."""
_ROWS_AT_ONCE = 20_000


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of a table of the documents: its columns as text, `_file` and `_row` (entries from 1).

    Raises: SourceError if a file cannot be opened.
    """
    rows: list[dict[str, object]] = []
    unread: list[pl.DataFrame] = []
    for path, name in files:
        try:
            found = enumerate(_rows(table, path), start=1)
            rows += [{**row, "_file": name, "_row": number} for number, row in found]
        except DocumentError as error:
            if table.name == "documents":
                unread.append(_refused(name, error))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}. Check the file.") from error
        if len(rows) >= _ROWS_AT_ONCE:
            yield _frame(table, rows), join_rejects(unread)
            rows, unread = [], []
    yield _frame(table, rows), join_rejects(unread)


def _frame(table: Table, rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    )


def _refused(name: str, error: DocumentError) -> pl.DataFrame:
    place = pl.DataFrame({"_file": [name], "_row": [1]})
    return rejects(place, "documents", rule=error.rule, message=str(error))


def _rows(table: Table, path: Path) -> Iterable[dict[str, str | None]]:
    data = read_bytes(path)
    if not may_have(data, table.name):
        return []
    root = _parsed(data)
    person = root.find("recordTarget/patientRole")
    patient = _identifier(person)
    if patient is None:
        raise DocumentError("no patient", "recordTarget has no patient with an id")
    document = hashlib.sha256(data).hexdigest()[:16]
    keys: dict[str, str | None] = {"document": document, "patient": patient}
    if table.name == "documents":
        return [{**keys, **_header(root, table.timezone)}]
    found = entries(root, table.name, table.timezone)
    return [{**keys, **entry, "number": str(number)} for number, entry in enumerate(found, start=1)]


@lru_cache(maxsize=128)  # the tables of neighbouring documents are read one after the other
def _parsed(data: bytes) -> etree._Element:
    return parse(data)


def _identifier(role: etree._Element | None) -> str | None:
    """Root and extension of the first id that has one, or a root alone."""
    ids = [x for x in role.iterfind("id") if x.get("root") or x.get("extension")] if role is not None else []
    ids.sort(key=lambda x: x.get("extension") is None)
    parts = [ids[0].get("root"), ids[0].get("extension")] if ids else []
    return "-".join(part.strip() for part in parts if part) or None


def _header(root: etree._Element, timezone: str) -> dict[str, str | None]:
    role = root.find("recordTarget/patientRole")
    code, system, display = coding(root.find("code"))
    visit = root.find("componentOf/encompassingEncounter")
    period = visit.find("effectiveTime") if visit is not None else None
    bounds = {tag: period.find(tag) if period is not None else None for tag in ("low", "high")}
    visit_code = coding(visit.find("code") if visit is not None else None)

    def value(path: str, attribute: str) -> str | None:
        found = role.find(path) if role is not None else None
        return found.get(attribute) if found is not None else None

    time = root.find("effectiveTime")
    return {
        "code": code, "system": system, "display": display, "title": plain_text(root.find("title")),
        "time": fhir_time(time.get("value"), timezone) if time is not None else None,
        "family": plain_text(role.find("patient/name/family")), "given": plain_text(role.find("patient/name/given")),
        "gender": value("patient/administrativeGenderCode", "code"),
        "birth": (fhir_time(value("patient/birthTime", "value"), timezone) or "")[:10] or None,
        "visit": "yes" if visit is not None else None,
        "visit_code": visit_code[0], "visit_system": visit_code[1], "visit_display": visit_code[2],
        **{f"visit_{tag}": fhir_time(x.get("value"), timezone) for tag, x in bounds.items() if x is not None},
        "visit_time": fhir_time(period.get("value"), timezone) if period is not None else None,
    }  # fmt: skip
