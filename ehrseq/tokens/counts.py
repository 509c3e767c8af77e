"""What a vocabulary is fitted on: how many training patients have each name, and which values they have.

A subject is in one shard only, so patients are counted shard by shard and added up. All counts are whole numbers:
the sum is the same for one shard or a thousand, in any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.timeline.schema import Event
from ehrseq.tokens import text
from ehrseq.tokens.attributes import Attributes, attributes_of, prose_of
from ehrseq.tokens.backoff import Parents, ladder, parents_of
from ehrseq.tokens.dense import SPAN_SUMS, span_sums
from ehrseq.tokens.packing import SPLITS, ranges
from ehrseq.tokens.shards import TimelineShard, encode, finite_values, read_events, read_splits

_ROWS_WAITING = 2_000_000  # distinct values of shards that are not added up yet


@dataclass(frozen=True, slots=True)
class CountJob:
    """Count one shard of a timeline; of a text, the first `text_pieces` words."""

    timeline: Path
    shard: TimelineShard
    text_pieces: int


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Patients and events of the training split. Names: codes and attributes with all their prefixes, answers."""

    names: pl.DataFrame  # name String, patients Int64
    words: pl.DataFrame  # word String, patients Int64
    units: pl.DataFrame  # unit String, patients Int64
    scales: pl.DataFrame  # code String, unit String ("" = none), patients Int64: with a value
    values: pl.DataFrame  # code String, unit String, value Float32, events Int64
    events: pl.DataFrame  # code String, events Int64
    # code String, attribute String, events Int64: words that all events of the code have, in a shard that has the code
    implied: pl.DataFrame
    modalities: pl.DataFrame  # modality String, patients Int64
    spans: pl.DataFrame  # SPAN_SUMS: one row for each side array and shard

    @classmethod
    def sum(cls, parts: Iterable["Counts"]) -> "Counts":
        """Add up the counts of several shards, some at a time; sorted by their keys."""
        waiting = [_count(Path(), pl.DataFrame(schema=Event.polars_schema()), 0)]
        rows = 0
        for part in parts:
            waiting.append(part)
            rows += part.values.height
            if rows > max(_ROWS_WAITING, waiting[0].values.height):
                waiting, rows = [cls._together(waiting)], 0
        return cls._together(waiting)

    @classmethod
    def _together(cls, parts: Sequence["Counts"]) -> "Counts":
        return cls(
            names=_added([part.names for part in parts]),
            words=_added([part.words for part in parts]),
            units=_added([part.units for part in parts]),
            scales=_added([part.scales for part in parts]),
            values=_added([part.values for part in parts]),
            events=_added([part.events for part in parts]),
            implied=_added([part.implied for part in parts]),
            modalities=_added([part.modalities for part in parts]),
            spans=pl.concat([part.spans for part in parts]).sort(list(SPAN_SUMS)),
        )


def count_shard(job: CountJob) -> Counts:
    """Count the training patients and values of one shard."""
    splits = read_splits(job.timeline)
    train = splits.filter(pl.col("split") == SPLITS.index("train")).select("subject_id")
    events = read_events(job.shard).join(train, on=Event.subject_id, how="semi")
    return _count(job.timeline, events, job.text_pieces, parents_of(job.timeline))


def _count(timeline: Path, events: pl.DataFrame, text_pieces: int, parents: Parents | None = None) -> Counts:
    own, beside = finite_values(events), attributes_of(events)
    value = np.concatenate([own, beside.value])
    code, codes = encode(pl.concat([events[Event.code], beside.code]))
    unit, units = encode(pl.concat([events[Event.unit].fill_null(""), beside.unit]))
    subject = events[Event.subject_id]
    subject = pl.concat([subject, subject.gather(beside.row)])
    coded = pl.DataFrame({"subject": subject, "code": code, "unit": unit, "value": value})
    valued = coded.filter(pl.col("value").is_not_nan())
    code_names, unit_names = _numbered(codes, "code"), _numbered(units, "unit")
    code_events = pl.DataFrame({"code": code[: events.height]}).group_by("code").agg(events=_rows())

    def named(counted: pl.DataFrame) -> pl.DataFrame:
        found = counted.join(code_names, on="code").join(unit_names, on="unit", suffix="_unit")
        rest = [name for name in counted.columns if name not in ("code", "unit")]
        return found.select(pl.col("name").alias("code"), pl.col("name_unit").alias("unit"), *rest)

    names = [
        _code_patients(coded.select("subject", "code"), codes, parents),
        _answer_patients(events, own),
    ]
    unit_patients = coded.select("subject", "unit").unique().group_by("unit").agg(patients=_rows())
    return Counts(
        names=pl.concat(names),
        words=_patients(_worded(events, beside, text_pieces)),
        units=unit_patients.join(unit_names, on="unit").select(unit="name", patients="patients"),
        scales=named(valued.drop("value").unique().group_by("code", "unit").agg(patients=_rows())),
        values=named(valued.group_by("code", "unit", "value").agg(events=_rows())),
        events=code_events.join(code_names, on="code").select(code="name", events="events"),
        implied=_implied(code[: events.height], code[events.height :], beside, code_events, code_names),
        modalities=_patients(events.select(Event.subject_id, Event.modality)),
        spans=span_sums(timeline, events),
    )


def _code_patients(coded: pl.DataFrame, codes: list[str], parents: Parents | None) -> pl.DataFrame:
    """Patients of each code and of all that codes lead to: name String, patients Int64."""
    ladders = [ladder(code, parents) for code in codes]
    rung_ids = {name: index for index, name in enumerate(dict.fromkeys(chain.from_iterable(ladders)))}
    rungs = np.fromiter((rung_ids[name] for name in chain.from_iterable(ladders)), np.int64)
    steps = np.fromiter(map(len, ladders), np.int64, len(ladders))
    first = np.cumsum(steps) - steps

    pairs = coded.unique()
    code, subject = pairs["code"].to_numpy(), pairs["subject"].rank("dense").to_numpy().astype(np.int64)
    rung = rungs[ranges(first[code], steps[code])]
    reached = pl.Series(np.repeat(subject, steps[code]) * len(rung_ids) + rung).unique().to_numpy()
    patients = np.bincount(reached % max(len(rung_ids), 1), minlength=len(rung_ids))
    return pl.DataFrame({"name": pl.Series(list(rung_ids), dtype=pl.String), "patients": patients})


def _answer_patients(events: pl.DataFrame, value: NDArray[np.float32]) -> pl.DataFrame:
    answered = events.filter(text.is_answered() & pl.Series(np.isnan(value)))
    named = answered.select(
        Event.subject_id, name=text.answer_code(pl.col(Event.code), text.answer(pl.col(Event.text_value)))
    )
    return _patients(named.drop_nulls())


def _implied(
    code: NDArray[np.int32],
    attribute: NDArray[np.int32],
    beside: Attributes,
    code_events: pl.DataFrame,
    names: pl.DataFrame,
) -> pl.DataFrame:
    """Codes and words (`attribute` of `beside`) that all events of the code have."""
    word = np.isnan(beside.value)
    pairs = pl.DataFrame({"code": code[beside.row[word]], "attribute": attribute[word]})
    counted = pairs.group_by("code", "attribute").agg(had=_rows()).join(code_events, on="code")
    always = counted.filter(pl.col("had") == pl.col("events")).join(names, on="code")
    found = always.join(names, left_on="attribute", right_on="code", suffix="_attribute")
    return found.select(code="name", attribute="name_attribute", events="events")


def _worded(events: pl.DataFrame, beside: Attributes, text_pieces: int) -> pl.DataFrame:
    """Subject and word of all texts, attributes of several words among them, each pair perhaps often."""
    texts = events.select(Event.subject_id, Event.text_value)
    prose = pl.DataFrame({
        Event.subject_id: events[Event.subject_id].gather(beside.row), Event.text_value: prose_of(beside.code),
    })  # fmt: skip
    texts = pl.concat([texts, prose]).drop_nulls().unique()
    words = text.words(pl.col(Event.text_value)).list.head(text_pieces)
    return texts.select(Event.subject_id, word=words).explode("word").drop_nulls()


def _patients(named: pl.DataFrame) -> pl.DataFrame:
    """Distinct subjects of each value of the other column."""
    return named.unique().group_by(named.columns[-1]).agg(patients=_rows())


def _numbered(names: list[str], number: str) -> pl.DataFrame:
    index = pl.Series(number, np.arange(len(names), dtype=np.int32))
    return pl.DataFrame([index, pl.Series("name", names, pl.String)])


def _rows() -> pl.Expr:
    return pl.len().cast(pl.Int64)


def _added(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Add up the last column over equal values of the others."""
    *keys, number = parts[0].columns
    return pl.concat(parts).group_by(keys).agg(pl.col(number).sum()).sort(keys)
