"""Checkpoints: everything that going on needs, so that kill and resume equals an uninterrupted run.

A checkpoint is a numbered folder that orbax publishes by renaming, after it was written whole; a killed save leaves
the one before. Beside the arrays stands the identity of the run: another configuration, vocabulary or set of labels
is refused, never mixed in.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import orbax.checkpoint as ocp

from ehrseq.core.errors import ModelError
from ehrseq.core.files import storage_errors
from ehrseq.models.registry import Parameters
from ehrseq.tokens.loader import LoaderState
from ehrseq.training.state import TrainState, abstract


@dataclass(slots=True)
class Journal:
    """What happened so far, as plain values: `history.json` and the loop's decisions come from it."""

    loader: LoaderState
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per finished epoch
    best_epoch: int = -1
    best_score: float | None = None  # higher is better
    stale: int = 0  # epochs since the best one
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read back what `to_json` gave."""
        return cls(**{**values, "loader": LoaderState(**values["loader"])})


class Checkpoints:
    """The checkpoints below `folder`; `identity` (plain values) says to which run they belong."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder, self._identity = folder, identity
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, best: Parameters, journal: Journal) -> None:
        """Write one more checkpoint, wholly on disk when this returns; only the last two are kept."""
        number = (self._manager.latest_step() or 0) + 1
        arrays = {"state": state, "best": best}
        notes = {"journal": journal.to_json(), "identity": self._identity}
        with storage_errors(self._folder):
            items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes))
            self._manager.save(number, args=items)
            self._manager.wait_until_finished()

    def load(self, state: TrainState) -> tuple[TrainState, Parameters, Journal] | None:
        """The newest checkpoint, or None if there is none. `state` gives shapes and dtypes.

        Raises: ModelError if it belongs to another run.
        """
        number = self._manager.latest_step()
        if number is None:
            return None
        read = self._manager.restore(number, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        self._check(read["notes"]["identity"])
        journal = Journal.from_json(read["notes"]["journal"])
        target = {"state": abstract(state), "best": abstract(state).parameters}
        items = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
        arrays = self._manager.restore(number, args=items)["arrays"]
        return arrays["state"], arrays["best"], journal

    def close(self) -> None:
        """Release orbax's threads."""
        self._manager.close()

    def _check(self, found: dict[str, Any]) -> None:
        for key, ours in self._identity.items():
            if found.get(key) != ours:
                detail = _first_difference(found.get(key), ours)
                raise ModelError(
                    f"{self._folder}: belongs to a run with another {key}{detail}. "
                    "Choose another --out, or remove that folder to start again."
                )


def _first_difference(found: Any, ours: Any) -> str:
    if not isinstance(found, dict) or not isinstance(ours, dict):
        return f" ({str(found)[:12]}, now {str(ours)[:12]})"
    for key in sorted(set(found) | set(ours)):
        if found.get(key) != ours.get(key):
            return f" ({key}: {found.get(key)!r}, now {ours.get(key)!r})"
    return ""
