"""Verbs about models at work: predict, explain, send, retrain, monitor, serve."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ehrseq.cli_models import Models
from ehrseq.command import Json, Out, Quiet, Workers, do

Model = Annotated[
    str, typer.Argument(help="NAME (its champion), NAME@challenger, NAME@v0003 or a version's folder.")
]


def predict(
    model: Model,
    data: Annotated[
        Path, typer.Argument(help="A timeline, a run, a FHIR store, or FHIR files (NDJSON, Bundles).")
    ],
    out: Out,
    form: Annotated[
        str, typer.Option("--format", help="parquet, or fhir: RiskAssessments beside it.")
    ] = "parquet",
    at: Annotated[
        str, typer.Option(help="task: when the tasks ask; now: at each patient's last event; or an ISO time.")
    ] = "task",
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given again.")] = None,
    models: Models = Path("models"),
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict for every patient, with intervals and reasons; abstain where a record is unlike the training's."""

    def work() -> Any:
        import ehrseq

        return ehrseq.predict(
            model, data, out, form=form, at=at, tasks=tuple(task or ()), models=models, workers=workers
        )

    do("predict", as_json, quiet, work)


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    subject: Annotated[
        int | None, typer.Option(help="Subject; default: the first with a prediction.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task; default: the model's first.")] = None,
    at: Annotated[
        int | None, typer.Option(help="Which prediction of the subject, from 0; default: the last.")
    ] = None,
    most: Annotated[int, typer.Option(help="Events to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show which events moved a prediction, on the timeline, each traced to its FHIR resource and source row."""

    def work() -> Any:
        import ehrseq

        return ehrseq.explain(run, subject=subject, task=task, at=at, most=most)

    do("explain", as_json, True, work)


def send(
    predictions: Annotated[Path, typer.Argument(help="What `predict --format fhir` wrote.")],
    url: Annotated[str, typer.Argument(help="Base of the FHIR server. EHRSEQ_FHIR_TOKEN is shown to it.")],
    as_json: Json = False,
) -> None:
    """Send predictions to a FHIR server as transactions of PUTs; sent twice, they are there once."""

    def work() -> Any:
        import ehrseq

        return ehrseq.send(predictions, url)

    do("send", as_json, True, work)


def retrain(
    config: Annotated[Path, typer.Argument(help="YAML file: name, source, data, work, tasks, train, gate.")],
    run_id: Annotated[
        str | None,
        typer.Option(help="Names the work; the same again does nothing twice. Default: the UTC date."),
    ] = None,
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on what is there now, hold it against the champion, and promote it or refuse it (exit 4)."""

    def work() -> Any:
        import ehrseq

        return ehrseq.retrain(config, run_id=run_id, workers=workers)

    do("retrain", as_json, quiet, work)


def monitor(
    model: Model,
    data: Annotated[Path, typer.Argument(help="A timeline, a run, a FHIR store, or FHIR files.")],
    out: Out,
    start: Annotated[str | None, typer.Option(help="Begin of the period (ISO, UTC).")] = None,
    end: Annotated[str | None, typer.Option(help="Its end, excluded. Default: the last event.")] = None,
    days: Annotated[float, typer.Option(help="Length of the period where --start is not given.")] = 31,
    limits: Annotated[Path | None, typer.Option(help="YAML file of limits.")] = None,
    models: Models = Path("models"),
    workers: Workers = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what has changed since the model was trained: codes, units, admissions, scores, outcomes (exit 3)."""

    def work() -> Any:
        import ehrseq

        return ehrseq.monitor(
            model, data, out, start=start, end=end, days=days, limits=limits, models=models, workers=workers
        )

    do("monitor", as_json, quiet, work)


def serve(
    model: Model,
    models: Models = Path("models"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no token; on this machine alone.")
    ] = False,
    max_mb: Annotated[int, typer.Option(help="Largest request to accept.")] = 20,
    as_json: Json = False,
) -> None:
    """Serve a model as a CDS Hooks service; the bearer token is in EHRSEQ_TOKEN."""

    def work() -> Any:
        import ehrseq

        return ehrseq.serve(
            model, models=models, host=host, port=port, open_to_all=no_auth, most_bytes=max_mb << 20
        )

    do("serve", as_json, False, work)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    for verb in (predict, explain, send, retrain, monitor, serve):
        app.command()(verb)
