"""What stands beside the code of an event: the pieces of its text and its attributes.

A position may carry a bag, codes with weights whose embeddings are added to its own: an attribute with weight 1, the
pieces of a text with weights that sum to 1, so that a bag of text is their mean.
"""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.timeline.schema import Event
from ehrseq.tokens import text
from ehrseq.tokens.attributes import SLOPE, attributes_of, prose_of
from ehrseq.tokens.packing import ranges
from ehrseq.tokens.shards import encode
from ehrseq.tokens.vocabulary import UNKNOWN, Vocabulary, pair_of

type Arrays = dict[str, NDArray[Any]]


def spell_texts(
    events: pl.DataFrame, answered: NDArray[np.bool_], vocabulary: Vocabulary, counts: Counter[str]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pieces of all texts that were not read with their code (`answered` [n]): event [p] and code [p], in order.

    Of each text the first `text_pieces`; pieces that the vocabulary lacks are `<unknown>`.
    """
    rows = np.flatnonzero(events[Event.text_value].is_not_null().to_numpy() & ~answered)
    return _spelled(rows, events[Event.text_value].gather(rows), vocabulary, counts)


def _spelled(
    rows: NDArray[np.int64], texts: pl.Series, vocabulary: Vocabulary, counts: Counter[str]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Event and code of each piece [p] of `texts`, which stand with the events `rows`, both [t]."""
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if not len(rows) or vocabulary.pieces is None:
        return nothing
    words = pl.DataFrame({"text": texts}).select(words=text.words(pl.col("text")))["words"]
    seen = words.list.head(vocabulary.text_pieces)  # a word has one piece at least
    per_text = seen.list.len().to_numpy().astype(np.int64)
    if not per_text.any():
        return nothing
    index, names = encode(seen.filter(seen.list.len() > 0).explode())
    numbers, per_word = vocabulary.pieces.spell(names)
    first = np.cumsum(per_word) - per_word
    code = vocabulary.piece_ids[numbers[ranges(first[index], per_word[index])]]
    whose = np.repeat(np.repeat(np.arange(len(rows)), per_text), per_word[index])
    begin = np.searchsorted(whose, np.arange(len(rows)))
    keep = np.arange(len(whose)) - begin[whose] < vocabulary.text_pieces
    cut_words = int(words.list.len().sum()) - int(per_text.sum())
    counts["pieces"] += int(keep.sum())
    counts["pieces_unknown"] += int((code[keep] == UNKNOWN).sum())
    counts["pieces_cut"] += int((~keep).sum()) + cut_words  # of what was not spelled, a word counts as one
    return rows[whose[keep]], code[keep]


def bag_of(row: NDArray[np.int64], code: NDArray[np.int32]) -> Arrays:
    """The mean of the pieces [p] of each event as entries of a bag: `row`, `code` and `weight`, by row and code.

    Unknown pieces are left out, a piece that comes twice has twice the weight.
    """
    row, code = row[code != UNKNOWN], code[code != UNKNOWN]
    key, times = np.unique(row << 32 | code, return_counts=True)
    row = key >> 32
    total = np.bincount(row, times)[row] if len(row) else np.ones(0)
    return {
        "row": row,
        "code": (key & 0xFFFFFFFF).astype(np.int32),
        "weight": (times / total).astype(np.float32),
    }


def attribute_entries(
    events: pl.DataFrame, own: Arrays, vocabulary: Vocabulary, counts: Counter[str]
) -> Arrays:
    """Attributes as entries of bags, in the order of the record. What is unknown is left out, and what the code says
    already: words that all training events of the same code have (`own` "exact": its id). Of a comment that too few
    patients have, the mean of its pieces follows.

    A word has weight 1. A number that has a scale has its scaled value for a weight: a reference range in the unit of
    the event that of the event's `own` code and unit, so that it compares with the value, any other that of its name.
    """
    found = attributes_of(events)
    code_index, names = encode(found.code)
    unit_index, unit_names = encode(found.unit)
    ways = [vocabulary.read(name) for name in names]
    code = np.asarray([number for number, _ in ways], np.int32)[code_index]
    exact = np.asarray([way == "exact" for _, way in ways], np.bool_)[code_index]
    unit = np.asarray([vocabulary.unit_ids.get(name, -1) for name in unit_names], np.int32)[unit_index]
    slope = np.asarray([vocabulary.code_ids.get(name + SLOPE, UNKNOWN) for name in names], np.int32)[
        code_index
    ]
    counts["attributes"], counts["attributes_unknown"] = len(code), int((code == UNKNOWN).sum())

    events_unit = own["unit"][found.row]
    of_event = vocabulary.scales.find(own["code"][found.row], np.where(events_unit == unit, unit, -1))
    scale = np.where((of_event >= 0) & (unit > 0), of_event, vocabulary.scales.find(code, unit))
    scaled, bins = vocabulary.scales.apply(scale, found.value)
    number = (bins > 0) & (slope != UNKNOWN)
    read = np.where(number, slope, code)
    implied = ~number & np.isin(pair_of(own["exact"][found.row], code), vocabulary.implied)
    counts["attributes_implied"] = int(implied.sum())
    known = np.flatnonzero((read != UNKNOWN) & ~implied)
    weight = np.where(number, scaled, np.float32(1))
    entries = {"row": found.row[known], "code": read[known], "weight": weight[known].astype(np.float32)}
    prose = prose_of(found.code)
    spelled = np.flatnonzero(~exact & prose.is_not_null().to_numpy())
    return joined(entries, bag_of(*_spelled(found.row[spelled], prose.gather(spelled), vocabulary, counts)))


def joined(*bags: Arrays) -> Arrays:
    """Entries of several bags as one, by row; within a row in the order given."""
    both = {name: np.concatenate([bag[name] for bag in bags]) for name in ("row", "code", "weight")}
    order = np.argsort(both["row"], kind="stable")
    return {name: values[order] for name, values in both.items()}
