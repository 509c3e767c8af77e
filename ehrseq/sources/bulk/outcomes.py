"""What a server says in OperationOutcomes: why it refuses, and what of an export it could not give."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrseq.sources.fhir.files import read_texts

OUTCOMES = "outcomes/outcomes.parquet"
SCHEMA = pl.Schema({
    "file": pl.String(), "row": pl.Int64(), "severity": pl.String(), "code": pl.String(), "json": pl.String(),
})  # fmt: skip
"""One OperationOutcome a row, with severity and code of its first issue; as confidential as the source."""

_PASSING = {"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"}
_LONGEST = 300
_CODE = r"^[a-z-]{1,24}$"  # of the value sets issue-severity and issue-type; anything else is not shown


def refusal(body: bytes) -> str:
    """What the server says of our own request, in brief; '' if it says nothing. Not for messages about patients.

    >>> refusal(b'{"resourceType": "OperationOutcome", "issue": [{"code": "invalid", "diagnostics": "no such Group"}]}')
    ' (invalid: no such Group)'
    """
    parts = []
    for issue in _issues(body):
        details = issue.get("details")
        words = details.get("text") if isinstance(details, dict) else None
        parts.append(
            f"{issue.get('code', 'unknown')}: {words or issue.get('diagnostics') or 'no reason given'}"
        )
    return f" ({plain('; '.join(parts))})" if parts else ""


def has_failed(body: bytes) -> bool:
    """Whether an OperationOutcome says that the work itself has failed, and not only this question.

    Source: Bulk Data Access 2.0, status request: transient codes ask the client to try again.
    """
    codes = [issue.get("code") for issue in _issues(body)]
    return bool(codes) and not _PASSING.intersection(map(str, codes))


def plain(text: str) -> str:
    """Text of a server, fit for one line of a message."""
    return re.sub(r"[^\x20-\x7e\xa0-\uffff]+", " ", text)[:_LONGEST]


def _issues(body: bytes) -> list[dict[str, object]]:
    try:
        found = json.loads(body)
    except ValueError:
        return []
    if not isinstance(found, dict) or found.get("resourceType") != "OperationOutcome":
        return []
    issues = found.get("issue")
    return [issue for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []


def read_outcomes(files: Sequence[tuple[Path, str]]) -> pl.DataFrame:
    """The OperationOutcomes of an export's error files, by `SCHEMA`."""
    texts = pl.concat([pl.DataFrame(schema={"_json": pl.String, "_file": pl.String, "_row": pl.Int64})]
                      + [batch.select("_json", "_file", "_row") for batch in read_texts(list(files))])  # fmt: skip
    issue = pl.col("_json").str.json_path_match
    return texts.drop_nulls("_json").select(
        file="_file",
        row="_row",
        severity=_known(issue("$.issue[0].severity")),
        code=_known(issue("$.issue[0].code")),
        json="_json",
    )


def _known(code: pl.Expr) -> pl.Expr:
    return pl.when(code.str.contains(_CODE)).then(code).otherwise(pl.lit("other"))


def counted(outcomes: pl.DataFrame) -> dict[str, int]:
    """Outcomes by severity and code, e.g. `{"error processing": 2}`."""
    words = pl.concat_str("severity", "code", separator=" ").alias("what")
    return dict(outcomes.group_by(words).len().sort("what").iter_rows())
