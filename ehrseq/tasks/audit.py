"""The leakage audit: what a run asks of its tokens and labels before anything is trained on them.

| check | leak |
|---|---|
| `future_shift` | changing what became known after the prediction changes a batch of the loader |
| `outcome_visible` | the outcome's own events are at or before the prediction time |
| `same_time` | events at the very moment of the prediction give the outcome away |
| `single_feature` | one code or one value has AUROC 0.985 or more, or next to nobody but the true labels has it |
| `shuffled_labels` | a model of shuffled labels is better than chance on other patients |
| `patient_overlap` | a patient, or one record under two ids, is in more than one split |
| `vocabulary` | a code is in the vocabulary though too few training patients have it |

A leak that is none of these is not found: the audit is no proof.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import DataQualityError
from ehrseq.core.files import write_json
from ehrseq.core.manifest import read_manifest
from ehrseq.tasks.leaks import FEW, Finding, future_shift, patient_overlap, shuffled_labels, single_features
from ehrseq.timeline.meds import codes as codes_of
from ehrseq.timeline.meds import scan_events, splits
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore

OUTCOME_SHARE = 0.05  # of the true labels; a readmission within the minute of a discharge is no leak

type Checked = tuple[list[Finding], dict[str, Any]]


class LeakageError(DataQualityError):
    """Labels or splits leak into what a model sees. `findings` says what, where, how often and what to do."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        lines = "".join(f"\n  {finding}" for finding in findings)
        super().__init__(f"The leakage audit found {len(self.findings)}; nothing was trained.{lines}")


def audit(
    timeline: Path, tokens: Path, labels: Sequence[Path], examples: Path, out: Path, *, seed: int = 0,
    force: bool = False,
) -> Result:  # fmt: skip
    """Look for leaks, and write what was measured to `out/audit.json`.

    Raises: LeakageError (exit 3) with every finding; nothing is written then.
    """
    inputs = [input_of("tokens", tokens), input_of("examples", examples)]
    inputs += [input_of(f"labels/{folder.name}", folder) for folder in labels]
    with Build(Path(out), kind="audit", config={"seed": seed}, inputs=inputs, force=force) as build:
        if not build.unchanged:
            store, asked = TokenStore.open(tokens), Examples.load(examples)
            checks: dict[str, Callable[[], Checked]] = {
                "future_shift": lambda: future_shift(store, asked, seed),
                "outcome_visible": lambda: outcome_visible(labels),
                "single_feature": lambda: single_features(store, asked, seed),
                "shuffled_labels": lambda: shuffled_labels(store, asked, seed),
                "patient_overlap": lambda: patient_overlap(store, asked),
                "vocabulary": lambda: vocabulary_of_train(timeline, tokens, store),
            }
            findings, measured = [], {}
            for name, check in checks.items():
                found, measured[name] = check()
                findings += found
            if findings:
                raise LeakageError(findings)
            write_json(build.path("audit.json"), {"findings": [], "measured": measured})
            build.enter("audit.json", rows=len(checks))
            build.made("checks", len(checks))
    return build.result


def outcome_visible(labels: Sequence[Path]) -> Checked:
    """True labels whose outcome is on the timeline at or before the prediction, as `ehrseq label` counted them."""
    found, measured = [], {}
    for folder in labels:
        notes = read_manifest(folder, "labels").notes
        for name, (early, now, positives) in notes.get("outcome_visible", {}).items():
            measured[f"{folder.name}.{name}"] = {"early": early, "same_time": now, "positives": positives}
            if early:
                found.append(
                    Finding("outcome_visible", f"`{name}` in the label's window is at or before the prediction",
                            folder.name, early, "Let the label's window start at the index_timestamp, start excluded.")
                )  # fmt: skip
            elif now >= FEW and now > OUTCOME_SHARE * positives:
                found.append(
                    Finding("same_time", f"`{name}` is recorded at the very moment of the prediction, which sees it",
                            folder.name, now, "Move the task's index_timestamp before it.")
                )  # fmt: skip
    return found, measured


def vocabulary_of_train(timeline: Path, tokens: Path, store: TokenStore) -> Checked:
    """Codes of the vocabulary that fewer training patients have than its own limit, but enough patients in all."""
    if any(item.name in ("vocabulary", "extended") for item in read_manifest(tokens).inputs):
        return [], {"vocabulary": "made elsewhere"}
    words, least = set(store.vocabulary["codes"]), int(store.vocabulary.get("min_patients", 1))
    table = codes_of(timeline)
    parents = set(table["parent_codes"].explode().drop_nulls().to_list())
    exact = table.filter(pl.col("code").is_in(list(words - parents)))["code"]
    longer = table["code"].sort()
    prefix = {code for code in exact if _is_prefix(code, longer)}
    train = splits(timeline).filter(split="train").select("subject_id").lazy()
    had = (
        scan_events(timeline).select("subject_id", "code").filter(pl.col("code").is_in(exact.to_list()))
        .join(train, on="subject_id", how="semi").group_by("code").agg(pl.col("subject_id").n_unique()).collect()
    )  # fmt: skip
    enough = set(had.filter(pl.col("subject_id") >= least)["code"])
    leaked = sorted(set(exact) - enough - prefix)
    if not leaked:
        return [], {"codes": len(exact), "min_patients": least}
    return [
        Finding("vocabulary", f"codes are in the vocabulary that fewer than {least} training patients have, e.g. "
                f"`{leaked[0]}`", str(tokens.name), len(leaked),
                "It was fitted on others than the training split: run `ehrseq tokenize` again on this timeline.")
    ], {"codes": len(exact), "min_patients": least}  # fmt: skip


def _is_prefix(code: str, ordered: pl.Series) -> bool:
    """Whether another code of the timeline goes on where this one ends: it is counted for those that back off to it."""
    place = int(ordered.search_sorted(code, side="right"))
    return place < len(ordered) and str(ordered[place]).startswith(code)
