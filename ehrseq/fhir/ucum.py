"""UCUM: what a unit measures, and the exact way from it to base units.

The grammar and the table of units are those of the `ucumvert` package; the arithmetic is done here in fractions, so
a factor is exact. Units are parsed once each; values are converted by a join on the unit. Three kinds of unit stay
base units of their own, so that nothing incomparable is ever mixed: the mole (for UCUM the number 6.02214076·10²³) and
the arbitrary ones, such as [iU] and [arb'U]. A unit on a scale that is not linear ([pH], dB) has no canonical one.
Annotations ({score}, mg/g{creat}) mean nothing, as UCUM has it.
Source: https://ucum.org/ucum, sections 2 and 4.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

import polars as pl

SYSTEM = "http://unitsofmeasure.org"
CANONICAL = pl.Struct(
    {
        "code": pl.String,
        "unit": pl.String,
        "numerator": pl.Float64,
        "denominator": pl.Float64,
        "offset": pl.Float64,
    }
)
"""A unit looked up: its UCUM code, the canonical unit, and value · numerator / denominator + offset in that unit."""

_BASE_BY_CHOICE = "mol"
_SPECIAL = {  # code: kelvin = value · factor + offset
    "Cel": (Fraction(1), Fraction("273.15")),
    "[degF]": (Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
    "[degRe]": (Fraction(5, 4), Fraction("273.15")),
}


@dataclass(frozen=True, slots=True)
class Canonical:
    """A value in `unit` (UCUM base units) is value · `factor` + `offset`."""

    unit: str
    factor: Fraction
    offset: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class _Product:
    """A number times powers of base units."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...] = ()

    def times(self, other: "_Product", sign: int = 1) -> "_Product":
        powers = dict(self.powers)
        for base, power in other.powers:
            powers[base] = powers.get(base, 0) + sign * power
        kept = tuple(sorted((base, power) for base, power in powers.items() if power))
        return _Product(self.factor * other.factor**sign, kept)

    def to_the(self, power: int) -> "_Product":
        return _Product(self.factor**power, tuple((base, p * power) for base, p in self.powers))


class _NotLinearError(Exception):
    """A unit that no factor leads to base units from."""


def is_ucum(code: str) -> bool:
    """Whether the text is a valid, case-sensitive UCUM unit.

    >>> is_ucum("mg/dL"), is_ucum("[pH]"), is_ucum("mEq/L"), is_ucum("")
    (True, True, False, False)
    """
    return _parsed(code) is not None


@lru_cache(maxsize=65_536)
def canonical(code: str) -> Canonical | None:
    """The canonical unit of a UCUM unit and the exact way to it; None if the text is no UCUM, or not linear.

    >>> canonical("mg/dL"), canonical("mmol/L")
    (Canonical(unit='g.m-3', factor=Fraction(10, 1), offset=Fraction(0, 1)), \
Canonical(unit='mol.m-3', factor=Fraction(1, 1), offset=Fraction(0, 1)))
    >>> canonical("[degF]").factor, canonical("[iU]/L").unit, canonical("%").unit, canonical("[pH]")
    (Fraction(5, 9), '[iU].m-3', '1', None)
    """
    if code in _SPECIAL:
        return Canonical("K", *_SPECIAL[code])
    if (tree := _parsed(code)) is None:
        return None
    try:
        product = _evaluated(tree)
    except _NotLinearError:
        return None
    return Canonical(_written(product), product.factor)


def look_up(units: pl.Series, spellings: dict[str, str] | None = None) -> pl.Series:
    """`CANONICAL` of each unit text (String; null stays null): null where it is no UCUM.

    `spellings` gives the UCUM code of local texts; any other text has to be UCUM itself.

    >>> look_up(pl.Series(["mmHg", "cups"]), {"mmHg": "mm[Hg]"}).struct.field("code").to_list()
    ['mm[Hg]', None]
    """
    local = units.rename("local").to_frame()
    rows = [
        _row(text, (spellings or {}).get(text.strip(), text.strip())) for text in units.unique().drop_nulls()
    ]
    schema = {"local": pl.String(), "found": CANONICAL}
    found = pl.DataFrame([row for row in rows if row], schema=schema, orient="row")
    return local.join(found, on="local", how="left", maintain_order="left")["found"]


def converted(value: pl.Expr, unit: pl.Expr) -> pl.Expr:
    """Values in their canonical units, to 15 digits. `unit`: what `look_up` gave; null where it has no canonical."""
    part = unit.struct.field
    return (value * part("numerator") / part("denominator") + part("offset")).round_sig_figs(15)


def _row(local: str, code: str) -> tuple[str, dict[str, Any]] | None:
    if not is_ucum(code):
        return None
    found = canonical(code)
    if found is None:
        return local, {"code": code, "unit": None, "numerator": None, "denominator": None, "offset": None}
    return local, {
        "code": code, "unit": found.unit, "numerator": float(found.factor.numerator),
        "denominator": float(found.factor.denominator), "offset": float(found.offset),
    }  # fmt: skip


def _written(product: _Product) -> str:
    ordered = sorted(product.powers, key=lambda item: (item[1] < 0, item[0]))
    return ".".join(base if power == 1 else f"{base}{power}" for base, power in ordered) or "1"


@cache
def _parser() -> Any:
    from ucumvert.parser import get_ucum_parser  # half a second, so only for those who convert

    return get_ucum_parser()


@lru_cache(maxsize=65_536)
def _parsed(code: str) -> Any:
    """Syntax tree of a unit; None if it is no UCUM."""
    if not code or len(code) > 100 or not code.isascii():
        return None
    from lark.exceptions import LarkError

    try:
        return _parser().parse(code)
    except LarkError:
        return None


def _evaluated(node: Any) -> _Product:
    """Value of a syntax tree of ucumvert's grammar. Raises: _NotLinearError."""
    if not hasattr(node, "children"):
        return _Product(Fraction(1))  # an annotation
    parts = node.children
    match node.data:
        case "main_term" if len(parts) == 2:
            return _Product(Fraction(1)).times(_evaluated(parts[1]), -1)
        case "main_term" | "component":
            return _evaluated(parts[0])
        case "term":
            return _evaluated(parts[0]).times(_evaluated(parts[2]), -1 if parts[1] == "/" else 1)
        case "annotatable":
            return _evaluated(parts[0]).to_the(int(parts[1]))
        case _:
            atom = str(parts[-1])
            unit = _Product(Fraction(atom)) if parts[-1].type == "FACTOR" else _atom(atom)
            return unit.times(_Product(_prefixes()[str(parts[0])])) if len(parts) == 2 else unit


@cache
def _atom(code: str) -> _Product:
    """One unit without prefix in base units. Raises: _NotLinearError."""
    definition = _definitions().get(code)
    if (
        definition is None
        or code == _BASE_BY_CHOICE
        or (definition.is_arbitrary and definition.defining_unit == "1")
    ):
        return _Product(Fraction(1), ((code, 1),))
    if definition.is_special:
        raise _NotLinearError(code)
    return _evaluated(_parsed(definition.defining_unit)).times(
        _Product(Fraction(str(definition.conversion_factor)))
    )


@cache
def _definitions() -> dict[str, Any]:
    from ucumvert.xml_util import get_units_with_full_definition

    return {unit.code_cs: unit for unit in get_units_with_full_definition()}


@cache
def _prefixes() -> dict[str, Fraction]:
    from ucumvert.xml_util import root

    return {
        prefix.attrib["Code"]: Fraction(value.attrib["value"])
        for prefix in root.findall(".//{*}prefix[@Code]")
        for value in prefix.findall("{*}value")
    }
