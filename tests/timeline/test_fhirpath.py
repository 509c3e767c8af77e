"""The FHIRPath parser: trees that read as they should, and errors that say where."""

import pytest

from ehrseq.core.errors import TimelineError
from ehrseq.timeline.fhirpath import Binary, Call, Constant, Index, Literal, Member, Node, This, Unary, parse


def shown(node: Node | None) -> str:
    """A tree with all its brackets, so that precedence can be read."""
    match node:
        case None:
            return ""
        case Literal(value, _):
            return repr(value)
        case This():
            return "$this"
        case Constant(name):
            return f"%{name}"
        case Member(base, name):
            return f"{shown(base)}.{name}"
        case Call(base, name, arguments):
            return f"{shown(base)}.{name}({', '.join(map(shown, arguments))})"
        case Index(base, index):
            return f"{shown(base)}[{shown(index)}]"
        case Unary(operand):
            return f"-{shown(operand)}"
        case Binary(operator, left, right):
            return f"({shown(left)} {operator} {shown(right)})"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("name.family", ".name.family"),
        ("name[0].given.first()", ".name[0].given.first()"),
        ("a and b or c", "((.a and .b) or .c)"),
        ("a or b and c", "(.a or (.b and .c))"),
        ("a = 1 and b < 2.5", "((.a = 1) and (.b < 2.5))"),
        ("1 + 2 * 3 - 4", "((1 + (2 * 3)) - 4)"),
        ("(1 + 2) * 3", "((1 + 2) * 3)"),
        ("a div 2 mod 3", "((.a div 2) mod 3)"),
        ("-a.b + 1", "(-.a.b + 1)"),
        ("a & 'x' = 'yx'", "((.a & 'x') = 'yx')"),
        (
            "name.where(use = 'official' and given.exists()).family",
            ".name.where(((.use = 'official') and .given.exists())).family",
        ),
        ("value.ofType(Quantity).value", ".value.ofType(.Quantity).value"),
        ("$this.where(%limit != 3)", "$this.where((%limit != 3))"),
        ("extension(%`us-core`)", ".extension(%us-core)"),
        ("`div`.`mod`", ".div.mod"),
        (r"'it\'s \u00e4\n'", r'"it\'s ä\n"'.replace("\\'", "'")),
        ("true and false", "(True and False)"),
        ("@2020-01-01T10:00:00Z > @2020", "('2020-01-01T10:00:00Z' > '2020')"),
        ("a // comment\n.b /* and another */", ".a.b"),
        ("getReferenceKey(Patient)", ".getReferenceKey(.Patient)"),
    ],
)
def test_tree(text: str, tree: str) -> None:
    assert shown(parse(text)) == tree


def test_types_of_literals() -> None:
    types = [
        parse(text).type for text in ("1", "1.0", "'a'", "true", "@2020", "@2020-01-01T00:00:00Z", "@T10:00")
    ]
    assert types == ["integer", "decimal", "string", "boolean", "date", "dateTime", "time"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name.", "`name.` column 6: expected an element or a function, found the end."),
        ("name.where(", "column 12: expected a path or a literal, found the end."),
        ("name.where(a", "column 13: expected `)`, found the end."),
        ("a = 'x", "column 5: unfinished string."),
        ("a.frist()", 'column 3: unknown function `frist`. Closest: "first".'),
        ("a.where()", "column 3: `where` has 0 arguments, expected 1."),
        ("a.exists(b, c)", "column 3: `exists` has 2 arguments, expected 0 to 1."),
        ("a is Patient", "column 3: unexpected `is`. `is` is not in the FHIRPath subset of SQL on FHIR."),
        ("a | b", "column 3: unexpected `|`. `|` is not in the FHIRPath subset"),
        ("a #", "column 3: unexpected `#`."),
        ("", "column 1: expected a path or a literal, found the end."),
        ("a b", "column 3: unexpected `b`."),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(TimelineError) as found:
        parse(text)
    assert message in str(found.value)
