"""`ehrseq doctor`: what is here and what is missing, before a long run finds out."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import EhrseqError, ExitCode

type Grade = Literal["ok", "note", "missing"]
_STYLE = {"ok": "green", "note": "yellow", "missing": "bold red"}
_LEAST_DISK, _LEAST_MEMORY = 5 << 30, 4 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `remedy` says what to do unless the grade is ok."""

    what: str
    grade: Grade
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; exit code 2 if something that is needed is missing."""

    findings: list[Finding]

    @property
    def exit_code(self) -> ExitCode:
        """2 if a finding is `missing`, else 0."""
        bad = any(finding.grade == "missing" for finding in self.findings)
        return ExitCode.USAGE if bad else ExitCode.DONE

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"findings": [vars(finding) for finding in self.findings]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A table: one finding a line, with its remedy."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for item in self.findings:
            text = f"{item.found}. {item.remedy}" if item.remedy else item.found
            table.add_row(Text(item.grade, style=_STYLE[item.grade]), item.what, Text(text))
        yield table


def doctor() -> Diagnosis:
    """Look at Python, libraries, devices, memory, disk, permissions and shipped mappings."""
    looks: list[Callable[[], Iterator[Finding]]] = [_python, _libraries, _devices, _memory, _disk, _mappings]
    return Diagnosis([finding for look in looks for finding in look()])


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 12)
    remedy = "" if good else "ehrseq needs Python 3.12 or newer."
    yield Finding("python", "ok" if good else "missing", platform.python_version(), remedy)


def _libraries() -> Iterator[Finding]:
    for line in requires("ehrseq") or []:
        if "extra ==" in line:
            continue
        name = line.split(">")[0].split("[")[0].split(";")[0].strip()
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "missing", "not installed", f"`pip install {name}`, or `uv sync`.")


def _devices() -> Iterator[Finding]:
    try:
        import jax

        found = ", ".join(sorted({device.device_kind for device in jax.devices()}))
        backend = jax.default_backend()
    except Exception as error:  # a broken driver fails in many ways
        yield Finding("devices", "missing", f"JAX does not start ({type(error).__name__})", "Reinstall jax.")
        return
    grade: Grade = "note" if backend == "cpu" else "ok"
    remedy = "For a GPU: `pip install ehrseq[cuda]`." if backend == "cpu" else ""
    yield Finding(
        "devices", grade, f"{backend}: {len(jax.devices())} x {found}, {os.cpu_count()} CPU cores", remedy
    )


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    grade: Grade = "ok" if free >= _LEAST_MEMORY else "note"
    remedy = "" if grade == "ok" else "The demo needs 4 GiB; use fewer --patients."
    yield Finding("memory", grade, f"{free / 2**30:.1f} GiB available", remedy)


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    grade: Grade = "ok" if free >= _LEAST_DISK else "note"
    remedy = "" if grade == "ok" else "Choose an --out with more room."
    yield Finding("disk", grade, f"{free / 2**30:.1f} GiB free in {here}", remedy)
    try:
        with tempfile.NamedTemporaryFile(dir=here):
            yield Finding("permissions", "ok", f"{here} can be written")
    except OSError as error:
        yield Finding(
            "permissions", "note", f"{here} cannot be written ({error.strerror})", "Choose another --out."
        )


def _mappings() -> Iterator[Finding]:
    from ehrseq.mapping.check import check, shipped_sources

    try:
        sources = shipped_sources()
    except (EhrseqError, StopIteration):
        yield Finding("mappings", "missing", "fhir_mappings is not there", "Reinstall ehrseq.")
        return
    for name, folder in sources.items():
        mappings, problems = check(folder)
        count = len(mappings.mappings) if mappings else 0
        remedy = f"`ehrseq mappings check {name}` lists them." if problems else ""
        grade: Grade = "missing" if problems else "ok"
        yield Finding(f"mappings of {name}", grade, f"{count} mappings, {len(problems)} problems", remedy)
