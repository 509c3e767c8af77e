"""The model card of a version: numbers read from the files beside it, and plain gaps where only people can speak."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined

from ehrseq.core.files import write_json
from ehrseq.deploy.subgroups import FEWEST

_SHOWN = ("auroc", "auprc", "brier", "calibration_slope")
_GAP = "[to be written]"


def write_card(folder: Path, *, name: str, version: str) -> None:
    """Write `card.md` and `card.json` from what stands in a version's folder."""
    told = card(folder, name=name, version=version)
    write_json(folder / "card.json", told)
    text = files("ehrseq.deploy").joinpath("card.md.j2").read_text()
    page = Environment(
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    (folder / "card.md").write_text(page.from_string(text).render(**told))


def card(folder: Path, *, name: str, version: str) -> dict[str, Any]:
    """What the card says, as plain values."""
    read = {
        path.stem: json.loads(path.read_text())
        for path in (folder / "model" / "model.json", *folder.glob("*.json"))
        if path.name != "card.json"
    }
    lineage, model, metrics = read["lineage"], read["model"], read["metrics"]
    calibration, groups = read["calibration"], read["subgroups"]
    with np.load(folder / "model" / "weights.npz", allow_pickle=False) as arrays:
        parameters = sum(arrays[one].size for one in arrays.files)
    synthetic = any("attainable" in row for row in metrics["results"])
    return {
        "name": name,
        "version": version,
        "synthetic": synthetic,
        "environment": read["environment"],
        "config": model["config"],
        "family": model["config"]["model"]["family"],
        "parameters": parameters,
        "vocabulary": {"codes": model["inputs"]["codes"]},
        "tasks": [_task(one, lineage, calibration) for one in calibration["tasks"]],
        "source": _source(lineage),
        "stages": [_stage(stage, one) for stage, one in lineage.items()],
        "population": _population(lineage),
        "audited": "audit" in lineage,
        "results": [_result(row) for row in metrics["results"] if row["metric"] in _SHOWN],
        "calibration": [_calibration(task, one) for task, one in calibration["held_out"].items()],
        "subgroups": [_group(row) for row in groups["held_out"]],
        "abstained": _abstention(groups["abstained"]["held_out"]),
        "fewest": FEWEST,
        "verdicts": [str(one) for one in metrics["verdicts"]],
        "tripod": [
            {**item, "here": item["here"] or _GAP}
            for item in yaml.safe_load(files("ehrseq.deploy").joinpath("tripod_ai.yaml").read_text())
        ],
    }


def _task(name: str, lineage: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    definition = lineage.get(f"labels/{name}") or lineage.get(f"labels/{name.rpartition('.')[0]}") or {}
    words = " ".join(str(definition.get("notes", {}).get("description", "")).split())
    return {"name": name, "description": words, "prevalence": calibration["prevalence"][name]}


def _source(lineage: Mapping[str, Any]) -> str:
    return str(lineage.get("fhir", {}).get("config", {}).get("source", "MEDS"))


def _population(lineage: Mapping[str, Any]) -> str:
    tokens = lineage["tokens"]["made"]
    labels = sum(
        one["made"].get("labels", 0) for stage, one in lineage.items() if stage.startswith("labels/")
    )
    return f"{tokens['subjects']:,} patients, {tokens['tokens']:,} tokens, {labels:,} labels"


def _stage(name: str, told: Mapping[str, Any]) -> dict[str, str]:
    made = ", ".join(
        f"{count:,} {what}" for what, count in sorted(told["made"].items(), key=lambda one: -one[1])[:3]
    )
    plain = {key: value for key, value in told["config"].items() if isinstance(value, str | int | float)}
    config = ", ".join(f"{key} {str(value)[:20]}" for key, value in list(plain.items())[:4])
    return {"name": name, "sha256": told["sha256"], "made": made, "config": config}


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["low"], row["high"]
    interval = "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return {key: row[key] for key in ("task", "model", "metric", "value", "n", "positives")} | {
        "interval": interval
    }


def _calibration(task: str, told: Mapping[str, Any]) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    observed = told["positives"] / told["n"] if told["n"] else None
    return {
        "task": task, "n": told["n"], "observed": shown(observed), "before": shown(told["mean_before"]),
        "after": shown(told["mean_after"]), "brier_before": shown(told["brier_before"]),
        "brier_after": shown(told["brier_after"]),
    }  # fmt: skip


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    auroc, ratio = row.get("auroc"), row["observed_to_expected"]
    told = {key: row[key] for key in ("task", "group", "value", "n", "positives")}
    told["ratio"] = "none" if ratio is None else f"{ratio:.2f}"
    told["auroc"] = "too few"
    if auroc and auroc["low"] is not None:
        told["auroc"] = f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})"
    return told


def _abstention(counts: Mapping[str, int]) -> str:
    refused = sum(count for reason, count in counts.items() if reason != "asked")
    return f"on {refused} of {counts['asked']} held-out predictions"
