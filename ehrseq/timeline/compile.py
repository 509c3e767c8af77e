"""FHIRPath trees → polars expressions over a frame of FHIR resources. Columns in, columns out; no row is seen.

Empty is null. `and`, `or` and `not()` know three values. Comparing dates compares the instants where they begin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from ehrseq.core.errors import TimelineError, closest
from ehrseq.timeline import boundaries, dates, fhirpath
from ehrseq.timeline.fhirpath import Binary, Call, Constant, Index, Literal, Member, Node, This, Unary
from ehrseq.timeline.values import (
    DATES,
    Value,
    exists,
    first,
    mapped,
    member,
    nothing,
    of_type,
    settled,
    single,
)

_BOOLEAN, _TEXT = pl.Boolean(), pl.String()
_LITERAL_TYPES: dict[type, pl.DataType] = {bool: _BOOLEAN, int: pl.Int64(), float: pl.Float64(), str: _TEXT}
_REFERENCE = r"(?:^|/)([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]+)(?:/_history/[A-Za-z0-9\-.]+)?$"
_URN = r"^urn:(?:uuid|oid):(.+)$"


@dataclass(frozen=True)
class Scope:
    """What names mean at one place of a view: the item at hand, the resource, and the constants."""

    this: Value
    constants: Mapping[str, Value]
    row_index: pl.Expr

    def at(self, this: Value) -> "Scope":
        """The same place, looking at another item."""
        return replace(self, this=this)


def literal(value: str | int | float | bool, type_name: str) -> Value:
    """A constant of a FHIR type."""
    dtype = _LITERAL_TYPES[type(value)]
    return Value(pl.lit(value, dtype=dtype), dtype, type=type_name)


def compiled(text: str, scope: Scope) -> Value:
    """Compile one FHIRPath expression. Raises: TimelineError that quotes it and says what is wrong.

    >>> from ehrseq.timeline.values import resource
    >>> frame = pl.DataFrame({"id": ["a"], "name": [[{"family": "F", "given": ["G", "H"]}]]})
    >>> scope = Scope(resource(frame.schema, "Patient"), {}, pl.lit(0))
    >>> frame.select(compiled("name.given.join('-')", scope).expr).item()
    'G-H'
    """
    node = fhirpath.parse(text)
    try:
        return evaluate(node, scope)
    except TimelineError as error:
        raise TimelineError(f"`{text}`: {error}") from error


def condition(value: Value) -> pl.Expr:
    """A Boolean expression for filtering; empty is false. Raises: TimelineError if it is not boolean."""
    value = single(value)
    if value.empty:
        return pl.lit(False)
    if value.dtype != pl.Boolean:
        raise TimelineError(f"a condition must be true or false, this is {value.type or value.dtype}")
    return value.expr


def evaluate(node: Node, scope: Scope) -> Value:
    """Compile a tree in a scope."""
    match node:
        case Literal(value, type_name):
            return literal(value, type_name)
        case This():
            return scope.this
        case Constant(name):
            return _constant(name, scope)
        case Member(None, name):
            # a path may begin with the type it starts from: Patient.name
            return scope.this if name == scope.this.type else member(scope.this, name)
        case Member(base, name) if base:
            return member(evaluate(base, scope), name)
        case Index(base, index):
            return _index(settled(evaluate(base, scope)), evaluate(index, scope))
        case Unary(operand):
            number = single(evaluate(operand, scope))
            return number if number.empty else replace(number, expr=-number.expr)
        case Binary(operator, left, right):
            return _binary(operator, evaluate(left, scope), evaluate(right, scope))
        case Call():
            return _call(node, scope)
    raise TimelineError(f"{type(node).__name__} cannot be compiled")


def _constant(name: str, scope: Scope) -> Value:
    if name == "rowIndex":
        return Value(scope.row_index, pl.Int64(), type="integer")
    if name not in scope.constants:
        raise TimelineError(f"the view has no constant `{name}`.{closest(name, scope.constants)}")
    return scope.constants[name]


def _index(base: Value, index: Value) -> Value:
    if index.dtype != pl.Int64:
        raise TimelineError("an index must be a whole number")
    if base.empty:
        return base
    if base.many:
        return Value(base.expr.list.get(index.expr, null_on_oob=True), base.dtype, type=base.type)
    return Value(pl.when(index.expr == 0).then(base.expr), base.dtype, type=base.type)


def _call(node: Call, scope: Scope) -> Value:
    base = evaluate(node.base, scope) if node.base else scope.this
    match node.name:
        case "where":
            return _where(base, node.arguments[0], scope)
        case "exists":
            kept = _where(base, node.arguments[0], scope) if node.arguments else base
            return Value(exists(kept), _BOOLEAN, type="boolean")
        case "empty":
            return Value(~exists(base), _BOOLEAN, type="boolean")
        case "first" | "last":
            return first(base, 0 if node.name == "first" else -1)
        case "not":
            value = single(base)
            return value if value.empty else Value(~condition(value), _BOOLEAN, type="boolean")
        case "ofType":
            return of_type(base, _type_argument(node))
        case "extension":
            url = Binary("=", Member(None, "url"), node.arguments[0])
            return _where(member(base, "extension"), url, scope)
        case "join":
            return _join(settled(base), evaluate(node.arguments[0], scope) if node.arguments else None)
        case "getResourceKey":
            if not base.root:
                raise TimelineError("getResourceKey() can only be asked of the resource itself")
            return member(base, "id")
        case "getReferenceKey":
            return _reference_key(settled(base), _type_argument(node) if node.arguments else None)
        case "lowBoundary" | "highBoundary":
            value = single(base)
            return value if value.empty else boundaries.boundary(value, high=node.name == "highBoundary")
    raise TimelineError(f"function `{node.name}` cannot be compiled")


def _type_argument(node: Call) -> str:
    match node.arguments[0]:
        case Member(None | Member(None, "FHIR" | "System"), name):
            return name
    raise TimelineError(f"{node.name}(...) expects the name of a type")


def _where(base: Value, criterion: Node, scope: Scope) -> Value:
    base = settled(base)
    if base.empty:
        return base
    if base.many:
        item = Value(pl.element(), base.dtype, type=base.type)
        kept = condition(evaluate(criterion, scope.at(item)))
        return replace(base, expr=base.expr.list.eval(pl.element().filter(kept)))
    kept = condition(evaluate(criterion, scope.at(base)))
    return replace(base, expr=pl.when(kept).then(base.expr), root=False)


def _join(base: Value, separator: Value | None) -> Value:
    if base.empty:
        return literal("", "string")
    text = mapped(base, lambda item: item.cast(pl.String), _TEXT, "string")
    joined = text.expr.list.join(separator.expr if separator else "") if text.many else text.expr
    return Value(joined.fill_null(""), _TEXT, type="string")


def _reference_key(base: Value, type_name: str | None) -> Value:
    text = base if base.dtype == pl.String else member(base, "reference")
    if text.empty:
        return nothing("string")

    def key(reference: pl.Expr) -> pl.Expr:
        groups = reference.str.extract_groups(_REFERENCE)
        found = groups.struct.field("2")
        if type_name:
            found = pl.when(groups.struct.field("1") == type_name).then(found)
        return pl.coalesce(found, reference.str.extract(_URN))

    return mapped(text, key, _TEXT, "string")


def _binary(operator: str, left: Value, right: Value) -> Value:
    if operator in ("and", "or", "xor"):
        return _logical(operator, left, right)
    left, right = settled(left), settled(right)
    if operator in ("=", "!="):
        return _equality(operator, left, right)
    left, right = single(left), single(right)
    if operator == "&":
        texts = [
            literal("", "string").expr if side.empty else side.expr.fill_null("") for side in (left, right)
        ]
        return Value(texts[0] + texts[1], _TEXT, type="string")
    comparison = operator in ("<", "<=", ">", ">=")
    if left.empty or right.empty:
        return nothing("boolean" if comparison else left.type or right.type)
    _comparable(operator, left, right)
    return _order(operator, left, right) if comparison else _arithmetic(operator, left, right)


def _logical(operator: str, left: Value, right: Value) -> Value:
    sides = [
        pl.lit(None, dtype=pl.Boolean) if side.empty else condition(side)
        for side in map(single, (left, right))
    ]
    match operator:
        case "and":
            expr = sides[0] & sides[1]
        case "or":
            expr = sides[0] | sides[1]
        case _:
            expr = sides[0] ^ sides[1]
    return Value(expr, _BOOLEAN, type="boolean")


def _equality(operator: str, left: Value, right: Value) -> Value:
    if left.empty or right.empty:
        return nothing("boolean")
    _comparable(operator, left, right)
    if left.many or right.many:
        same = _equal_lists(left, right)
    elif {left.type, right.type} <= DATES and left.type:
        known = dates.has_clock(left.expr) & dates.has_clock(right.expr)
        same = (left.expr == right.expr) | (known & (dates.earliest(left.expr) == dates.earliest(right.expr)))
    else:
        same = left.expr == right.expr
    return Value(same if operator == "=" else ~same, _BOOLEAN, type="boolean")


def _equal_lists(left: Value, right: Value) -> pl.Expr:
    """Equality of collections: empty if one side is, else the same items in the same order."""
    sides = [side.expr if side.many else pl.concat_list(side.expr) for side in (left, right)]
    return pl.when(exists(left) & exists(right)).then(sides[0] == sides[1])


def _comparable(operator: str, left: Value, right: Value) -> None:
    kinds = ["number" if side.dtype.is_numeric() else str(side.dtype) for side in (left, right)]
    if kinds[0] != kinds[1]:
        raise TimelineError(f"`{operator}` between {left.type or left.dtype} and {right.type or right.dtype}")


def _order(operator: str, left: Value, right: Value) -> Value:
    low, high = left.expr, right.expr
    if {left.type, right.type} <= DATES:
        low, high = dates.earliest(low), dates.earliest(high)
    match operator:
        case "<":
            expr = low < high
        case "<=":
            expr = low <= high
        case ">":
            expr = low > high
        case _:
            expr = low >= high
    return Value(expr, _BOOLEAN, type="boolean")


def _arithmetic(operator: str, left: Value, right: Value) -> Value:
    a, b = left.expr, right.expr
    if left.dtype == pl.String:
        if operator != "+":
            raise TimelineError(f"`{operator}` between texts")
        return Value(a + b, _TEXT, type="string")
    if not left.dtype.is_numeric():
        raise TimelineError(f"`{operator}` between values of type {left.type or left.dtype}")
    whole = left.dtype.is_integer() and right.dtype.is_integer()
    dtype: pl.DataType = pl.Int64() if whole else pl.Float64()
    match operator:
        case "+":
            expr = a + b
        case "-":
            expr = a - b
        case "*":
            expr = a * b
        case "/":
            expr, dtype = pl.when(b != 0).then(a / b), pl.Float64()
        case "div":
            expr, dtype = pl.when(b != 0).then((a / b).cast(pl.Int64)), pl.Int64()
        case _:
            expr = pl.when(b != 0).then(a - b * (a / b).cast(pl.Int64))
    return Value(expr, dtype, type="integer" if dtype.is_integer() else "decimal")
