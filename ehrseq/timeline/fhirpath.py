"""FHIRPath, the part that SQL on FHIR v2 asks of a view: text in, a small tree out.

Paths, literals, `%constants`, `$this`, indexers, `and or xor not`, comparisons, arithmetic and the functions in
`FUNCTIONS`. Anything else is refused here, so a view that loads is a view that can be compiled.
Source: https://hl7.org/fhirpath/N1/ (grammar, precedence) and https://sql-on-fhir.org/ (the required subset).

>>> parse("name.where(use = 'official').family.first()")
Call(base=Member(base=Call(base=Member(base=None, name='name'), name='where', arguments=(Binary(operator='=', \
left=Member(base=None, name='use'), right=Literal(value='official', type='string')),)), name='family'), \
name='first', arguments=())
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ehrseq.core.errors import TimelineError, closest

FUNCTIONS = {
    "where": (1, 1),
    "exists": (0, 1),
    "empty": (0, 0),
    "first": (0, 0),
    "last": (0, 0),
    "not": (0, 0),
    "ofType": (1, 1),
    "extension": (1, 1),
    "join": (0, 1),
    "getResourceKey": (0, 0),
    "getReferenceKey": (0, 1),
    "lowBoundary": (0, 0),
    "highBoundary": (0, 0),
}
"""Name → fewest and most arguments."""


@dataclass(frozen=True)
class Literal:
    """A constant: `value` as Python has it, `type` the FHIR type it stands for."""

    value: str | int | float | bool
    type: str


@dataclass(frozen=True)
class This:
    """`$this`: the item a `where` or a `forEach` looks at."""


@dataclass(frozen=True)
class Constant:
    """`%name`: a constant of the view, or `%rowIndex`."""

    name: str


@dataclass(frozen=True)
class Member:
    """`base.name`; without a base, `name` of the item at hand."""

    base: "Node | None"
    name: str


@dataclass(frozen=True)
class Call:
    """`base.name(arguments)`."""

    base: "Node | None"
    name: str
    arguments: "tuple[Node, ...]"


@dataclass(frozen=True)
class Index:
    """`base[index]`, from 0."""

    base: "Node"
    index: "Node"


@dataclass(frozen=True)
class Unary:
    """`-operand`."""

    operand: "Node"


@dataclass(frozen=True)
class Binary:
    """`left operator right`."""

    operator: str
    left: "Node"
    right: "Node"


type Node = Literal | This | Constant | Member | Call | Index | Unary | Binary

# loosest first; each row binds tighter than the one above
_PRECEDENCE = (
    ("or", "xor"),
    ("and",),
    ("=", "!="),
    ("<", "<=", ">", ">="),
    ("+", "-", "&"),
    ("*", "/", "div", "mod"),
)
_UNSUPPORTED = {"is", "as", "in", "contains", "implies", "|", "~", "!~"}
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<date>@T?\d[\d\-:.T]*(?:Z|[+\-]\d\d:\d\d)?)
      | (?P<number>\d+(?:\.\d+)?)
      | (?P<string>'(?:[^'\\]|\\.)*')
      | (?P<constant>%(?:[A-Za-z_]\w*|`[^`]+`))
      | (?P<this>\$this)
      | (?P<name>[A-Za-z_]\w*|`[^`]+`)
      | (?P<symbol><=|>=|!=|!~|[().,\[\]=<>+\-*/&|~])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Parse one FHIRPath expression.

    Raises: TimelineError that quotes the expression, the column (from 1) and what was expected there.

    >>> parse("a.frist()")
    Traceback (most recent call last):
    ...
    ehrseq.core.errors.TimelineError: `a.frist()` column 3: unknown function `frist`. Closest: "first".
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the tokens of one expression; one method per level of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [*_tokens(text, self.fault), _Token("end", "", len(text))]
        self.next = 0

    def parse(self) -> Node:
        node = self.binary(0)
        if self.token.kind != "end":
            raise self.fault(self.token.at, f"unexpected `{self.token.text}`", self.token.text)
        return node

    def fault(self, at: int, problem: str, symbol: str = "") -> TimelineError:
        advice = ""
        if symbol in _UNSUPPORTED:
            advice = f" `{symbol}` is not in the FHIRPath subset of SQL on FHIR."
        return TimelineError(f"`{self.text}` column {at + 1}: {problem}.{advice}")

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self, *texts: str) -> str | None:
        """Step over the token if it is one of these symbols or words."""
        token = self.token
        if token.kind in ("symbol", "name") and token.text in texts:
            self.next += 1
            return token.text
        return None

    def expect(self, text: str) -> None:
        if not self.take(text):
            found = f"`{self.token.text}`" if self.token.kind != "end" else "the end"
            raise self.fault(self.token.at, f"expected `{text}`, found {found}")

    def binary(self, level: int) -> Node:
        if level == len(_PRECEDENCE):
            return self.unary()
        node = self.binary(level + 1)
        while operator := self.take(*_PRECEDENCE[level]):
            node = Binary(operator, node, self.binary(level + 1))
        return node

    def unary(self) -> Node:
        if self.take("-"):
            return Unary(self.unary())
        self.take("+")
        return self.path()

    def path(self) -> Node:
        node = self.term()
        while True:
            if self.take("."):
                node = self.step(node)
            elif self.take("["):
                node = Index(node, self.binary(0))
                self.expect("]")
            else:
                return node

    def term(self) -> Node:
        token = self.token
        if token.kind == "name" and token.text not in ("true", "false"):
            return self.step(None)
        self.next += 1
        match token.kind:
            case "string":
                return Literal(_unescape(token.text[1:-1]), "string")
            case "number":
                whole = "." not in token.text
                return Literal(
                    int(token.text) if whole else float(token.text), "integer" if whole else "decimal"
                )
            case "date":
                text = token.text[1:]
                return Literal(
                    text.lstrip("T"), "time" if text[0] == "T" else "dateTime" if "T" in text else "date"
                )
            case "name":
                return Literal(token.text == "true", "boolean")
            case "constant":
                return Constant(token.text[1:].strip("`"))
            case "this":
                return This()
            case "symbol" if token.text == "(":
                node = self.binary(0)
                self.expect(")")
                return node
        found = f"`{token.text}`" if token.kind != "end" else "the end"
        self.next -= 1
        raise self.fault(token.at, f"expected a path or a literal, found {found}", token.text)

    def step(self, base: Node | None) -> Node:
        token = self.token
        if token.kind != "name":
            found = f"`{token.text}`" if token.kind != "end" else "the end"
            raise self.fault(token.at, f"expected an element or a function, found {found}", token.text)
        self.next += 1
        name = token.text.strip("`")
        return self.call(base, name, token.at) if self.take("(") else Member(base, name)

    def call(self, base: Node | None, name: str, at: int) -> Node:
        if name not in FUNCTIONS:
            raise self.fault(at, f"unknown function `{name}`.{closest(name, FUNCTIONS)}".rstrip("."))
        arguments: list[Node] = []
        if not self.take(")"):
            arguments.append(self.binary(0))
            while self.take(","):
                arguments.append(self.binary(0))
            self.expect(")")
        fewest, most = FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self.fault(at, f"`{name}` has {len(arguments)} arguments, expected {wanted}")
        return Call(base, name, tuple(arguments))


def _tokens(text: str, fault: Callable[[int, str], TimelineError]) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise fault(at, "unfinished string" if text[at] == "'" else f"unexpected `{text[at]}`")
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found.group(), at)
        at = found.end()


def _unescape(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found.group(1)
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPES.get(code, code)

    return re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", plain, text)
