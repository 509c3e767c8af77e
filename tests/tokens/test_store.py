"""A store opens with numpy alone, and says what is wrong with a damaged one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ward_events import write_timeline

from ehrseq.core.errors import TokenError
from ehrseq.tokens.store import TOKEN_FIELDS, StoreWriter, TokenStore, save_part
from ehrseq.tokens.tokenize import tokenize


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tokenize(write_timeline(tmp_path / "timeline"), tmp_path / "tokens", min_patients=3).out


def test_open(tokens: Path) -> None:
    store = TokenStore.open(tokens)
    assert store.subjects == 12
    assert store.offsets[-1] == store.tokens == len(store.code)
    assert store.rows(1) == slice(int(store.offsets[1]), int(store.offsets[2]))
    assert store.vocabulary["codes"][:2] == ["<pad>", "<unknown>"]
    assert store.index_of(store.subject_id).tolist() == list(range(12))
    assert store.index_of([99, int(store.subject_id[3]), -1]).tolist() == [-1, 3, -1]
    assert "131" not in repr(store)
    assert repr(store).endswith(f"subjects=12, tokens={store.tokens})")
    with pytest.raises(ValueError, match="read-only"):
        store.code[0] = 7
    with pytest.raises(TokenError, match="subject index 12, expected 0 to 11"):
        store.rows(12)


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"no such folder.*ehrseq tokenize"):
        TokenStore.open(tmp_path / "nothing")
    with pytest.raises(TokenError, match="not a dataset"):
        TokenStore.open(tmp_path)
    with pytest.raises(TokenError, match="kind 'timeline', expected a dataset of kind 'tokens'"):
        TokenStore.open(write_timeline(tmp_path / "timeline"))


@pytest.mark.parametrize("field", ["code", "offsets", "birth"])
def test_truncated_array(tokens: Path, field: str) -> None:
    path = tokens / "arrays" / f"{field}.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        TokenError, match=rf"{field}.bin: \d+ bytes, but the manifest says .*truncated.*again"
    ):
        TokenStore.open(tokens)
    path.unlink()
    with pytest.raises(TokenError, match=rf"{field}.bin: missing"):
        TokenStore.open(tokens)


def test_wrong_vocabulary(tokens: Path) -> None:
    path = tokens / "vocabulary.json"
    expected = TokenStore.open(tokens).vocabulary_sha256
    path.write_text(path.read_text().replace("text//chest", "text//crest"))
    with pytest.raises(TokenError, match=rf"sha256 \w{{12}}, but .* {expected[:12]}\. Put the right"):
        TokenStore.open(tokens)


def test_parts_must_fit(tmp_path: Path) -> None:
    arrays = {name: np.zeros(3, np.dtype(dtype)) for name, dtype in TOKEN_FIELDS.items()}
    for name, dtype in {
        "subject_id": "i8",
        "birth": "i8",
        "split": "i1",
        "shard": "i2",
        "length": "i8",
    }.items():
        arrays[name] = np.ones(1, dtype)
    with pytest.raises(TokenError, match="lengths sum to 1, but there are 3 tokens"):
        save_part(tmp_path / "part", arrays)
    with pytest.raises(TokenError, match=r"'value' has shape \(2,\), expected \(3,\)"):
        save_part(tmp_path / "part", {**arrays, "value": np.zeros(2, np.float32)})


def test_empty_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        entry = writer.finish(b"{}")
    store = TokenStore(tmp_path, entry)
    assert (store.subjects, store.tokens, store.offsets.tolist()) == (0, 0, [0])
    assert store.index_of([1]).tolist() == [-1]


def test_needs_numpy_alone(tokens: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('polars', 'pyarrow', 'duckdb', 'pydantic', 'jax', 'fhir', 'yaml'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from ehrseq.tokens.store import TokenStore\n"
        "import ehrseq.tokens.loader\n"
        f"print(TokenStore.open(Path({str(tokens)!r})).subjects)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "12"
