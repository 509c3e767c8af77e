"""The vocabulary: which codes, answers, words, units and value scales exist, fitted on training patients alone.

A name is kept when at least `min_patients` distinct training patients have it, and so is a prefix of codes (a
patient has a prefix who has anything below it). A code that is not kept is read as its nearest kept prefix, else as
`<unknown>`; an answer (`<code>//TEXT//<answer>`) as its code and the pieces of its text. A prefix that no training
event is read as keeps the embedding it was born with. Pieces are learnt from words that so many patients have.
What fewer than `min_patients` patients share does not enter a vocabulary.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError, TokenError
from ehrseq.core.executor import each_result
from ehrseq.tokens.attributes import slopes
from ehrseq.tokens.backoff import Parents, ladder
from ehrseq.tokens.counts import CountJob, Counts, count_shard
from ehrseq.tokens.dense import SpanScale, fit_spans
from ehrseq.tokens.pieces import UNKNOWN_NAME, Pieces
from ehrseq.tokens.shards import timeline_shards
from ehrseq.tokens.values import MOST_UNITS, ValueScales, key_of

PAD, UNKNOWN = 0, 1
RESERVED = ("<pad>", UNKNOWN_NAME)
MODALITIES = ("record", "note")  # those of every vocabulary; others follow, as training has them
FORMAT_VERSION = 2
_MOST_CODES = 1 << 31

type Read = Literal["exact", "backed_off", "unknown"]
type Notes = Literal["pieces", "bag"]


@dataclass(frozen=True, slots=True)
class VocabularyConfig:
    """How a vocabulary is fitted."""

    # Distinct training patients that a name or a scale needs. Below five, an embedding learns persons and not
    # facts, and counts under five are cells that hospitals suppress. Lower it for a toy; 11 or more to publish.
    min_patients: int = 5
    bins: int = 10  # quantile bins of a code's values
    # "pieces": a note takes a position for its code and one for each piece, so that order counts. "bag": it takes one
    # position, its code with the mean of its pieces: for long records with many notes. Other text is always a bag.
    notes: Notes = "pieces"
    text_pieces: int = 128  # pieces read of a text: the first ones
    max_pieces: int = 8_000  # pieces learnt; 0 = text is not read

    def __post_init__(self) -> None:
        if self.notes not in get_args(Notes.__value__):
            raise ConfigError(f"notes is {self.notes!r}, expected pieces or bag.")
        limits = {"min_patients": (1, 1 << 31), "bins": (1, 1000), "text_pieces": (0, 1 << 20)}
        limits["max_pieces"] = (0, 1 << 30)
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} to {most}.")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Names and their ids. `codes[id]`: codes, attributes, prefixes, answers, pieces; `units[id]`, 0 = none."""

    codes: tuple[str, ...] = field(repr=False)
    units: tuple[str, ...] = field(repr=False)
    bins: int
    notes: Notes
    text_pieces: int
    min_patients: int
    scales: ValueScales = field(repr=False)
    modalities: tuple[str, ...] = MODALITIES
    # [I] sorted, `pair_of` code and attribute: words that all training events of a code have, so that they say nothing
    implied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    pieces: Pieces | None = field(default=None, repr=False)  # None: there was no text to learn from
    spans: tuple[SpanScale, ...] = ()

    @cached_property
    def code_ids(self) -> dict[str, int]:
        """Id of each code, attribute, prefix, answer and piece."""
        return {name: index for index, name in enumerate(self.codes)}

    @cached_property
    def piece_ids(self) -> NDArray[np.int32]:
        """Id of each piece [p], by its number in `pieces`."""
        names = self.pieces.names if self.pieces else ()
        return np.asarray([self.code_ids.get(name, UNKNOWN) for name in names], np.int32)

    @cached_property
    def unit_ids(self) -> dict[str, int]:
        """Id of each unit; "" is 0."""
        return {name: index for index, name in enumerate(self.units)}

    def read(self, code: str, parents: Parents | None = None) -> tuple[int, Read]:
        """The id that `code` is read as, and how it was found. Every code has one. `parents`: see `backoff.ladder`."""
        for step, name in enumerate(ladder(code, parents)):
            if (found := self.code_ids.get(name, UNKNOWN)) > UNKNOWN:
                return found, "backed_off" if step else "exact"
        return UNKNOWN, "unknown"

    @cached_property
    def sha256(self) -> str:
        """Sha256 of `to_bytes`; names the vocabulary, however its file was laid out."""
        return sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """`vocabulary.json`: JSON with sorted keys and no spaces, equal bytes for equal vocabularies."""
        content = {
            "format_version": FORMAT_VERSION,
            "codes": self.codes,
            "units": self.units,
            "modalities": self.modalities,
            "bins": self.bins,
            "notes": self.notes,
            "text_pieces": self.text_pieces,
            "min_patients": self.min_patients,
            "scales": self.scales.to_json(),
            "implied": np.stack(np.divmod(self.implied, _MOST_CODES)).tolist(),
            "pieces": self.pieces.content if self.pieces else None,
            "spans": [asdict(scale) for scale in self.spans],
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `vocabulary.json`, or the file of that name in a folder (a token store, a model).

        Raises: TokenError if it is missing, damaged, or of another format.
        """
        file = path / "vocabulary.json" if path.is_dir() else path
        if not file.is_file():
            raise TokenError(
                f"{file}: no such file. Expected a vocabulary, as stands in a token store or a model."
            )
        try:
            return cls._from_json(json.loads(file.read_bytes()))
        except (ValueError, KeyError, TypeError) as error:
            raise TokenError(
                f"{file}: not a vocabulary of format {FORMAT_VERSION}, or damaged ({type(error).__name__}). "
                "Take the one of the token store or model again."
            ) from error

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> Self:
        if content["format_version"] != FORMAT_VERSION or tuple(content["codes"][:2]) != RESERVED:
            raise ValueError("format")
        return cls(
            codes=tuple(content["codes"]),
            units=tuple(content["units"]),
            bins=int(content["bins"]),
            notes=content["notes"],
            text_pieces=int(content["text_pieces"]),
            min_patients=int(content["min_patients"]),
            scales=ValueScales.from_json(content["scales"], int(content["bins"])),
            modalities=tuple(content["modalities"]),
            implied=pair_of(*np.asarray(content["implied"], np.int64)),
            pieces=Pieces(content["pieces"]) if content["pieces"] else None,
            spans=tuple(SpanScale(**scale) for scale in content["spans"]),
        )


def fit_vocabulary(
    timeline: Path,
    config: VocabularyConfig | None = None,
    *,
    workers: int = 1,
    base: Vocabulary | None = None,
) -> Vocabulary:
    """Fit a vocabulary on the training subjects of a timeline; the others are not looked at.

    With `base`, grow it: its names keep their ids and its scales their numbers, so that what a model has learnt keeps
    its meaning; new names come behind them, and new (code, unit) get scales. `config` is then that of `base`, and its
    pieces are kept, if it has any.

    Exact, and the same for any number of shards and workers. One shard is read at a time per worker; what is kept
    in memory are the distinct names and the distinct (code, unit, value) with their counts.

    Raises: TokenError if `timeline` is not one, or nothing is kept.
    """
    config = config or VocabularyConfig()
    if base:
        same = {name: getattr(base, name) for name in ("bins", "notes", "text_pieces", "min_patients")}
        config = replace(config, **same)
    jobs = [CountJob(timeline, shard, config.text_pieces) for shard in timeline_shards(timeline)]
    counts = Counts.sum(each_result(count_shard, jobs, workers=workers, what="vocabulary"))
    enough = pl.col("patients") >= config.min_patients
    pieces = base.pieces if base else None
    if pieces is None and config.max_pieces and (words := counts.words.filter(enough)).height:
        pieces = Pieces.fit(words, config.max_pieces)
    names = [*counts.names.filter(enough)["name"], *slopes(counts.scales.filter(enough)["code"])]
    codes = _behind(base.codes if base else RESERVED, (*sorted(names), *(pieces.names if pieces else ())))
    units = _behind(
        base.units if base else ("",), counts.units.filter(enough & (pl.col("unit") != ""))["unit"].sort()
    )
    if len(codes) == len(RESERVED):
        raise TokenError(
            f"{timeline}: no code is shared by {config.min_patients} patients of the training split. "
            "Lower min_patients, or check metadata/subject_splits.parquet."
        )
    if len(units) > MOST_UNITS:
        raise TokenError(f"{timeline}: {len(units)} units, at most {MOST_UNITS} fit. Raise min_patients.")
    scales = _fit_scales(counts.scales.filter(enough), counts.values, codes, units, config.bins)
    return Vocabulary(
        codes=codes,
        units=units,
        bins=config.bins,
        notes=config.notes,
        text_pieces=config.text_pieces,
        min_patients=config.min_patients,
        scales=base.scales.grown(scales) if base else scales,
        modalities=_behind(
            base.modalities if base else MODALITIES, counts.modalities.filter(enough)["modality"].sort()
        ),
        implied=_fit_implied(counts, codes, base),
        pieces=pieces,
        spans=_grown_spans(base.spans if base else (), fit_spans(counts.spans, config.min_patients)),
    )


def _behind(known: tuple[str, ...], found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*known, *found)))


def pair_of(code: NDArray[Any], attribute: NDArray[Any]) -> NDArray[np.int64]:
    """One number for ids of codes and of attributes [n]."""
    return np.asarray(code, np.int64) * _MOST_CODES + np.asarray(attribute, np.int64)


def _fit_implied(counts: Counts, codes: tuple[str, ...], base: Vocabulary | None) -> NDArray[np.int64]:
    """Pairs of code and word that no training event contradicts; of codes that `base` has, those of `base`."""
    always = counts.implied.join(counts.events, on="code", suffix="_all")
    always = always.filter(pl.col("events") == pl.col("events_all"))
    ids = pl.DataFrame({"name": codes, "id": np.arange(len(codes))})
    found = always.join(ids, left_on="code", right_on="name").join(ids, left_on="attribute", right_on="name")
    pairs = pair_of(found["id"].to_numpy(), found["id_right"].to_numpy())
    if base:
        pairs = np.concatenate([base.implied, pairs[found["id"].to_numpy() >= len(base.codes)]])
    return np.sort(pairs)


def _grown_spans(known: tuple[SpanScale, ...], found: tuple[SpanScale, ...]) -> tuple[SpanScale, ...]:
    names = {scale.name for scale in known}
    return (*known, *(scale for scale in found if scale.name not in names))


def _fit_scales(
    kept: pl.DataFrame, values: pl.DataFrame, codes: tuple[str, ...], units: tuple[str, ...], bins: int
) -> ValueScales:
    """Scales of the (code, unit) in `kept`; `values` holds the distinct values of all."""
    code_ids = pl.DataFrame({"code": codes, "code_id": np.arange(len(codes), dtype=np.int32)})
    unit_ids = pl.DataFrame({"unit": units, "unit_id": np.arange(len(units), dtype=np.int32)})
    known = (
        values.join(kept, on=["code", "unit"], how="semi").join(code_ids, on="code").join(unit_ids, on="unit")
    )
    known = known.sort("code_id", "unit_id", "value")
    keys = key_of(known["code_id"].to_numpy(), known["unit_id"].to_numpy())
    return ValueScales.fit(keys, known["value"].to_numpy(), known["events"].to_numpy(), bins)
