"""The cases of the SQL-on-FHIR v2 specification, run on our compiler, as a table of what passes.

    python tests/timeline/sql_on_fhir.py FOLDER     # exit 1 if a case fails

FOLDER holds the suite's JSON files: resources, and tests of a view with the rows, columns or error to expect.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ehrseq.core.errors import TimelineError
from ehrseq.fhir.json_columns import json_columns
from ehrseq.timeline import run_view, view_of
from ehrseq.timeline.reads import elements_read


class Case(NamedTuple):
    """One test of a suite. `fault`: why it fails; empty if it passes."""

    suite: str
    title: str
    expects: str
    fault: str


def cases(folder: Path) -> Iterator[Case]:
    """Run every case of every suite."""
    for path in sorted(folder.glob("*.json")):
        suite = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(suite.get("tests"), list):
            for test in suite["tests"]:
                expects = next(name for name in ("expectError", "expect", "expectColumns") if name in test)
                yield Case(path.stem, test["title"], expects, fault(suite["resources"], test))


def fault(resources: list[dict[str, Any]], test: dict[str, Any]) -> str:
    """What is wrong with what we give for a test; empty if nothing is."""
    rows = [resource for resource in resources if resource["resourceType"] == test["view"].get("resource")]
    try:
        view = view_of(test["view"])
        texts = pl.Series([json.dumps(row) for row in rows], dtype=pl.String)
        found = run_view(view, json_columns(texts, view.resource, elements_read([view])[view.resource]))
    except TimelineError as error:
        return "" if test.get("expectError") else f"refused: {error}"
    if test.get("expectError"):
        return "an error is expected"
    if "expectColumns" in test and found.columns != test["expectColumns"]:
        return f"columns {found.columns}, expected {test['expectColumns']}"
    if "expect" in test and _bag(found.rows(named=True)) != _bag(test["expect"]):
        return f"rows {found.rows(named=True)}, expected {test['expect']}"
    return ""


def table(done: list[Case]) -> str:
    """Passed of all for each suite, the errors expected among them, and each failure in words."""
    lines = [f"{'suite':<24}{'passed':>8}{'cases':>8}{'errors expected':>18}"]
    for suite in [*dict.fromkeys(case.suite for case in done), "all"]:
        mine = [case for case in done if suite in (case.suite, "all")]
        errors = sum(case.expects == "expectError" for case in mine)
        passed = sum(not case.fault for case in mine)
        lines.append(f"{suite:<24}{passed:>8}{len(mine):>8}{errors:>18}")
    lines += [f"FAILED {case.suite}: {case.title}: {case.fault}" for case in done if case.fault]
    return "\n".join(lines)


def _bag(rows: list[dict[str, Any]]) -> list[str]:
    """Rows without order; 5 and 5.0 are the same number."""
    return sorted(
        json.dumps({k: float(v) if type(v) is int else v for k, v in row.items()}, sort_keys=True)
        for row in rows
    )


if __name__ == "__main__":
    finished = list(cases(Path(sys.argv[1])))
    print(table(finished))
    raise SystemExit(any(case.fault for case in finished))
