"""The token store: flat little-endian arrays, one file a field, read through memory maps with numpy alone.

    TOKENS/arrays/<field>.bin   TOKENS/vocabulary.json   TOKENS/manifest.json (the entry `store` of its notes)

One position is one event, one piece of a note, or one vector of a dense span; static events stand first. What few
positions have stands apart, by position: bags (codes beside the position's own) and references to vectors in
`TOKENS/spans/` (core/spans.py). The store is bound to its vocabulary by sha256: the numbers in `code` and `unit` mean
nothing with another one.
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
from ehrseq.core.spans import SpanArray

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
    "zone": "<i1",  # quarter hours that the local clock is ahead of UTC; 0 if the store's `timezone` is null
    "previous": "<i4",  # how many tokens ago the subject had the same code; 0 = never
    "event": "<i8",  # row of the event in its timeline shard, from 0
}
# per subject
SUBJECT_FIELDS = {
    "subject_id": "<i8",
    "birth": "<i8",  # microseconds since 1970 UTC; UNKNOWN_BIRTH = unknown
    "split": "<i1",  # 0 train, 1 tuning, 2 held_out
    "shard": "<i2",  # number of the timeline shard, data/<shard:04d>.parquet
}
# per code beside a position's own, sorted by position
BAG_FIELDS = {
    "bag_token": "<i8",  # the position
    "bag_code": "<i4",  # an attribute or a piece of text: as `code`
    "bag_weight": "<f4",  # 1 for an attribute; those of the pieces of a text sum to 1
}
# per vector, sorted by position
DENSE_FIELDS = {
    "dense_token": "<i8",  # the position
    "dense_array": "<i1",  # index in the vocabulary's `spans`
    "dense_row": "<i8",  # row in spans/<name of the array>.bin
}
_BESIDE = {**BAG_FIELDS, **DENSE_FIELDS}
_COUNTED = ("bag_token", "dense_token")  # positions: counted from the start of the part, then of the store
_SIZES = {  # which fields have as many rows
    "code": TOKEN_FIELDS,
    "subject_id": {**SUBJECT_FIELDS, "length": "<i8"},  # length: tokens of the subject
    "bag_token": BAG_FIELDS,
    "dense_token": DENSE_FIELDS,
}


class TokenStore:
    """A store, opened. N tokens of S subjects; every array is a read-only memory map.

    `code` int32, `time` int64, `value` float32, `bin` int16, `unit` int16, `modality` int8, `zone` int8, `event` int64,
    `previous` int32: [N]. `subject_id` int64, `birth` int64, `split` int8, `shard` int16: [S]; `offsets` int64 [S + 1].
    `bag_token` int64, `bag_code` int32, `bag_weight` float32: [G]; `dense_token` int64, `dense_array` int8, `dense_row`
    int64: [D]. `timezone`: of the patients' clocks; None = unknown.
    Tokens of subject i: `offsets[i]:offsets[i + 1]`, by time. Units and meanings: the tables of this module.
    """

    code: NDArray[np.int32]
    time: NDArray[np.int64]
    value: NDArray[np.float32]
    bin: NDArray[np.int16]
    unit: NDArray[np.int16]
    modality: NDArray[np.int8]
    zone: NDArray[np.int8]
    previous: NDArray[np.int32]
    event: NDArray[np.int64]
    bag_token: NDArray[np.int64]
    bag_code: NDArray[np.int32]
    bag_weight: NDArray[np.float32]
    dense_token: NDArray[np.int64]
    dense_array: NDArray[np.int8]
    dense_row: NDArray[np.int64]
    offsets: NDArray[np.int64]
    subject_id: NDArray[np.int64]
    birth: NDArray[np.int64]
    split: NDArray[np.int8]
    shard: NDArray[np.int16]

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path = path
        self.subjects, self.tokens = int(entry["subjects"]), int(entry["tokens"])
        self.vocabulary_sha256 = str(entry["vocabulary_sha256"])
        self.timezone: str | None = entry["timezone"]
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
        """`vocabulary.json`: "codes", "units", "modalities", "spans" (index = id), "bins" and how values are scaled."""
        content: dict[str, Any] = json.loads(_vocabulary_bytes(self.path, self.vocabulary_sha256))
        return content

    def spans(self, name: str) -> SpanArray:
        """A side array of the store. Raises: SchemaError if it is missing or truncated."""
        return SpanArray.open(self.path, name)

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
        names = (*TOKEN_FIELDS, *_BESIDE, *SUBJECT_FIELDS)
        self._files = {name: self._stack.enter_context(self._path(name).open("wb")) for name in names}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, part: Path) -> None:
        """Add the subjects and tokens of a part after those already there."""
        for name, target in self._files.items():
            if name in _COUNTED:
                (np.fromfile(part / f"{name}.bin", "<i8") + self.tokens).tofile(target)
                continue
            with (part / f"{name}.bin").open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        self._lengths.append(np.fromfile(part / "length.bin", "<i8"))
        self.tokens += int(self._lengths[-1].sum())

    def finish(self, vocabulary: bytes, timezone: str | None = None) -> dict[str, Any]:
        """Write offsets and vocabulary; return the manifest's entry `store`."""
        beside = {
            name: self._files[name].tell() // np.dtype(dtype).itemsize for name, dtype in _BESIDE.items()
        }
        self._stack.close()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        offsets.astype("<i8").tofile(self._path("offsets"))
        (self.folder / "vocabulary.json").write_bytes(vocabulary)
        subjects, tokens = len(lengths), self.tokens
        shapes = {
            **{name: (dtype, tokens) for name, dtype in TOKEN_FIELDS.items()},
            **{name: (dtype, beside[name]) for name, dtype in _BESIDE.items()},
            "offsets": ("<i8", subjects + 1),
            **{name: (dtype, subjects) for name, dtype in SUBJECT_FIELDS.items()},
        }
        return {
            "subjects": subjects,
            "tokens": tokens,
            "fields": {name: {"dtype": dtype, "shape": [size]} for name, (dtype, size) in shapes.items()},
            "timezone": timezone,
            "vocabulary_sha256": sha256(vocabulary).hexdigest(),
        }

    def _path(self, name: str) -> Path:
        return self.folder / "arrays" / f"{name}.bin"


def save_part(part: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a part of a store: token fields [n], subject fields and `length` int64 [s], bags [g], dense spans [d].

    Positions are counted from the part's first token. Bags and dense spans may be missing as a whole.

    Raises: TokenError if an array is missing or the sizes do not fit together.
    """
    given = {name: np.zeros(0, dtype) for name, dtype in _BESIDE.items()} | dict(arrays)
    for first, names in _SIZES.items():
        expected = given[first].shape[:1]
        for name in names:
            if name not in given or given[name].shape != expected:
                found = given[name].shape if name in given else "nothing"
                raise TokenError(f"{part}: array {name!r} has shape {found}, expected {expected}.")
    tokens, stated = len(given["code"]), int(given["length"].sum())
    if stated != tokens:
        raise TokenError(f"{part}: lengths sum to {stated}, but there are {tokens} tokens.")
    for name in _COUNTED:
        place = given[name]
        if len(place) and (place[0] < 0 or place[-1] >= tokens or np.any(np.diff(place) < 0)):
            raise TokenError(f"{part}: {name} is not sorted within 0 to {tokens - 1}.")
    part.mkdir(parents=True, exist_ok=True)
    for names in _SIZES.values():
        for name, dtype in names.items():
            given[name].astype(dtype, casting="same_kind", copy=False).tofile(part / f"{name}.bin")


def _entry(path: Path) -> Mapping[str, Any]:
    try:
        manifest = read_manifest(path, KIND)
    except SchemaError as error:
        raise TokenError(f"{error} Make a token store with `ehrseq tokenize`.") from error
    entry = manifest.notes.get("store")
    needed = {*TOKEN_FIELDS, *_BESIDE, *SUBJECT_FIELDS, "offsets"}
    if not isinstance(entry, dict) or not needed <= set(entry.get("fields", ())):
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
