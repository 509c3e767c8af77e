"""The trained model as a folder: `weights.npz`, `model.json`, `vocabulary.json`. Numpy reads it; no pickle."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np

from ehrseq.core.errors import ModelError
from ehrseq.core.files import replace_folder, storage_errors, sync_tree, write_json
from ehrseq.models.config import Inputs
from ehrseq.models.registry import Parameters
from ehrseq.training.config import TrainConfig

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Everything a prediction needs besides tokens."""

    config: TrainConfig
    inputs: Inputs
    parameters: Parameters
    vocabulary_sha256: str

    def check(self, store: "TokenStore") -> None:
        """Refuse a store whose codes have other numbers.

        Raises: ModelError.
        """
        if store.vocabulary_sha256 != self.vocabulary_sha256:
            raise ModelError(
                f"the model was trained on vocabulary {self.vocabulary_sha256[:12]}, the token store has "
                f"{store.vocabulary_sha256[:12]}. Tokenize with the model's own vocabulary.json."
            )


def save_model(folder: Path, model: TrainedModel, vocabulary: bytes, notes: dict[str, Any]) -> None:
    """Write the folder in one step.

    `vocabulary`: the bytes of the store's vocabulary.json; `notes` (which epoch, which scores) stand beside the
    configuration.
    """
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    with storage_errors(folder):
        temporary.mkdir(parents=True)
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in model.parameters.items()}
        np.savez(temporary / "weights.npz", **arrays)
        description = {
            "format_version": FORMAT_VERSION,
            "config": model.config.to_dict(),
            "inputs": model.inputs.to_dict(),
            "vocabulary_sha256": model.vocabulary_sha256,
            **notes,
        }
        write_json(temporary / "model.json", description)
        (temporary / "vocabulary.json").write_bytes(vocabulary)
        sync_tree(temporary)
        replace_folder(temporary, folder)


def load_model(folder: Path) -> TrainedModel:
    """Read a model folder (or the folder of a run that holds one as `model/`).

    Raises: ModelError if it is not one, is damaged, or was written by a newer version.
    """
    place = folder if (folder / "model.json").is_file() else folder / "model"
    if not (place / "model.json").is_file():
        raise ModelError(
            f"{folder}: no model here: model.json is missing. Expected the folder that `train` wrote."
        )
    try:
        description = json.loads((place / "model.json").read_text())
        with np.load(place / "weights.npz", allow_pickle=False) as arrays:
            parameters = {name: jnp.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(f"{place}: damaged ({type(error).__name__}). Train again.") from error
    if description.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{place}: format {description.get('format_version')}, this ehrseq reads {FORMAT_VERSION}."
        )
    return TrainedModel(
        config=TrainConfig.from_dict(description["config"]),
        inputs=Inputs.from_dict(description["inputs"]),
        parameters=parameters,
        vocabulary_sha256=description["vocabulary_sha256"],
    )
