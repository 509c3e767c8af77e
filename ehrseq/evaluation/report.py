"""One self-contained HTML page per run, for a clinician and for the engineer who ran it.

    write_report(path, ReportData(title="...", evaluation=assess(predictions, truth=truth), synthetic=True))

Nothing is fetched when the page is opened: styles and figures are inside. It prints, and follows a dark
screen. Only `title` and `evaluation` are needed; a part that is not given is not shown.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ehrseq.core.files import write_bytes
from ehrseq.evaluation.page import page
from ehrseq.evaluation.report_data import (
    CohortRow,
    FlowStep,
    Lineage,
    ReportData,
    cohort_of,
    lineage_of,
)

__all__ = [
    "CohortRow",
    "FlowStep",
    "Lineage",
    "ReportData",
    "cohort_of",
    "lineage_of",
    "render_report",
    "write_report",
]


def write_report(path: Path, data: ReportData) -> Path:
    """Write the page to `path` in one step, so that nobody reads half of it; returns `path`.

    Raises: StorageError if the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, render_report(data).encode())
    return path


def render_report(data: ReportData) -> str:
    """The page as text: HTML that is also well-formed XML. The same data give the same bytes."""
    environment = Environment(
        loader=PackageLoader("ehrseq.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(page=page(data)).lstrip()
