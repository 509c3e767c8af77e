"""The training loop: epochs of steps, a look at the tuning split after each, the best epoch kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import InterruptedRunError, ModelError
from ehrseq.core.files import write_json
from ehrseq.core.measure import Meter
from ehrseq.core.progress import log, track
from ehrseq.models.config import Inputs
from ehrseq.models.registry import Parameters, count, definition, initial, learned_from_data
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples
from ehrseq.training.checkpoint import Checkpoints, Journal
from ehrseq.training.config import TrainConfig
from ehrseq.training.interrupt import StopRequest, stop_on_sigterm
from ehrseq.training.model_folder import TrainedModel, load_model, save_model
from ehrseq.training.predict import prediction_loader, scorer
from ehrseq.training.scores import task_scores
from ehrseq.training.state import optimizer_of, start
from ehrseq.training.step import make_train_step, on_device
from ehrseq.training.warm import grown

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left. `status` is "done", or "unchanged" if the folder already held the finished run."""

    out: Path
    model: Path  # folder for `predict`
    status: str
    best_epoch: int  # from 0
    history: list[dict[str, Any]]
    seconds: float


def train(
    config: TrainConfig, store_path: Path, examples_path: Path, out: Path, *, warm: Path | None = None
) -> TrainResult:
    """Train on a token store and its examples; write `out/model`, `out/checkpoints`, `out/history.json`.

    `warm`: a model folder whose weights to start from, where they mean the same (see `warm.grown`).

    Goes on from the last checkpoint in `out`. SIGTERM checkpoints and raises InterruptedRunError (exit code 75).

    Raises: ModelError if `out` belongs to another run, or a split has no labels; InterruptedRunError.
    """
    from ehrseq.tokens.store import TokenStore

    older = load_model(warm) if warm is not None else None
    return fit(config, TokenStore.open(store_path), Examples.load(examples_path), out, warm=older)


def fit(
    config: TrainConfig,
    store: "TokenStore",
    examples: Examples,
    out: Path,
    *,
    warm: TrainedModel | None = None,
) -> TrainResult:
    """`train` on an open store and loaded examples."""
    meter = Meter()
    with stop_on_sigterm() as stop:
        run = _Run(config, store, examples, out, warm)
        try:
            status = "unchanged" if run.journal.finished else "done"
            while not run.journal.finished:
                run.epoch(stop)
            if status == "done" or not (out / "model" / "model.json").is_file():
                run.publish()
        finally:
            run.checkpoints.close()
    cost = meter.read()
    if status == "done":
        write_json(out / "run.json", cost)
    log("train", status=status, best_epoch=run.journal.best_epoch, seconds=cost["seconds"])
    return TrainResult(
        out, out / "model", status, run.journal.best_epoch, run.journal.history, float(cost["seconds"])
    )


class _Run:
    """One run: compiled functions, loaders, state and journal."""

    def __init__(
        self,
        config: TrainConfig,
        store: "TokenStore",
        examples: Examples,
        out: Path,
        warm: TrainedModel | None,
    ) -> None:
        self.config, self.store, self.examples, self.out, self.warm = config, store, examples, out, warm
        self.inputs = Inputs.of(store.vocabulary, tuple(examples.outputs.tolist()))
        train_rows, self.tuning_rows = _labelled(examples, "train"), _labelled(examples, "tuning")
        self.loader = _train_loader(config, store, examples, train_rows)
        self.tuning = prediction_loader(config, store, examples, self.tuning_rows)
        optimizer = optimizer_of(config, config.epochs * self.loader.batches)
        bind = definition(config.model, self.inputs)
        asked = int(np.diff(examples.first_output())[examples.task[train_rows]].sum())
        ridge = 1 / (config.wide_prior**2 * asked)  # of a mean over labels: more data, less prior
        self.step = make_train_step(bind, optimizer, len(self.inputs.tasks), config.ema, ridge)
        self.scorer = scorer(config, self.inputs)
        first = initial(config.model, self.inputs, config.seed)
        first["heads.bias"] = _prior(examples, train_rows)
        first |= learned_from_data(config.model, store, examples, train_rows, config.context, config.seed)
        if warm is not None:
            first = grown(warm.parameters, first, old_tasks=warm.inputs.tasks, tasks=self.inputs.tasks)
        self.state = start(first, optimizer, len(self.inputs.tasks), config.seed)
        self.best: Parameters = self.state.average
        self.journal = Journal(self.loader.state)
        self.checkpoints = Checkpoints(out / "checkpoints", self._identity())
        self._resume()
        log(
            "training", parameters=count(first), labels=self.loader.labels, tokens=self.loader.tokens,
            batches=self.loader.batches, epochs=config.epochs, resumed=self.loader.state.to_json(),
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return {
            "vocabulary": self.store.vocabulary_sha256,
            "labels": _examples_hash(self.examples),
            "configuration": _flat(self.config.to_dict()),
            **({"start": _parameters_hash(self.warm.parameters)} if self.warm else {}),
        }

    def _resume(self) -> None:
        if found := self.checkpoints.load(self.state):
            self.state, self.best, self.journal = found
            self.loader.state = self.journal.loader
        else:
            # the donated state must not share memory with the weights kept
            self.best = {name: jnp.copy(value) for name, value in self.state.average.items()}

    def save(self) -> None:
        """Checkpoint what stands now."""
        self.journal.loader = self.loader.state
        self.checkpoints.save(self.state, self.best, self.journal)

    def epoch(self, stop: StopRequest) -> None:
        """The rest of the current epoch, then the look at the tuning split.

        Raises: InterruptedRunError if asked to stop.
        """
        done = self.loader.state.row // self.config.batch_rows
        number = self.loader.state.epoch
        for batch in track(self.loader.epoch(), self.loader.batches - done, f"epoch {number}"):
            self.state = self.step(self.state, on_device(batch))
            done += 1
            if stop.made:
                break
            if done % self.config.checkpoint_steps == 0 and done < self.loader.batches:
                self.save()
        if not stop.made:
            self._judge(number)
        self.save()
        if stop.made and not self.journal.finished:
            raise InterruptedRunError(
                f"training stopped on SIGTERM in epoch {number}, batch {done} of {self.loader.batches}. "
                f"Everything is in {self.out}; the same command goes on from there."
            )

    def _judge(self, number: int) -> None:
        """Score the averaged parameters on the tuning split; keep them if they are the best so far."""
        losses, weights = np.asarray(self.state.totals, np.float64)
        if not np.all(np.isfinite(losses)):
            raise ModelError(
                f"the training loss of epoch {number} is not finite. Lower learning_rate or clip, or look for "
                "infinite values in the token store."
            )
        logits = self.scorer.logits(self.state.average, self.tuning)[self.tuning_rows]
        tuning = task_scores(self.examples, self.tuning_rows, logits)
        score = _selected(self.config.select, tuning)
        journal = self.journal
        if journal.best_score is None or score > journal.best_score:
            journal.best_epoch, journal.best_score, journal.stale = number, score, 0
            self.best = {name: jnp.copy(value) for name, value in self.state.average.items()}
        else:
            journal.stale += 1
        first = self.examples.first_output()[:-1]
        means = np.add.reduceat(losses, first) / np.maximum(np.add.reduceat(weights, first), 1)
        train_loss = dict(zip(map(str, self.examples.tasks), means.tolist(), strict=True))
        journal.history.append({"epoch": number, "score": score, "train_loss": train_loss, "tuning": tuning})
        journal.finished = number + 1 >= self.config.epochs or journal.stale >= self.config.patience
        self.state = self.state._replace(totals=jnp.zeros_like(self.state.totals))
        shown = {task: found["auroc"] for task, found in tuning.items() if task != "all"}
        log("epoch", number=number, tuning_loss=tuning["all"]["loss"], **shown)

    def publish(self) -> None:
        """Write the best epoch's weights and the history."""
        model = TrainedModel(self.config, self.inputs, self.best, self.store.vocabulary_sha256)
        chosen = next(entry for entry in self.journal.history if entry["epoch"] == self.journal.best_epoch)
        vocabulary = (self.store.path / "vocabulary.json").read_bytes()
        write_json(self.out / "history.json", self.journal.history)
        save_model(
            self.out / "model", model, vocabulary, {"chosen": chosen}
        )  # last: it says that all is there


def _train_loader(config: TrainConfig, store: "TokenStore", examples: Examples, rows: NDArray[Any]) -> Loader:
    return Loader(
        store,
        examples,
        rows,
        context=config.context,
        row_length=config.row_length,
        batch_rows=config.batch_rows,
        seed=config.seed,
    )


def _labelled(examples: Examples, split: str) -> NDArray[np.int64]:
    rows = examples.rows(split)
    rows = rows[~np.isnan(examples.value[rows])]
    if len(rows) == 0:
        raise ModelError(
            f"the examples have no labels in split {split!r}; training needs train and tuning labels."
        )
    present = np.bincount(examples.task[rows], minlength=len(examples.tasks)) > 0
    if split == "train" and not present.all():
        missing = ", ".join(repr(str(task)) for task in examples.tasks[~present])
        raise ModelError(
            f"task {missing} has no labels in the training split. Leave it out, or look at its cohort with "
            "`ehrseq label`."
        )
    return rows


def _prior(examples: Examples, rows: NDArray[np.int64]) -> Any:
    """Logit of each output's prevalence: the first loss is then that of knowing the base rates."""
    sizes = np.diff(examples.first_output())
    total = np.repeat(np.bincount(examples.task[rows], minlength=len(sizes)), sizes)
    true = examples.task[rows][examples.value[rows] > 0]
    if examples.several is not None:
        true = examples.several.take(rows).true
    positive = np.bincount(true, minlength=len(total))
    rate = (positive + 0.5) / (total + 1)
    return jnp.asarray(np.log(rate / (1 - rate)), jnp.float32)


def _selected(select: str, tuning: dict[str, dict[str, Any]]) -> float:
    """The score that picks the epoch, higher is better."""
    value = tuning["all"][select]
    if value is None:
        raise ModelError(
            f"the tuning {select} is undefined: loss is not finite, or no task has both classes in the tuning split. "
            "Lower learning_rate, or select by loss."
        )
    return float(value) if select == "auroc" else -float(value)


def _examples_hash(examples: Examples) -> str:
    digest = hashlib.sha256()
    for name, values in examples.arrays().items():
        array = np.ascontiguousarray(values)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _parameters_hash(values: Parameters) -> str:
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(f"{name}{values[name].shape}".encode() + np.asarray(values[name]).tobytes())
    return digest.hexdigest()


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values as one level with dotted keys, so that a difference has a name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
