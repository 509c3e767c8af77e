"""Verbs about model versions: add, list, show, promote, rollback, diff."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ehrseq.command import Json, do

models = typer.Typer(
    no_args_is_help=True, help="Model versions by name: add, list, show, promote, rollback, diff."
)

Models = Annotated[Path, typer.Option("--models", help="Folder of all models.")]
Alias = Annotated[str, typer.Option(help="champion or challenger.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]


@models.command("add")
def add(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    name: Annotated[str, typer.Option("--name", help="The model's name.")],
    alias: Annotated[
        str | None, typer.Option(help="champion or challenger; the first one is champion.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="The run's timeline, if it is not in the run.")
    ] = None,
    views: Annotated[
        Path | None, typer.Option(help="Views that the timeline was made with, if not ours.")
    ] = None,
    models: Models = Path("models"),
    as_json: Json = False,
) -> None:
    """Register the model of a run as a version: one folder with all that a prediction needs, hashed."""

    def work() -> Any:
        from ehrseq.deploy.models_page import VersionPage
        from ehrseq.deploy.registry import Registry, add

        version = add(run, name, models=models, timeline=timeline, views=views, alias=alias)
        return VersionPage(version, Registry.read(models / name))

    do("models add", as_json, True, work)


@models.command("list")
def list_(models: Models = Path("models"), as_json: Json = False) -> None:
    """List all models and their versions."""

    def work() -> Any:
        from ehrseq.deploy.models_page import ModelsPage
        from ehrseq.deploy.registry import registries

        return ModelsPage(models, registries(models))

    do("models list", as_json, True, work)


@models.command("show")
def show(
    model: Annotated[str, typer.Argument(help="NAME, NAME@champion, NAME@v0003 or a version's folder.")],
    models: Models = Path("models"),
    as_json: Json = False,
) -> None:
    """Show a version after checking all its files."""

    def work() -> Any:
        from ehrseq.deploy.models_page import VersionPage
        from ehrseq.deploy.registry import Registry, find_model

        version = find_model(model, models)
        return VersionPage(version, Registry.read(version.folder.parent))

    do("models show", as_json, True, work)


@models.command("promote")
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="A version (v0003) or an alias (challenger).")],
    alias: Alias = "champion",
    models: Models = Path("models"),
    as_json: Json = False,
) -> None:
    """Make a version the champion, in one step."""

    def work() -> Any:
        from ehrseq.deploy.models_page import ModelsPage
        from ehrseq.deploy.registry import promote

        return ModelsPage(models, [promote(name, version, models=models, alias=alias)])

    do("models promote", as_json, True, work)


@models.command("rollback")
def rollback(
    name: Name, alias: Alias = "champion", models: Models = Path("models"), as_json: Json = False
) -> None:
    """Go back to the champion before this one."""

    def work() -> Any:
        from ehrseq.deploy.models_page import ModelsPage
        from ehrseq.deploy.registry import rollback

        return ModelsPage(models, [rollback(name, models=models, alias=alias)])

    do("models rollback", as_json, True, work)


@models.command("diff")
def diff(
    left: Annotated[str, typer.Argument(help="A version, as in `show`.")],
    right: Annotated[str, typer.Argument(help="Another one.")],
    models: Models = Path("models"),
    as_json: Json = False,
) -> None:
    """Say what differs between two versions: data, settings, views, vocabulary, metrics."""

    def work() -> Any:
        from ehrseq.deploy.models_page import difference
        from ehrseq.deploy.registry import find_model

        return difference(find_model(left, models), find_model(right, models))

    do("models diff", as_json, True, work)
