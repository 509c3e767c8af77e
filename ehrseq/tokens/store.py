"""The token store: flat little-endian arrays, one file a field, read through memory maps with numpy alone.

    TOKENS/arrays/<field>.bin   TOKENS/vocabulary.json   TOKENS/manifest.json (the entry `store` of its notes)

One position is one event, or one word of a note; static events stand first. The store is bound to its vocabulary
by sha256: the numbers in `code` and `unit` mean nothing with another one.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import SchemaError, TokenError
from ehrseq.core.manifest import read_manifest

KIND = "tokens"
UNKNOWN_BIRTH = int(np.iinfo(np.int64).min)

# per token
TOKEN_FIELDS = {
    "code": "<i4",  # 0 = padding, 1 = unknown, else the index in the vocabulary's codes
    "time": "<i8",  # microseconds since 1970 UTC when it was knowable; static events: the subject's first time
    "value": "<f4",  # (x - median) / scale of the code in its unit, within [-5, 5]; NaN = none
    "bin": "<i2",  # 1..B: quantile bin of the code in its unit; 0 = no value
    "unit": "<i2",  # index in the vocabulary's units; 0 = none
    "modality": "<i1",  # index in the vocabulary's modalities; 0 = record, 1 = note
    "event": "<i8",  # row of the event in its timeline shard, from 0
}
# per subject
SUBJECT_FIELDS = {
    "subject_id": "<i8",
    "birth": "<i8",  # microseconds since 1970 UTC; UNKNOWN_BIRTH = unknown
    "split": "<i1",  # 0 train, 1 tuning, 2 held_out
    "shard": "<i2",  # number of the timeline shard, data/<shard:04d>.parquet
}
_PART_FIELDS = {**TOKEN_FIELDS, **SUBJECT_FIELDS, "length": "<i8"}  # length: tokens of the subject


class TokenStore:
    """A store, opened. N tokens of S subjects; every array is a read-only memory map.

    `code` int32, `time` int64, `value` float32, `bin` int16, `unit` int16, `modality` int8, `event` int64: [N].
    `subject_id` int64, `birth` int64, `split` int8, `shard` int16: [S]; `offsets` int64 [S + 1].
    Tokens of subject i: `offsets[i]:offsets[i + 1]`, by time. Units and meanings: the tables of this module.
    """

    code: NDArray[np.int32]
    time: NDArray[np.int64]
    value: NDArray[np.float32]
    bin: NDArray[np.int16]
    unit: NDArray[np.int16]
    modality: NDArray[np.int8]
    event: NDArray[np.int64]
    offsets: NDArray[np.int64]
    subject_id: NDArray[np.int64]
    birth: NDArray[np.int64]
    split: NDArray[np.int8]
    shard: NDArray[np.int16]

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path = path
        self.subjects, self.tokens = int(entry["subjects"]), int(entry["tokens"])
        self.vocabulary_sha256 = str(entry["vocabulary_sha256"])
        for name, field in entry["fields"].items():
            setattr(self, name, _mapped(path / "arrays" / f"{name}.bin", field["dtype"], field["shape"]))

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open the store at `path`: sizes and the vocabulary's hash are checked, arrays are not read.

        Raises: TokenError if it is not a token store, an array is missing or has another size than the manifest
        says, or the vocabulary beside it is another one.
        """
        path = Path(path)
        entry = _entry(path)
        store = cls(path, entry)
        _vocabulary_bytes(path, store.vocabulary_sha256)
        return store

    @cached_property
    def vocabulary(self) -> dict[str, Any]:
        """`vocabulary.json`: "codes", "units", "modalities" (index = id), "bins" and how values are scaled."""
        content: dict[str, Any] = json.loads(_vocabulary_bytes(self.path, self.vocabulary_sha256))
        return content

    def rows(self, subject: int) -> slice:
        """Tokens of the subject with index `subject` (0..S-1), as a slice of the arrays.

        Raises: TokenError if there is no such index.
        """
        if not 0 <= subject < self.subjects:
            raise TokenError(f"{self.path}: subject index {subject}, expected 0 to {self.subjects - 1}.")
        return slice(int(self.offsets[subject]), int(self.offsets[subject + 1]))

    def index_of(self, subject_ids: ArrayLike) -> NDArray[np.int64]:
        """Indices [n] int64 of subjects [n] int64; -1 where the store does not have the subject."""
        wanted = np.asarray(subject_ids, np.int64)
        if self.subjects == 0:
            return np.full(wanted.shape, -1, np.int64)
        order = np.argsort(self.subject_id, kind="stable")
        place = np.minimum(np.searchsorted(self.subject_id, wanted, sorter=order), self.subjects - 1)
        return np.where(self.subject_id[order[place]] == wanted, order[place], -1)

    def __repr__(self) -> str:
        """Sizes alone: a repr never shows a patient's data."""
        return f"TokenStore({str(self.path)!r}, subjects={self.subjects}, tokens={self.tokens})"


class StoreWriter:
    """Write a store into `folder`, part after part; a part is a folder that `save_part` wrote, e.g. of one shard.

    Copying files keeps memory flat and lets parts be made by other processes. Use as a context manager, then
    call `finish`. The caller owns the manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = 0
        self._lengths: list[NDArray[np.int64]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        (self.folder / "arrays").mkdir(parents=True, exist_ok=True)
        names = (*TOKEN_FIELDS, *SUBJECT_FIELDS)
        self._files = {name: self._stack.enter_context(self._path(name).open("wb")) for name in names}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, part: Path) -> None:
        """Add the subjects and tokens of a part after those already there."""
        for name, target in self._files.items():
            with (part / f"{name}.bin").open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        self._lengths.append(np.fromfile(part / "length.bin", "<i8"))

    def finish(self, vocabulary: bytes) -> dict[str, Any]:
        """Write offsets and vocabulary; return the manifest's entry `store`."""
        self._stack.close()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        offsets.astype("<i8").tofile(self._path("offsets"))
        (self.folder / "vocabulary.json").write_bytes(vocabulary)
        subjects, tokens = len(lengths), int(offsets[-1])
        self.tokens = tokens
        shapes = {
            **{name: (dtype, tokens) for name, dtype in TOKEN_FIELDS.items()},
            "offsets": ("<i8", subjects + 1),
            **{name: (dtype, subjects) for name, dtype in SUBJECT_FIELDS.items()},
        }
        return {
            "subjects": subjects,
            "tokens": tokens,
            "fields": {name: {"dtype": dtype, "shape": [size]} for name, (dtype, size) in shapes.items()},
            "vocabulary_sha256": sha256(vocabulary).hexdigest(),
        }

    def _path(self, name: str) -> Path:
        return self.folder / "arrays" / f"{name}.bin"


def save_part(part: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a part of a store: all token fields [n], all subject fields [s], and `length` int64 [s].

    Raises: TokenError if an array is missing or the sizes do not fit together.
    """
    tokens, subjects = len(arrays["code"]), len(arrays["subject_id"])
    for name in _PART_FIELDS:
        expected = tokens if name in TOKEN_FIELDS else subjects
        if name not in arrays or arrays[name].shape != (expected,):
            found = arrays[name].shape if name in arrays else "nothing"
            raise TokenError(f"{part}: array {name!r} has shape {found}, expected ({expected},).")
    if int(arrays["length"].sum()) != tokens:
        raise TokenError(
            f"{part}: lengths sum to {int(arrays['length'].sum())}, but there are {tokens} tokens."
        )
    part.mkdir(parents=True, exist_ok=True)
    for name, dtype in _PART_FIELDS.items():
        arrays[name].astype(dtype, casting="same_kind", copy=False).tofile(part / f"{name}.bin")


def _entry(path: Path) -> Mapping[str, Any]:
    try:
        manifest = read_manifest(path, KIND)
    except SchemaError as error:
        raise TokenError(f"{error} Make a token store with `ehrseq tokenize`.") from error
    entry = manifest.notes.get("store")
    if not isinstance(entry, dict) or not {*TOKEN_FIELDS, *SUBJECT_FIELDS, "offsets"} <= set(
        entry.get("fields", ())
    ):
        raise TokenError(f"{path}/manifest.json: has no complete entry `store`. Run `ehrseq tokenize` again.")
    return entry


def _mapped(path: Path, dtype: str, shape: list[int]) -> NDArray[Any]:
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file():
        raise TokenError(f"{path}: missing, but the manifest lists it. Run `ehrseq tokenize` again.")
    if (found := path.stat().st_size) != expected:
        raise TokenError(
            f"{path}: {found} bytes, but the manifest says {shape} of {dtype}, {expected} bytes: truncated or "
            "replaced. Run `ehrseq tokenize` again."
        )
    if expected == 0:  # an empty file cannot be mapped
        return np.zeros(shape, dtype)
    return np.memmap(path, np.dtype(dtype), mode="r", shape=tuple(shape))


def _vocabulary_bytes(path: Path, expected: str) -> bytes:
    file = path / "vocabulary.json"
    if not file.is_file():
        raise TokenError(
            f"{file}: missing; the codes of a store mean nothing without it. Run `ehrseq tokenize` again."
        )
    content = file.read_bytes()
    if (found := sha256(content).hexdigest()) != expected:
        raise TokenError(
            f"{file}: has sha256 {found[:12]}, but the store was made with vocabulary {expected[:12]}. "
            "Put the right vocabulary back, or run `ehrseq tokenize` again."
        )
    return content
