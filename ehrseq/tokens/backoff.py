"""Where a code leads when it is too rare to be known: to its further codings, up its ontology, then up its prefix."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import polars as pl

from ehrseq.timeline.meds import CODES
from ehrseq.timeline.schema import Code

_SEPARATOR = "//"
_CATEGORY_LETTERS = 3  # of an ICD code: I21 of I21.01, 410 of 410.71

type Parents = Mapping[str, tuple[str, ...]]


def ladder(code: str, parents: Parents | None = None) -> tuple[str, ...]:
    """A code, then what it is a case of, from near to far.

    First come its further codings (`parents`, as `parents_of` a timeline gives them), which say the same in another
    system. An ICD code leads to its subcategories and its category of three letters; all lead to their prefixes.
    Source: ICD-10-CM Official Guidelines, section I.B.2 (categories are three characters, subcategories four or five);
    the same for ICD-9-CM.

    >>> ladder("C//ICD-10//I21.01")
    ('C//ICD-10//I21.01', 'C//ICD-10//I21.0', 'C//ICD-10//I21', 'C//ICD-10', 'C')
    >>> ladder("Observation//lab//Na", {"Observation//lab//Na": ("Observation//LOINC//2951-2",)})
    ('Observation//lab//Na', 'Observation//LOINC//2951-2', 'Observation//lab', 'Observation')
    >>> ladder("MEDS_BIRTH")
    ('MEDS_BIRTH',)
    """
    others = parents.get(code, ()) if parents else ()
    return tuple(dict.fromkeys((code, *others, *_above(code)))) if others else (code, *_above(code))


@lru_cache(maxsize=1 << 17)  # the same codes come in every shard
def _above(code: str) -> tuple[str, ...]:
    parts = code.split(_SEPARATOR)
    prefixes = [_SEPARATOR.join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    if any(part.startswith("ICD") for part in parts[1:-1]):
        own = parts[-1]
        shorter = (own[:length].rstrip(".") for length in range(len(own) - 1, _CATEGORY_LETTERS - 1, -1))
        categories = [f"{prefixes[0]}{_SEPARATOR}{name}" for name in shorter if name != own]
        prefixes = [*categories, *prefixes]
    return tuple(name for name in dict.fromkeys(prefixes) if name != code)


def parents_of(timeline: Path) -> Parents:
    """The further codings of the codes of a timeline that have any; none where `metadata/codes.parquet` is missing."""
    file = timeline / CODES
    return _parents(file, file.stat().st_mtime_ns) if file.is_file() else {}


@lru_cache(maxsize=2)
def _parents(file: Path, _: int) -> Parents:
    found = pl.read_parquet(file, columns=[Code.code, Code.parent_codes]).drop_nulls()
    return {code: tuple(sorted(others)) for code, others in found.iter_rows() if others}
