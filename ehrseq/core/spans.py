"""Side arrays of dense vectors: what images, genomes and wearables are to a model, k vectors for one event.

    FOLDER/spans/<name>.bin    [rows, dim] little-endian float32 or bfloat16, row after row, no header
    FOLDER/spans/<name>.json   {"format_version": 1, "rows", "dim", "dtype", "encoder", "sha256"}

One array holds vectors that mean the same: one `encoder` (its name and version), one width. An event refers to the rows
`span_start : span_start + span_length` of the array `span_array`. Read through a memory map, with numpy alone.
"""

import json
import re
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import SchemaError, StorageError

FOLDER = "spans"
FORMAT_VERSION = 1
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),
}  # bfloat16: the upper half of a float32
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class SpanHeader:
    """The JSON beside an array."""

    rows: int
    dim: int
    dtype: str
    encoder: str  # what made the vectors: vectors of two encoders must not be mixed
    sha256: str  # of the .bin
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Read `folder/spans/<name>.json`. Raises: SchemaError if it is missing or not such a header."""
        file = folder / FOLDER / f"{name}.json"
        if not file.is_file():
            raise SchemaError(f"{file}: missing, but events refer to span_array {name!r}.")
        try:
            header = cls(**json.loads(file.read_bytes()))
            good = header.format_version == FORMAT_VERSION and header.dtype in DTYPES and header.dim > 0
        except (ValueError, TypeError) as error:
            raise SchemaError(f"{file}: not the header of a side array ({type(error).__name__}).") from error
        if not good:
            raise SchemaError(
                f"{file}: format {header.format_version}, dtype {header.dtype!r}, dim {header.dim}; expected format "
                f"{FORMAT_VERSION}, one of {', '.join(DTYPES)}, and 1 or more."
            )
        return header


class SpanArray:
    """An array, opened: `rows` vectors of width `dim`."""

    def __init__(self, folder: Path, name: str, header: SpanHeader) -> None:
        self.header = header
        self.path = folder / FOLDER / f"{name}.bin"
        dtype = DTYPES[header.dtype]
        found = self.path.stat().st_size if self.path.is_file() else -1
        if found != header.rows * header.dim * dtype.itemsize:
            raise SchemaError(
                f"{self.path}: {'missing' if found < 0 else f'{found} bytes'}, its header says {header.rows} rows of "
                f"{header.dim} {header.dtype}: truncated or replaced. Make it again."
            )
        shape = (header.rows, header.dim)
        self._rows: NDArray[Any] = np.zeros(shape, dtype)
        if header.rows:  # an empty file cannot be mapped
            self._rows = np.memmap(self.path, dtype, mode="r", shape=shape)

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """Open `folder/spans/<name>.bin`. Raises: SchemaError if it is missing or has another size than promised."""
        return cls(folder, name, SpanHeader.read(folder, name))

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Vectors [n, dim] float32 of row numbers [n]."""
        taken = self._rows[np.asarray(rows, np.int64)]
        return taken if self.header.dtype == "float32" else widened(taken)

    def __repr__(self) -> str:
        """Sizes alone."""
        return f"SpanArray({str(self.path)!r}, rows={self.header.rows}, dim={self.header.dim})"


class SpanWriter:
    """Write an array, batch after batch. The header is written last, so a killed run leaves none that can be opened.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with SpanWriter(folder, "xray", dim=2, encoder="toy 1", dtype="bfloat16") as spans:
    ...     first, second = spans.append([[1, 2]]), spans.append([[3, 4], [5, 6.5]])
    >>> first, second, SpanArray.open(folder, "xray").read([2, 0]).tolist()
    (0, 1, [[5.0, 6.5], [1.0, 2.0]])
    """

    def __init__(self, folder: Path, name: str, *, dim: int, encoder: str, dtype: str = "float32") -> None:
        if not _NAME.fullmatch(name):
            raise SchemaError(f"span array {name!r}: expected a-z, 0-9, _ and -, at most 64, such as xray.")
        if dtype not in DTYPES or dim < 1:
            raise SchemaError(
                f"span array {name!r}: dtype {dtype!r}, dim {dim}; expected {' or '.join(DTYPES)}."
            )
        self.folder, self.name, self.dim, self.dtype, self.encoder = Path(folder), name, dim, dtype, encoder
        self.rows = 0
        self._hash, self._stack = sha256(), ExitStack()

    def __enter__(self) -> Self:
        path = self.folder / FOLDER / f"{self.name}.bin"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(path.open("wb"))
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({type(error).__name__}).") from error
        return self

    def append(self, vectors: ArrayLike) -> int:
        """Add vectors [k, dim]; returns the row of the first, an event's `span_start`.

        Raises: SchemaError for another width, or a number that is not finite.
        """
        given = np.ascontiguousarray(vectors, np.float32)
        if given.ndim != 2 or given.shape[1] != self.dim or not np.isfinite(given).all():
            raise SchemaError(
                f"span array {self.name!r}: shape {given.shape}, expected finite numbers [k, {self.dim}]."
            )
        written = (narrowed(given) if self.dtype == "bfloat16" else given.astype("<f4", copy=False)).tobytes()
        self._file.write(written)
        self._hash.update(written)
        first, self.rows = self.rows, self.rows + len(given)
        return first

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is None:
            header = SpanHeader(self.rows, self.dim, self.dtype, self.encoder, self._hash.hexdigest())
            content = json.dumps(asdict(header), indent=1, ensure_ascii=False) + "\n"
            (self.folder / FOLDER / f"{self.name}.json").write_text(content, encoding="utf-8")


def widened(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as uint16 [...] -> float32 [...], exactly."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 [...] -> bfloat16 as uint16 [...], to nearest, ties to even.

    >>> widened(narrowed(np.asarray([1.0, 3.14159], np.float32))).tolist()
    [1.0, 3.140625]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")
