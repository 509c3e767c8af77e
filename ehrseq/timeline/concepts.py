"""Coded concepts → event codes: `prefix//<label of the system>//<code>`, or `prefix//text//<text>`.

A view gives a concept as columns that share a stem: STEM_system, STEM_code, STEM_display, STEM_text, and for all of
its codings the lists STEM_systems and STEM_codes. Those that a view lacks count as null.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ehrseq.timeline.knowable import Kind
from ehrseq.timeline.schema import Event
from ehrseq.timeline.systems import NO_SYSTEM, label_of

_LONGEST_TEXT = 80  # letters of a free-text concept; the rest rarely tells two concepts apart
PARENTS = pl.Schema({"code": pl.String(), "parent": pl.String()})


@dataclass(frozen=True)
class Concepts:
    """Labels of code systems, and the URIs that have been met (filled while events are made)."""

    systems: Mapping[str, str]
    met: set[str]

    def label(self, uris: pl.Series) -> pl.Series:
        """Labels of a column of system URIs; one look-up for each distinct URI."""
        known = uris.drop_nulls().unique().to_list()
        self.met.update(known)
        labels = [label_of(uri, self.systems) for uri in known]
        return uris.replace_strict(known, labels, default=NO_SYSTEM, return_dtype=pl.String)


def with_codes(frame: pl.DataFrame, kind: Kind, concepts: Concepts) -> pl.DataFrame:
    """Add `code` (null: nothing to name the fact by) and `_description`."""
    if kind.code is not None:
        return frame.with_columns(code=pl.lit(kind.code), _description=pl.lit(None, dtype=pl.String))
    if kind.parts:
        return frame.with_columns(code=_of_parts(kind), _description=pl.lit(None, dtype=pl.String))
    if kind.all_codings:
        frame = _one_row_a_coding(frame, kind)
    labels = [
        concepts.label(frame[f"{stem}_system"]).alias(_label(stem))
        for stem in kind.concept
        if f"{stem}_system" in frame.columns
    ]
    frame = frame.with_columns(labels)
    names, described = [], []
    for stem in kind.concept:
        coded, text = _parts(frame, stem)
        name = pl.concat_str(pl.lit(kind.prefix), coded, separator="//")
        names += [name, pl.concat_str(pl.lit(kind.prefix), pl.lit("text"), text, separator="//")]
        there = coded.is_not_null() | text.is_not_null()
        described.append(
            pl.when(there).then(pl.coalesce(_column(frame, f"{stem}_display"), text, pl.lit("")))
        )
    code = pl.coalesce([*names, *([pl.lit(kind.prefix)] if kind.bare else [])])
    answer = pl.coalesce([part for stem in kind.answer for part in _answer(frame, stem)] or [pl.lit(None)])
    suffix = pl.concat_str(pl.lit("//"), answer).fill_null("") if kind.answer else pl.lit("")
    description = pl.coalesce(described) if described else pl.lit(None, dtype=pl.String)
    made = frame.lazy().with_columns(
        (code + suffix if kind.answer else code).alias(Event.code),
        pl.when(description != "").then(description).alias("_description"),
    )
    return made.drop(label.name for label in labels).collect()


def _of_parts(kind: Kind) -> pl.Expr:
    """`prefix//part//part`; null if the first part is empty."""
    first, *rest = [pl.coalesce(part) for part in kind.parts]
    named = pl.concat_str(pl.lit(kind.prefix), first, *rest, separator="//", ignore_nulls=True)
    return pl.when(first.is_not_null()).then(named)


def parents(events: pl.DataFrame, kind: Kind, concepts: Concepts) -> pl.DataFrame:
    """Distinct (code, parent): the further codings of the concepts that gave these codes.

    `events`: rows with `code` and the concept's list columns.
    """
    found = [pl.DataFrame(schema=PARENTS)]
    for stem in kind.concept:
        codes, systems = f"{stem}_codes", f"{stem}_systems"
        if codes not in events.columns:
            continue
        several = events.lazy().filter(pl.col(codes).list.len() > 1).select(Event.code, codes, systems)
        pairs = several.explode(codes, systems).unique().collect()
        named = pairs.with_columns(parent=_joined(kind.prefix, concepts.label(pairs[systems]), pairs[codes]))
        # an answer makes the code longer than its question: the question is no further coding
        own = (pl.col("code") == pl.col("parent")) | pl.col("code").str.starts_with(pl.col("parent") + "//")
        found.append(named.filter(~own).select("code", "parent"))
    return pl.concat(found).unique()


def _joined(prefix: str, labels: pl.Series, codes: pl.Series) -> pl.Series:
    return pl.select(pl.concat_str(pl.lit(prefix), labels, codes, separator="//")).to_series()


def _label(stem: str) -> str:
    return f"_label.{stem}"


def _column(frame: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in frame.columns else pl.lit(None, dtype=pl.String)


def _parts(frame: pl.DataFrame, stem: str) -> tuple[pl.Expr, pl.Expr]:
    """`<label>//<code>` and the free text of a concept."""
    label = pl.col(_label(stem)) if f"{stem}_system" in frame.columns else pl.lit(NO_SYSTEM)
    return pl.concat_str(label, _column(frame, f"{stem}_code"), separator="//"), _text(frame, stem)


def _answer(frame: pl.DataFrame, stem: str) -> list[pl.Expr]:
    return [_column(frame, f"{stem}_code"), _text(frame, stem)]


def _text(frame: pl.DataFrame, stem: str) -> pl.Expr:
    """Free text with single spaces, cut to a length; null if empty or absent."""
    if f"{stem}_text" not in frame.columns or frame[f"{stem}_text"].null_count() == frame.height:
        return pl.lit(None, dtype=pl.String)
    text = (
        pl.col(f"{stem}_text").str.replace_all(r"\s+", " ").str.strip_chars(" ").str.slice(0, _LONGEST_TEXT)
    )
    return pl.when(text != "").then(text)


def _one_row_a_coding(frame: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Repeat each row for every coding of its concept; rows of one coding, or none, stay as they are."""
    for stem in kind.concept:
        codes, systems = f"{stem}_codes", f"{stem}_systems"
        if codes not in frame.columns:
            continue
        each = frame.explode(codes, systems, empty_as_null=True, keep_nulls=True)
        frame = each.with_columns(
            pl.coalesce(codes, f"{stem}_code").alias(f"{stem}_code"),
            pl.coalesce(systems, f"{stem}_system").alias(f"{stem}_system"),
        ).drop(codes, systems)
    return frame
