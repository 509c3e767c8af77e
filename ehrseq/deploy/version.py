"""A model version: one folder with all that a prediction needs, all that it came from, and a hash of every file.

    VERSION/model/        weights.npz, weights.safetensors, model.json, vocabulary.json (value bins, word pieces)
    VERSION/tasks/        the task definitions, each whole
    VERSION/views/        the ViewDefinitions and tables that made the events: shipped, and own
    VERSION/familiar.json, calibration.json, metrics.json, subgroups.json, reference.parquet
    VERSION/lineage.json  what it was made of: every dataset's manifest, mapping and view versions with their hashes
    VERSION/environment.json, card.md, card.json, manifest.json (sha256 of all files)

No file is pickled and none holds a patient's data: counts below `min_patients` and single predictions stay in the run.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import yaml

from ehrseq.core.dataset import Build, Result, input_of, versions
from ehrseq.core.errors import ModelError, SchemaError
from ehrseq.core.files import sha256_file, write_json
from ehrseq.core.manifest import Input, Manifest, read_manifest
from ehrseq.deploy.familiar import Familiar
from ehrseq.evaluation.recalibration import Recalibration
from ehrseq.training.model_folder import TrainedModel, load_model

KIND = "model_version"
_STAGES = ("fhir", "timeline", "tokens", "examples", "audit", "model", "predictions", "report")
_NOTES = ("read", "description", "flow", "positives", "guarantees")
_KEPT = (
    "kind",
    "fingerprint",
    "code_version",
    "config",
    "config_hash",
    "inputs",
    "schema_hash",
    "made",
    "rows",
)


@dataclass(frozen=True)
class ModelVersion:
    """An opened version whose files are those that were written."""

    folder: Path
    manifest: Manifest
    trained: TrainedModel
    familiar: Familiar
    calibration: dict[str, Recalibration]
    prevalence: dict[str, float]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a version after checking every file's hash.

        Raises: ModelError naming the file, what was found, what was expected, and what to do.
        """
        folder = Path(folder)
        manifest = check_version(folder)
        told = json.loads((folder / "calibration.json").read_text())
        return cls(
            folder=folder,
            manifest=manifest,
            trained=load_model(folder / "model"),
            familiar=Familiar.from_json(json.loads((folder / "familiar.json").read_text())),
            calibration={task: Recalibration.from_json(one) for task, one in told["tasks"].items()},
            prevalence=dict(told["prevalence"]),
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest.config["name"])

    @property
    def version(self) -> str:
        """The version's name."""
        return str(self.manifest.config["version"])

    @property
    def label(self) -> str:
        """What stands in the column `model` of its predictions."""
        return f"{self.name}/{self.version}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it predicts here: its tasks of a single yes or no."""
        return tuple(self.calibration)

    @property
    def timezone(self) -> str | None:
        """That of the clocks its tokens were made with; None = none."""
        zone: str | None = self.lineage["tokens"]["config"].get("timezone")
        return zone

    @cached_property
    def views(self) -> Path | None:
        """The folder of views to make a timeline with; None = ours alone.

        Raises: ModelError if this ehrseq has other rules than the model was made with.
        """
        from ehrseq.timeline.knowable import rules_hash

        config = self.lineage["timeline"]["config"]
        own = self.folder / "views" / "own"
        views = own if own.is_dir() else None
        if "rules" in config and config["rules"] != (here := rules_hash(views)):
            raise ModelError(
                f"{self.folder}: was made with view rules {config['rules'][:12]}, this ehrseq has {here[:12]}: events "
                f"would mean something else. Use ehrseq {self.manifest.code_version}, or retrain."
            )
        return views

    @cached_property
    def sha256(self) -> str:
        """Hash of the manifest, which holds the hashes of all files."""
        return sha256_file(self.folder / "manifest.json")

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """`lineage.json`."""
        content: dict[str, Any] = json.loads((self.folder / "lineage.json").read_text())
        return content

    def task_file(self, task: str) -> Path:
        """The definition that a task of the model came from; one of several labels is named `<definition>.<label>`."""
        exact = self.folder / "tasks" / f"{task}.yaml"
        return exact if exact.is_file() else self.folder / "tasks" / f"{task.rpartition('.')[0]}.yaml"


def check_version(folder: Path) -> Manifest:
    """Read a version's manifest and compare every file with it. Raises: ModelError."""
    try:
        manifest = read_manifest(folder, KIND)
    except SchemaError as error:
        raise ModelError(f"{error} Make one with `ehrseq models add RUN --name NAME`.") from error
    cure = "Restore it from a copy, or roll back: `ehrseq models rollback NAME`."
    listed = {shard.path: shard for shard in manifest.shards}
    for name, shard in listed.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: missing; expected sha256 {shard.sha256}. {cure}")
        if (found := sha256_file(folder / name)) != shard.sha256:
            raise ModelError(f"{folder / name}: sha256 {found}, expected {shard.sha256}: changed. {cure}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if strange := sorted(there - set(listed) - {"manifest.json", "run.json"}):
        raise ModelError(
            f"{folder / strange[0]}: found, but the manifest does not list it. Take it away. {cure}"
        )
    return manifest


def timeline_of(run: Path, timeline: Path | None = None) -> Path:
    """Where a run's timeline is. Raises: ModelError if it must be told, or is another one than the tokens'."""
    place = timeline or run / "timeline"
    if not (place / "manifest.json").is_file():
        raise ModelError(f"{place}: no timeline here. Say where that of {run} is: --timeline.")
    known = {item.name: item.sha256 for item in read_manifest(run / "tokens", "tokens").inputs}
    if known.get("timeline") != sha256_file(place / "manifest.json"):
        raise ModelError(f"{place}: is not the timeline that {run / 'tokens'} was made of. Run again.")
    return place


def inputs_of(run: Path, timeline: Path) -> list[Input]:
    """What a version of this run is made of. Raises: ModelError if it is no whole run."""
    for stage in _STAGES[2:]:
        if not (run / stage / "manifest.json").is_file():
            raise ModelError(
                f"{run}: has no {stage}/. Expected the folder of a whole run, as `ehrseq run` and `ehrseq train` write."
            )
    return [input_of("timeline", timeline), *(input_of(stage, run / stage) for stage in _STAGES[2:])]


def make_version(
    run: Path, out: Path, *, name: str, version: str, timeline: Path | None = None, views: Path | None = None
) -> Result:
    """Write the version of a run's model to `out`; nothing is done if it is there.

    `timeline`: where the run's timeline is, if not in it; `views`: the folder it was made with, if not with ours alone.
    Raises: ModelError; SchemaError for a damaged dataset.
    """
    from ehrseq.deploy.card import write_card
    from ehrseq.deploy.measured import measure_version

    run = Path(run)
    if not (run / "tokens" / "manifest.json").is_file():
        raise ModelError(
            f"{run}: has no tokens/. Expected the folder of a whole run, as `ehrseq run` writes."
        )
    where = timeline_of(run, timeline)
    config = {"name": name, "version": version}
    with Build(Path(out), kind=KIND, config=config, inputs=inputs_of(run, where)) as build:
        if not build.unchanged:
            shutil.copytree(run / "model" / "model", build.folder / "model")
            _safetensors(build.folder / "model")
            _tasks(run, build.folder / "tasks")
            _views(where, views, build.folder / "views")
            write_json(build.folder / "lineage.json", lineage_of(run, where))
            write_json(build.folder / "environment.json", {**versions(), "device": _device()})
            shutil.copy2(run / "report" / "results.json", build.folder / "metrics.json")
            measure_version(run, where, build.folder)
            write_card(build.folder, name=name, version=version)
            for path in sorted(path for path in build.folder.rglob("*") if path.is_file()):
                rows = (
                    pl.scan_parquet(path).select(pl.len()).collect().item()
                    if path.suffix == ".parquet"
                    else 1
                )
                build.enter(path.relative_to(build.folder).as_posix(), rows=rows)
            build.made("version", 1)
    return build.result


def lineage_of(run: Path, timeline: Path) -> dict[str, Any]:
    """Every dataset of a run by its manifest (without shards), with the manifest's own hash."""
    places = {stage: run / stage for stage in _STAGES} | {
        "fhir": timeline.parent / "fhir",
        "timeline": timeline,
    }
    places |= {
        f"labels/{path.parent.name}": path.parent for path in sorted(run.glob("labels/*/manifest.json"))
    }
    told = {}
    for stage, place in places.items():
        if (place / "manifest.json").is_file():
            manifest = read_manifest(place).to_json()
            notes = {key: manifest["notes"][key] for key in _NOTES if key in manifest["notes"]}
            kept = {key: manifest[key] for key in _KEPT}
            told[stage] = {"sha256": sha256_file(place / "manifest.json"), **kept, "notes": notes}
    return told


def _safetensors(model: Path) -> None:
    """The same weights in the form that other programs read."""
    from safetensors.numpy import save_file

    with np.load(model / "weights.npz", allow_pickle=False) as arrays:
        save_file(
            {name: np.ascontiguousarray(arrays[name]) for name in arrays.files}, model / "weights.safetensors"
        )


def _tasks(run: Path, out: Path) -> None:
    """The definitions of all tasks, each whole, as `ehrseq label` noted them."""
    out.mkdir()
    for labels in sorted(run.glob("labels/*/manifest.json")):
        manifest = read_manifest(labels.parent, "labels")
        text = yaml.safe_dump(manifest.config["definition"], sort_keys=False, allow_unicode=True)
        (out / f"{manifest.config['task']}.yaml").write_text(text)


def _views(timeline: Path, views: Path | None, out: Path) -> None:
    from ehrseq.timeline.knowable import SHIPPED, rules_hash

    rules = read_manifest(timeline, "timeline").config.get("rules")
    if rules is not None and rules != rules_hash(views):
        raise ModelError(
            f"{timeline}: was made with views {rules[:12]}, here are {rules_hash(views)[:12]}. Name its folder of "
            "views with --views, or make the timeline again."
        )
    (out / "shipped").mkdir(parents=True)
    for path in [*sorted(SHIPPED.glob("*.yaml")), *sorted((SHIPPED / "views").glob("*.yaml"))]:
        shutil.copy2(path, out / "shipped" / path.name)
    if views is not None:
        shutil.copytree(views, out / "own")


def _device() -> str:
    import jax

    return str(jax.devices()[0].device_kind)
