"""Events become tokens: one shard of a timeline as the arrays of a token store.

A token depends on its own event and the vocabulary, so the tokens of a prefix are the prefix of the tokens. The one
thing a static event takes from elsewhere is its time, that of the subject's first event.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import TokenError
from ehrseq.timeline.schema import Event
from ehrseq.tokens import text
from ehrseq.tokens.backoff import Parents
from ehrseq.tokens.beside import Arrays, attribute_entries, bag_of, joined, spell_texts
from ehrseq.tokens.dense import place_spans
from ehrseq.tokens.packing import SPLITS, previous_of
from ehrseq.tokens.shards import BIRTH, NOTE, encode, finite_values
from ehrseq.tokens.store import UNKNOWN_BIRTH
from ehrseq.tokens.vocabulary import UNKNOWN, Read, Vocabulary

_WAYS: tuple[Read, ...] = ("exact", "backed_off", "unknown")
_NEVER = np.iinfo(np.int64).max
_HELD_OUT = SPLITS.index("held_out")


def tokens_of(
    events: pl.DataFrame,
    vocabulary: Vocabulary,
    splits: pl.DataFrame,
    shard: int = 0,
    parents: Parents | None = None,
    *,
    timeline: Path = Path(),
    timezone: str | None = None,
) -> tuple[Arrays, Counter[str]]:
    """Tokens of `events`, rows of one shard as `read_events` gives them; at least one row.

    An event is one position; one of a dense span takes as many as it has vectors (of the side arrays in `timeline`),
    and a note one more for each piece of its text, unless the vocabulary puts notes in bags.

    Returns the arrays of a part (see `store.save_part`) and counts: `tokens`; events `exact`, `backed_off` and
    `unknown` by how their code was read; `values` and `values_without_scale`; `answers` and `answers_kept`;
    `pieces`, `pieces_unknown` and `pieces_cut` of all other text; `attributes` and `attributes_unknown`; `vectors`;
    `units_unknown`; `subjects_without_split` (they count as held out).

    A code that leads to another of the same unit takes its scale. `parents`: see `backoff.ladder`. `timezone`: that of
    the patients' clocks; None = unknown.

    Raises: TokenError for a modality that the vocabulary does not know, or a span outside its array.
    """
    counts: Counter[str] = Counter()
    token, exact, answered = _codes_and_values(events, vocabulary, counts, parents)
    token["time"], starts, birth = _times(events)
    token["modality"] = _modality(events, vocabulary)
    token["zone"] = _zone(events, timezone)
    token["event"] = np.arange(events.height)
    token, positions = _with_what_stands_beside(
        token, events, (exact, answered), vocabulary, counts, timeline
    )
    subject_id, length = events[Event.subject_id].to_numpy()[starts], np.add.reduceat(positions, starts)
    token["previous"] = previous_of(token["code"], length)
    counts["tokens"] = len(token["code"])
    token |= {
        "subject_id": subject_id,
        "birth": birth,
        "split": _split(subject_id, splits, counts),
        "shard": np.full(len(starts), shard, np.int16),
        "length": length,
    }
    return token, counts


def _codes_and_values(
    events: pl.DataFrame, vocabulary: Vocabulary, counts: Counter[str], parents: Parents | None
) -> tuple[Arrays, NDArray[np.int32], NDArray[np.bool_]]:
    """Arrays of one position for each event; the id of its own code (-1: it is read as another); and whether its text
    was read with its code: all [n]."""
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
    exact = np.where(how == _WAYS.index("exact"), code, -1).astype(
        np.int32
    )  # before answers get codes of their own
    answered = _answers(code, events, np.isnan(x), vocabulary, counts)
    token = {"code": code, "value": value, "bin": bins, "unit": np.maximum(unit, 0).astype(np.int16)}
    return token, exact, answered


def _answers(
    code: NDArray[np.int32],
    events: pl.DataFrame,
    without_value: NDArray[np.bool_],
    vocabulary: Vocabulary,
    counts: Counter[str],
) -> NDArray[np.bool_]:
    """Give events whose answer the vocabulary keeps the code of the answer, in place; returns which they are [n]."""
    row = np.flatnonzero(without_value & events.select(text.is_answered()).to_series().to_numpy())
    given = events[row].select(
        name=text.answer_code(pl.col(Event.code), text.answer(pl.col(Event.text_value)))
    )["name"]
    index, names = encode(given)
    ids = np.asarray([*(vocabulary.code_ids.get(name, -1) for name in names), -1], np.int32)  # -1: the last
    answer = ids[index]
    kept = answer >= 0
    code[row[kept]] = answer[kept]
    counts["answers"], counts["answers_kept"] = int((index >= 0).sum()), int(kept.sum())
    answered = np.zeros(events.height, np.bool_)
    answered[row[kept]] = True
    return answered


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


def _zone(events: pl.DataFrame, timezone: str | None) -> NDArray[np.int8]:
    """Quarter hours that the local clock is ahead of UTC."""
    if timezone in (None, "UTC"):
        return np.zeros(events.height, np.int8)
    local = pl.col(Event.time).dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    ahead = local.dt.base_utc_offset() + local.dt.dst_offset()
    quarters = events.select(ahead.dt.total_minutes().fill_null(0) // 15).to_series()
    found: NDArray[np.int8] = quarters.cast(pl.Int8).to_numpy()
    return found


def _with_what_stands_beside(
    token: Arrays,
    events: pl.DataFrame,
    read: tuple[NDArray[np.int32], NDArray[np.bool_]],
    vocabulary: Vocabulary,
    counts: Counter[str],
    timeline: Path,
) -> tuple[Arrays, NDArray[np.int64]]:
    """Add pieces of text, attributes and dense spans. Also returns the positions of each event [n], at least 1."""
    exact, answered = read
    attributes = attribute_entries(events, token | {"exact": exact}, vocabulary, counts)
    row, code = spell_texts(events, answered, vocabulary, counts)
    apart = (events[Event.modality] == NOTE).to_numpy()[row] & (vocabulary.notes == "pieces")
    vectors, dense = place_spans(timeline, events, vocabulary.spans)
    counts["vectors"] = len(dense["event"])

    positions = np.maximum(vectors, 1) + np.bincount(row[apart], minlength=events.height)
    first = np.cumsum(positions) - positions
    if positions.sum() > events.height:
        token = {name: np.repeat(values, positions) for name, values in token.items()}
    place = _running(row[apart]) + first[row[apart]] + np.maximum(vectors, 1)[row[apart]]
    token["code"][place] = code[apart]
    for name, nothing in (("value", np.nan), ("bin", 0), ("unit", 0)):
        token[name][place] = nothing

    bag = joined(attributes, bag_of(row[~apart], code[~apart]))
    token |= {"bag_token": first[bag["row"]], "bag_code": bag["code"], "bag_weight": bag["weight"]}
    token |= {
        "dense_token": first[dense["event"]] + _running(dense["event"]),
        "dense_array": dense["array"],
        "dense_row": dense["row"],
    }
    return token, positions


def _running(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each entry within its run of equal numbers, from 0.

    >>> _running(np.asarray([4, 4, 7])).tolist()
    [0, 1, 0]
    """
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    place: NDArray[np.int64] = np.arange(len(group)) - np.repeat(
        begins, np.diff(np.append(begins, len(group)))
    )
    return place


def _split(subject_id: NDArray[np.int64], splits: pl.DataFrame, counts: Counter[str]) -> NDArray[np.int8]:
    found = pl.DataFrame({"subject_id": subject_id}).join(
        splits, on="subject_id", how="left", maintain_order="left"
    )["split"]
    counts["subjects_without_split"] = found.null_count()
    split: NDArray[np.int8] = found.fill_null(_HELD_OUT).to_numpy()
    return split
