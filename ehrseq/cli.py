"""The command line: verbs only. Each verb is one function of `ehrseq` with the same name.

Results go to stdout (`--json`: one object, on the last line), progress and errors to stderr. Exit codes are those
of `ehrseq.core.errors.ExitCode`. Libraries are imported inside the verbs, so that `--help` answers at once.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from ehrseq.cli_deploy import register
from ehrseq.cli_models import models
from ehrseq.command import Force, Json, Out, Quiet, Seed, Workers, do, fail
from ehrseq.core.errors import EhrseqError, ExitCode

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Any hospital's records to FHIR, timelines, tokens and JAX models.",
    epilog="Start with: ehrseq demo",
)
mappings = typer.Typer(
    no_args_is_help=True, help="Work with mapping files: new, list, check, test, preview, coverage, schema."
)
app.add_typer(mappings, name="mappings")
imports = typer.Typer(
    no_args_is_help=True, help="Bring in what is FHIR already: files, a server's Bulk Data."
)
app.add_typer(imports, name="import")
exports = typer.Typer(no_args_is_help=True, help="Give out: FHIR, and tables made by views.")
app.add_typer(exports, name="export")
app.add_typer(models, name="models")
register(app)

Source = Annotated[
    str, typer.Argument(help="A shipped source (see `mappings list`) or a folder of mappings.")
]
Tables = Annotated[
    str,
    typer.Argument(
        help="Folder of the source's tables, or a database: postgresql://…, a .sqlite or .duckdb file."
    ),
]
Validate = Annotated[
    str, typer.Option(help="sample, full or none: how many resources also pass fhir.resources.R4B.")
]
Rejects = Annotated[float, typer.Option(help="Fail (exit 3) when a larger fraction of the rows is rejected.")]


class TerminatedError(EhrseqError):
    """The process was asked to stop (SIGTERM)."""

    exit_code = ExitCode.TEMPORARY


def main() -> NoReturn:
    """Entry point of the command `ehrseq`."""
    signal.signal(signal.SIGTERM, _terminate)
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(prog_name="ehrseq", standalone_mode=False)
    except typer.TyperException as error:
        verb, message = _usage(error)
        fail(verb, as_json, message, int(ExitCode.USAGE))
    except EhrseqError as error:  # SIGTERM outside a verb's work
        fail("", as_json, str(error), int(error.exit_code))
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _usage(error: typer.TyperException) -> tuple[str, str]:
    """The verb, and what is wrong with the command line."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "ehrseq"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message or "A verb is missing."  # the help has just been printed
    verb = path.partition(" ")[2]
    return verb, f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{path} --help`."


def _terminate(_: int, __: FrameType | None) -> None:
    raise TerminatedError("Stopped by SIGTERM. Nothing is half written; run the same command again to go on.")


@app.command()
def demo(
    out: Out = Path("ehrseq-demo"),
    patients: Annotated[int, typer.Option(help="Patients of the generated hospital.")] = 2000,
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate a hospital, run the whole way on it, and end with a report."""

    def work() -> Any:
        from ehrseq.deploy.pipeline import demo

        return demo(out, patients=patients, seed=seed, workers=workers)

    do("demo", as_json, quiet, work)


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(help="A shipped source, a folder of mappings, `fhir` (NDJSON, Bundles) or `meds`."),
    ],
    data: Tables,
    out: Out,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Task; may be given again. Default: mortality, stay, readmission."),
    ] = None,
    validate: Validate = "sample",
    max_reject_fraction: Rejects = 0.05,
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """From a source's tables, FHIR or MEDS to a trained, evaluated model: one folder for each stage, and a report."""

    def work() -> Any:
        from ehrseq.deploy.pipeline import run

        return run(
            source, data, out, tasks=task, validate=validate, max_reject_fraction=max_reject_fraction, seed=seed,
            workers=workers,
        )  # fmt: skip

    do("run", as_json, quiet, work)


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file: timeline, out, and if you like tasks and train (its settings).")
    ],
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tokenize, label, train, predict and judge a timeline as a file says; another file, another run to compare."""

    def work() -> Any:
        from ehrseq.deploy.pipeline import train

        return train(config, workers=workers)

    do("train", as_json, quiet, work)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    patients: Annotated[int, typer.Option(help="Patients of the generated hospital.")] = 2000,
    format_: Annotated[
        str, typer.Option("--format", help="mimic_iv or omop: the layout of the tables.")
    ] = "mimic_iv",
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate a hospital's tables, with the true risk of every patient beside them."""

    def work() -> Any:
        import ehrseq

        return ehrseq.generate(out, patients=patients, seed=seed, format=format_)

    do("generate", as_json, quiet, work)


@app.command("map")
def map_(
    source: Source,
    data: Tables,
    out: Out,
    delta: Annotated[
        bool,
        typer.Option("--delta", help="DATA is what is new since the store at OUT (made with --keep-rows)."),
    ] = False,
    keep_rows: Annotated[
        bool,
        typer.Option("--keep-rows", help="Keep the rows in the store, so that deltas can be laid over them."),
    ] = False,
    allow_changed_columns: Annotated[
        bool,
        typer.Option("--allow-changed-columns", help="Go on if columns differ from the last delivery's."),
    ] = False,
    validate: Validate = "sample",
    workers: Workers = 1,
    max_reject_fraction: Rejects = 0.05,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Map a source's tables to a FHIR store; every row is accounted for, and what has not changed stays as it is."""

    def work() -> Any:
        import ehrseq

        return ehrseq.map(
            source,
            data,
            out,
            delta=delta,
            keep_rows=keep_rows,
            allow_changed_columns=allow_changed_columns,
            validate=validate,
            workers=workers,
            max_reject_fraction=max_reject_fraction,
            force=force,
        )

    do("map", as_json, quiet, work)


@imports.command("fhir")
def import_fhir(
    data: Annotated[Path, typer.Argument(help="NDJSON files and Bundles: a file, or a folder of them.")],
    out: Out,
    strict: Annotated[
        bool, typer.Option("--strict", help="Reject resources with elements that R4B does not have.")
    ] = False,
    workers: Workers = 1,
    max_reject_fraction: Rejects = 0.05,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import FHIR R4 or R4B as a FHIR store; every resource is kept as it came and accounted for."""

    def work() -> Any:
        import ehrseq

        return ehrseq.import_fhir(
            data, out, strict=strict, workers=workers, max_reject_fraction=max_reject_fraction, force=force
        )

    do("import fhir", as_json, quiet, work)


@imports.command("bulk")
def import_bulk(
    url: Annotated[str, typer.Argument(help="The FHIR server's base, or base/Patient, or base/Group/ID.")],
    out: Out,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="Resource type; may be given again. Default: all.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Ask for changes since this instant. Default: since the last run.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Ask for all, and make the store anew.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up an export that is under way, and begin another.")
    ] = False,
    client_id: Annotated[
        str | None, typer.Option(help="SMART Backend Services: who we are at the server.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="File of our private key: JWK or PEM.")] = None,
    key_id: Annotated[str | None, typer.Option(help="The key's `kid`, where the file has none.")] = None,
    scope: Annotated[str | None, typer.Option(help="Default: system/TYPE.rs of each type, or .read.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host, or host:port, for files and tokens; may be given again."),
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds that the server may fail in a row.")] = 3600,
    max_wait: Annotated[float, typer.Option(help="Seconds that it may take to prepare the export.")] = 86_400,
    max_file_gb: Annotated[float, typer.Option(help="Largest file to accept.")] = 100,
    strict: Annotated[
        bool, typer.Option("--strict", help="Reject resources with elements that R4B does not have.")
    ] = False,
    workers: Workers = 1,
    max_reject_fraction: Rejects = 0.05,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import a FHIR server's Bulk Data export; the next time, what has changed since."""

    def work() -> Any:
        import ehrseq

        return ehrseq.import_bulk(
            url, out, types=type_ or (), since=since, full=full, restart=restart, client_id=client_id, key=key,
            key_id=key_id, scope=scope, allow_hosts=allow_host or (), patience=patience, max_wait=max_wait,
            max_file_gb=max_file_gb, strict=strict, workers=workers, max_reject_fraction=max_reject_fraction,
        )  # fmt: skip

    do("import bulk", as_json, quiet, work)


@imports.command("meds")
def import_meds(
    data: Annotated[Path, typer.Argument(help="A MEDS dataset (0.3 or 0.4): a folder, or one Parquet file.")],
    out: Out,
    seed: Seed = 0,
    max_reject_fraction: Rejects = 0.05,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import a MEDS dataset as a timeline, which `tokenize` and `label` take as they take our own."""

    def work() -> Any:
        import ehrseq

        return ehrseq.import_meds(data, out, seed=seed, max_reject_fraction=max_reject_fraction, force=force)

    do("import meds", as_json, quiet, work)


@exports.command("fhir")
def export_fhir(
    fhir: Annotated[Path, typer.Argument(help="A FHIR store.")],
    out: Out,
    form: Annotated[
        str, typer.Option(help="ndjson (Bulk layout), bundles (by patient), transactions (PUT).")
    ] = "ndjson",
    compress: Annotated[bool, typer.Option("--gz", help="Compress each file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a FHIR store as NDJSON, Bundles by patient, or transactions that load a server."""

    def work() -> Any:
        import ehrseq

        return ehrseq.export_fhir(fhir, out, form=form, compress=compress)

    do("export fhir", as_json, quiet, work)


@exports.command("view")
def export_view(
    view: Annotated[Path, typer.Argument(help="A SQL-on-FHIR ViewDefinition, YAML or JSON.")],
    fhir: Annotated[Path, typer.Argument(help="A FHIR store.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .parquet, .csv or .ndjson.")],
    as_json: Json = False,
) -> None:
    """Run a ViewDefinition over a FHIR store and write its rows."""

    def work() -> Any:
        import ehrseq

        return ehrseq.export_view(view, fhir, out)

    do("export view", as_json, True, work)


@app.command()
def timeline(
    fhir: Annotated[Path, typer.Argument(help="A FHIR store.")],
    out: Out,
    views: Annotated[
        Path | None, typer.Option(help="Folder of ViewDefinitions that replace or add to ours.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Zone of dates without a clock; default: that of the source.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Parquet file of subject_id and split (train, tuning, held_out).")
    ] = None,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serialize a FHIR store into one timeline per patient (a MEDS dataset)."""

    def work() -> Any:
        from ehrseq.timeline.serialize import timeline

        return timeline(fhir, out, views=views, timezone=timezone, splits=splits, workers=workers)

    do("timeline", as_json, quiet, work)


@app.command("coverage")
def element_coverage(
    fhir: Annotated[Path, typer.Argument(help="A FHIR store.")],
    views: Annotated[
        Path | None, typer.Option(help="Folder of ViewDefinitions that replace or add to ours.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the table here, as Parquet.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say of every element of a FHIR store where on the timeline it goes, or why it does not."""

    def work() -> Any:
        import ehrseq

        return ehrseq.coverage(fhir, views=views, out=out)

    do("coverage", as_json, True, work)


@app.command()
def tokenize(
    timeline: Annotated[Path, typer.Argument(help="A timeline.")],
    out: Out,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Of a token store or model, taken as it is: nothing is fitted.")
    ] = None,
    extend: Annotated[
        Path | None, typer.Option(help="Of a token store or model, grown: old names keep their ids.")
    ] = None,
    min_patients: Annotated[
        int, typer.Option(help="Distinct training patients that a name of the vocabulary needs.")
    ] = 5,
    notes: Annotated[
        str, typer.Option(help="pieces: a position for each piece; bag: one position a note.")
    ] = "pieces",
    timezone: Annotated[
        str | None, typer.Option(help="Zone of the patients' clocks; default: that of the source, if known.")
    ] = None,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn timelines into a memory-mapped token store with its vocabulary."""

    def work() -> Any:
        import ehrseq

        return ehrseq.tokenize(
            timeline, out, vocabulary=vocabulary, extend=extend, min_patients=min_patients, notes=notes,
            timezone=timezone, workers=workers,
        )  # fmt: skip

    do("tokenize", as_json, quiet, work)


@app.command()
def label(
    task: Annotated[str, typer.Argument(help="A shipped task, or a task file (ACES YAML).")],
    timeline: Annotated[Path, typer.Argument(help="A timeline.")],
    out: Out,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a task's cohort and labels in timelines."""

    def work() -> Any:
        import ehrseq

        return ehrseq.label(task, timeline, out, workers=workers)

    do("label", as_json, quiet, work)


@app.command()
def features(
    timeline: Annotated[Path, typer.Argument(help="A timeline.")],
    labels: Annotated[Path, typer.Argument(help="Labels of a task on it.")],
    out: Out,
    codes: Annotated[int, typer.Option(help="How many codes: those that most training patients have.")] = 200,
    windows: Annotated[
        str, typer.Option(help="Hours to look back, with commas; inf is all history.")
    ] = "24,720,inf",
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a table for your own models: a row a label; count, last, min, max and trend of each code and window."""

    def work() -> Any:
        import ehrseq
        from ehrseq.tasks.features import read_windows

        return ehrseq.features(
            timeline, labels, out, windows_hours=read_windows(windows), codes=codes, workers=workers
        )

    do("features", as_json, quiet, work)


@app.command()
def show(
    data: Annotated[
        Path, typer.Argument(help="A dataset: FHIR store, timeline, token store, or the folder of a run.")
    ],
    subject: Annotated[int | None, typer.Option(help="Subject; default: the first.")] = None,
    token: Annotated[
        int | None, typer.Option(help="Trace this token of the subject to its source row.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Of a run: the tokens that a model sees.")] = False,
    rows: Annotated[int, typer.Option(help="Events or tokens to print.")] = 40,
    as_json: Json = False,
) -> None:
    """Show a dataset, a patient's timeline, the tokens of it, or where a token came from."""

    def work() -> Any:
        import ehrseq

        return ehrseq.show(data, subject=subject, token=token, tokens=tokens, rows=rows)

    do("show", as_json, True, work)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is here and what is missing: versions, devices, memory, disk, permissions."""

    def work() -> Any:
        import ehrseq

        return ehrseq.doctor()

    do("doctor", as_json, True, work)


@mappings.command("new")
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    data: Tables,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be said again.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Zone of the clocks, e.g. Europe/Berlin.")] = None,
    as_json: Json = False,
) -> None:
    """Write a first source.yaml, mappings and cases for tables, guessed from headers and the first rows."""

    def work() -> Any:
        from ehrseq.mapping.first import new

        return new(folder, data, table or (), timezone)

    do("mappings new", as_json, True, work)


@mappings.command("schema")
def schema() -> None:
    """Print the JSON Schema of source.yaml and mapping files, by which an editor completes keys."""
    from ehrseq.mapping.schema import mapping_schema

    typer.echo(json.dumps(mapping_schema(), indent=1))


@mappings.command("list")
def list_(as_json: Json = False) -> None:
    """List the sources that ship with ehrseq and their mappings."""

    def work() -> Any:
        from ehrseq.mapping.listing import listing

        return listing()

    do("mappings list", as_json, True, work)


@mappings.command("check")
def check(source: Source, as_json: Json = False) -> None:
    """Check mapping files against FHIR R4B and the declared tables; report every problem (exit 2 if any)."""

    def work() -> Any:
        from ehrseq.mapping.listing import checked

        return checked(source)

    do("mappings check", as_json, True, work)


@mappings.command("test")
def test(
    source: Source,
    mapping: Annotated[list[str] | None, typer.Argument(help="Mappings; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Run the cases beside the mappings (exit 2 if one fails)."""

    def work() -> Any:
        from ehrseq.mapping.listing import tested

        return tested(source, mapping)

    do("mappings test", as_json, True, work)


@mappings.command("coverage")
def coverage(
    source: Source,
    store: Annotated[Path | None, typer.Option(help="A mapped store: also count its code systems.")] = None,
    as_json: Json = False,
) -> None:
    """Say what becomes of every declared column: mapped, key, ignored or forgotten (exit 2 if any is)."""

    def work() -> Any:
        from ehrseq.mapping.coverage import coverage

        return coverage(source, store)

    do("mappings coverage", as_json, True, work)


@mappings.command("preview")
def preview(
    source: Source,
    data: Tables,
    mapping: Annotated[str, typer.Argument(help="The mapping to look at.")],
    rows: Annotated[int, typer.Option(help="Rows to show.")] = 3,
    as_json: Json = False,
) -> None:
    """Show source rows beside the resources they make."""

    def work() -> Any:
        from ehrseq.mapping.preview import preview

        return preview(source, data, mapping, rows=rows)

    do("mappings preview", as_json, True, work)


if __name__ == "__main__":
    main()
