"""Pieces of words: byte-level BPE (Hugging Face `tokenizers`), learnt from the words that enough patients share.

No patient can be recognised by a piece: BPE is shown the words that at least `min_patients` distinct training patients
have and nothing else, so every piece is a part of such a word. A rarer word (a name, a number of record) is spelled
with these pieces, letter by letter if need be; a byte that no shared word has is unknown.

A piece is named `text//sepsis` if a word begins with it, `text//-itis` if it goes on with one. Only `fit` and `spell`
need `tokenizers`; a store holds numbers.
Source: Sennrich et al. 2016, *Neural machine translation of rare words with subword units*; over bytes as in Radford
et al. 2019, section 2.2.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN_NAME = "<unknown>"  # as the vocabulary calls it
_UNKNOWN = "<unk>"
_ESCAPED = re.compile(r"\\x(..)")
_SHOWN = 500_000  # words that BPE is shown in all, each in proportion to its patients
_START = "Ġ"  # how byte-level BPE writes the space before a word


class Pieces:
    """A fitted tokenizer of words. `content` is the JSON of Hugging Face `tokenizers`; piece i is `names[i]`."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    @classmethod
    def fit(cls, words: pl.DataFrame, most: int) -> Self:
        """Learn at most `most` pieces from distinct words: word String, patients Int64."""
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        trainer = trainers.BpeTrainer(
            vocab_size=most + 1, min_frequency=1, special_tokens=[_UNKNOWN], show_progress=False
        )
        tokenizer.train_from_iterator(_shown(words), trainer)
        return cls(json.loads(tokenizer.to_str()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the pieces as codes, by number; the first is unknown."""
        vocabulary: dict[str, int] = self.content["model"]["vocab"]
        return tuple(_named(piece) for piece in sorted(vocabulary, key=vocabulary.__getitem__))

    def spell(self, words: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Pieces of each word, one word after the other [n] int32, and how many each has [len(words)] int64."""
        encoded = self._tokenizer.encode_batch_fast(words, add_special_tokens=False) if words else []
        counts = np.fromiter((len(word.ids) for word in encoded), np.int64, len(encoded))
        numbers = np.fromiter((number for word in encoded for number in word.ids), np.int32, counts.sum())
        return numbers, counts

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        return Tokenizer.from_str(json.dumps(self.content))


def _shown(words: pl.DataFrame) -> Iterator[str]:
    """Each word as often as its share of patients says, at least once."""
    share = max(int(words["patients"].sum()) // _SHOWN, 1)
    for word, patients in words.sort("word").iter_rows():
        for _ in range(max(patients // share, 1)):
            yield word


def _named(piece: str) -> str:
    """A piece's name as a code; bytes that are no whole letter as <e2>.

    >>> _named("Ġsepsis"), _named("itis"), _named("ĠÃ©tÃ©"), _named("Ã"), _named("Ġ")
    ('text//sepsis', 'text//-itis', 'text//été', 'text//-<c3>', 'text//')
    """
    if piece == _UNKNOWN:
        return UNKNOWN_NAME
    start = piece.startswith(_START)
    letters = bytes(_BYTES[glyph] for glyph in piece[start:]).decode("utf-8", "backslashreplace")
    return f"text//{'' if start else '-'}{_ESCAPED.sub(r'<\1>', letters)}"


def _glyphs() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte, back to the byte. Source: Radford et al. 2019, its code."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


_BYTES = _glyphs()
