"""Events become tokens: one shard of a timeline as the arrays of a token store. A function of frames, no files.

A token depends on its own event and the vocabulary, so the tokens of a prefix are the prefix of the tokens. The one
thing a static event takes from elsewhere is its time, that of the subject's first event.
"""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import TokenError
from ehrseq.timeline.schema import Event
from ehrseq.tokens import text
from ehrseq.tokens.backoff import Parents
from ehrseq.tokens.packing import SPLITS
from ehrseq.tokens.shards import BIRTH, NOTE, encode, finite_values
from ehrseq.tokens.store import UNKNOWN_BIRTH
from ehrseq.tokens.vocabulary import UNKNOWN, Read, Vocabulary

type Arrays = dict[str, NDArray[Any]]

_WAYS: tuple[Read, ...] = ("exact", "backed_off", "unknown")
_NEVER = np.iinfo(np.int64).max
_HELD_OUT = SPLITS.index("held_out")


def tokens_of(
    events: pl.DataFrame,
    vocabulary: Vocabulary,
    splits: pl.DataFrame,
    shard: int = 0,
    parents: Parents | None = None,
) -> tuple[Arrays, Counter[str]]:
    """Tokens of `events`, rows of one shard as `read_events` gives them; at least one row.

    Returns the arrays of a part (see `store.save_part`) and counts: `tokens`; events `exact`, `backed_off` and
    `unknown` by how their code was read; `values` and `values_without_scale`; `answers` and `answers_kept`;
    `words`, `words_unknown` and `words_cut`; `units_unknown`; `subjects_without_split` (they count as held out).

    A code that leads to another of the same unit takes its scale. `parents`: see `backoff.ladder`.

    Raises: TokenError for a modality that the vocabulary does not know.
    """
    counts: Counter[str] = Counter()
    token = _codes_and_values(events, vocabulary, counts, parents)
    token["time"], starts, birth = _times(events)
    token["modality"] = _modality(events, vocabulary)
    token["event"] = np.arange(events.height)
    positions = _spread_notes(token, events, vocabulary, counts)
    subject_id = events[Event.subject_id].to_numpy()[starts]
    counts["tokens"] = len(token["code"])
    token |= {
        "subject_id": subject_id,
        "birth": birth,
        "split": _split(subject_id, splits, counts),
        "shard": np.full(len(starts), shard, np.int16),
        "length": np.add.reduceat(positions, starts),
    }
    return token, counts


def _codes_and_values(
    events: pl.DataFrame, vocabulary: Vocabulary, counts: Counter[str], parents: Parents | None
) -> Arrays:
    index, names = encode(events[Event.code])
    found = [vocabulary.read(name, parents) for name in names]
    code = np.asarray([number for number, _ in found], np.int32)[index]
    how = np.asarray([_WAYS.index(way) for _, way in found])[index]
    for number, way in enumerate(_WAYS):
        counts[way] = int((how == number).sum())

    unit_index, unit_names = encode(events[Event.unit].fill_null(""))
    unit = np.asarray([vocabulary.unit_ids.get(name, -1) for name in unit_names], np.int32)[unit_index]
    counts["units_unknown"] = int((unit < 0).sum())

    x = finite_values(events)
    row = vocabulary.scales.find(np.where(code == UNKNOWN, -1, code), unit)
    value, bins = vocabulary.scales.apply(row, x)
    counts["values"] = int((bins > 0).sum())
    counts["values_without_scale"] = int((~np.isnan(x)).sum()) - counts["values"]
    _answers(code, events, np.isnan(x), vocabulary, counts)
    return {"code": code, "value": value, "bin": bins, "unit": np.maximum(unit, 0).astype(np.int16)}


def _answers(
    code: NDArray[np.int32],
    events: pl.DataFrame,
    without_value: NDArray[np.bool_],
    vocabulary: Vocabulary,
    counts: Counter[str],
) -> None:
    """Give events whose answer the vocabulary keeps the code of the answer, in place."""
    row = np.flatnonzero(without_value & events.select(text.is_answered()).to_series().to_numpy())
    answered = events[row].select(
        name=text.answer_code(pl.col(Event.code), text.answer(pl.col(Event.text_value)))
    )["name"]
    index, names = encode(answered)
    ids = np.asarray([*(vocabulary.code_ids.get(name, -1) for name in names), -1], np.int32)  # -1: the last
    answer = ids[index]
    kept = answer >= 0
    code[row[kept]] = answer[kept]
    counts["answers"], counts["answers_kept"] = int((index >= 0).sum()), int(kept.sum())


def _times(events: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Time of each event [n], first row of each subject [s], birth of each subject [s]."""
    subject = events[Event.subject_id].to_numpy()
    starts = np.flatnonzero(np.diff(subject, prepend=subject[:1] - 1))
    rows = np.diff(np.append(starts, len(subject)))
    time = events[Event.time].to_physical().fill_null(_NEVER).to_numpy()
    first = np.minimum.reduceat(time, starts)
    filled = np.where(time == _NEVER, np.repeat(np.where(first == _NEVER, 0, first), rows), time)
    is_birth = (events[Event.code] == BIRTH).to_numpy() & (time != _NEVER)
    birth = np.minimum.reduceat(np.where(is_birth, time, _NEVER), starts)
    return filled, starts, np.where(birth == _NEVER, UNKNOWN_BIRTH, birth)


def _modality(events: pl.DataFrame, vocabulary: Vocabulary) -> NDArray[np.int8]:
    index, names = encode(events[Event.modality])
    if strange := [name for name in names if name not in vocabulary.modalities]:
        raise TokenError(
            f"modality {strange[0]!r} is in the timeline, the vocabulary knows {', '.join(vocabulary.modalities)}. "
            "Fit a new vocabulary with an ehrseq that knows it."
        )
    return np.asarray([vocabulary.modalities.index(name) for name in names], np.int8)[index]


def _spread_notes(
    token: Arrays, events: pl.DataFrame, vocabulary: Vocabulary, counts: Counter[str]
) -> NDArray[np.int64]:
    """Put the words of each note behind its event, in place. Returns the positions of each event [n], at least 1."""
    positions = np.ones(events.height, np.int64)
    row = np.flatnonzero((events[Event.modality] == NOTE).to_numpy())
    if not len(row):
        return positions
    words = events[row].select(words=text.words(pl.col(Event.text_value)))["words"].fill_null([])
    visible = words.list.head(vocabulary.note_words)
    positions[row] += visible.list.len().to_numpy()
    index, names = encode(visible.filter(visible.list.len() > 0).explode())
    word = np.asarray([vocabulary.code_ids.get(name, UNKNOWN) for name in names], np.int32)[index]

    is_word = np.ones(positions.sum(), np.bool_)
    is_word[np.cumsum(positions) - positions] = False
    for name in token:
        token[name] = np.repeat(token[name], positions)
    token["code"][is_word] = word
    token["value"][is_word] = np.nan
    token["bin"][is_word] = 0
    token["unit"][is_word] = 0
    counts["words"], counts["words_unknown"] = len(word), int((word == UNKNOWN).sum())
    counts["words_cut"] = int(words.list.len().sum()) - len(word)
    return positions


def _split(subject_id: NDArray[np.int64], splits: pl.DataFrame, counts: Counter[str]) -> NDArray[np.int8]:
    found = pl.DataFrame({"subject_id": subject_id}).join(
        splits, on="subject_id", how="left", maintain_order="left"
    )["split"]
    counts["subjects_without_split"] = found.null_count()
    split: NDArray[np.int8] = found.fill_null(_HELD_OUT).to_numpy()
    return split
