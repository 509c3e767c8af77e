"""Where a code leads when it is too rare to be known: up its ontology, then up its prefix."""

from functools import lru_cache

_SEPARATOR = "//"
_CATEGORY_LETTERS = 3  # of an ICD code: I21 of I21.01, 410 of 410.71


@lru_cache(maxsize=1 << 17)  # the same codes come in every shard
def ladder(code: str) -> tuple[str, ...]:
    """A code, then what it is a case of, from near to far.

    An ICD code leads to its category of three letters. Every code leads to its prefixes at `//`.
    Source: ICD-10-CM Official Guidelines, section I.B.2 (categories are three characters); the same for ICD-9-CM.

    >>> ladder("Condition//ICD-10-CM//I21.01")
    ('Condition//ICD-10-CM//I21.01', 'Condition//ICD-10-CM//I21', 'Condition//ICD-10-CM', 'Condition')
    >>> ladder("MEDS_BIRTH")
    ('MEDS_BIRTH',)
    """
    parts = code.split(_SEPARATOR)
    prefixes = [_SEPARATOR.join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    if any(part.startswith("ICD") for part in parts[1:-1]):
        category = parts[-1][:_CATEGORY_LETTERS].rstrip(".")
        prefixes.insert(0, f"{prefixes[0]}{_SEPARATOR}{category}")
    return tuple(dict.fromkeys((code, *prefixes)))
