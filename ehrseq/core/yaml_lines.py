"""YAML that remembers its lines, so that an error can say `file.yaml:14`.

Only plain data: mappings, sequences, strings, numbers, booleans and null. Tags, anchors and duplicate keys
are refused, so a file can neither run code nor expand without bound.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ehrseq.core.errors import ConfigError, EhrseqError, closest

type Where = tuple[Hashable, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml: ten times faster, the same nodes
_SCALARS = yaml.SafeLoader("")


@dataclass(frozen=True)
class Document:
    """A parsed file: `value` is plain data; `lines` maps the path of a node to its line, counted from 1.

    `files` names the file of nodes that come from another one (see `merged`).
    """

    path: Path
    value: Any
    lines: dict[Where, int]
    files: dict[Where, Path] = field(default_factory=dict)

    def at(self, where: Where) -> str:
        """`file:line` of a node, or of the nearest node above it that has a line."""
        while where and where not in self.lines:
            where = where[:-1]
        return f"{self.files.get(where, self.path)}:{self.lines.get(where, 1)}"


def merged(base: Document, over: Document) -> Document:
    """`over` laid over `base`: mappings are joined key by key, null takes a key away, all else replaces.

    >>> base = parse_yaml("{a: {b: 1, c: 2}, d: [1]}", Path("base.yaml"))
    >>> both = merged(base, parse_yaml("a: {c: 3, b: null}", Path("over.yaml")))
    >>> both.value, both.at(("a", "c")), both.at(("d",))
    ({'a': {'c': 3}, 'd': [1]}, 'over.yaml:1', 'base.yaml:1')
    """
    lines: dict[Where, int] = {}
    files: dict[Where, Path] = {}

    def take(document: Document, where: Where) -> None:
        for place, line in document.lines.items():
            if place[: len(where)] == where:
                lines[place] = line
                files[place] = document.files.get(place, document.path)

    def join(left: Any, right: Any, where: Where) -> Any:
        if not isinstance(left, dict) or not isinstance(right, dict):
            for place in [place for place in lines if place[: len(where)] == where]:
                del lines[place]
            take(over, where)
            return right
        lines[where], files[where] = over.lines.get(where, 1), over.path
        result = dict(left)
        for key, value in right.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = join(result.get(key), value, (*where, key))
        return result

    take(base, ())
    value = join(base.value, over.value, ())
    return Document(over.path, value, lines, files)


def load_yaml(path: Path, error: type[EhrseqError] = ConfigError) -> Document:
    """Read a YAML file. Raises: `error` with file and line when it cannot be read as plain data."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise error(
            f"{path}: cannot be read ({type(fault).__name__}). Expected a UTF-8 YAML file."
        ) from fault
    return parse_yaml(text, path, error)


def parse_yaml(text: str, path: Path, error: type[EhrseqError] = ConfigError) -> Document:
    r"""Parse YAML text; `path` only names it in messages.

    >>> document = parse_yaml("a: 1\nb: [x, y]", Path("m.yaml"))
    >>> document.value, document.at(("b", 1))
    ({'a': 1, 'b': ['x', 'y']}, 'm.yaml:2')
    """
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise error(f"{path}:{line}  uses a YAML alias (*name). Write the value out instead.")
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[Where, int] = {}
        value = _plain(node, (), lines, path, error) if node is not None else None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(fault, "problem", None) or "not valid YAML"
        raise error(f"{path}:{line}  is not valid YAML: {problem}.") from fault
    return Document(path, value, lines)


def _plain(node: Any, where: Where, lines: dict[Where, int], path: Path, error: type[EhrseqError]) -> Any:
    lines[where] = node.start_mark.line + 1
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise error(
            f"{path}:{lines[where]}  is not valid YAML here: tags such as {node.tag} are not allowed."
        )
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*where, index), lines, path, error) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, child in node.value:
            key = _SCALARS.construct_object(key_node)
            if not isinstance(key, str | int) or isinstance(key, bool):
                key = str(key_node.value)  # `on:` and `null:` are words here, not booleans
            if key in result:
                raise error(
                    f"{path}:{key_node.start_mark.line + 1}  has `{key}` twice in one place. Keep one."
                )
            result[key] = _plain(child, (*where, key), lines, path, error)
            lines[(*where, key)] = key_node.start_mark.line + 1
        return result
    return _SCALARS.construct_object(node, deep=True)


def check_keys(
    document: Document, where: Where, found: Any, allowed: set[str], error: type[EhrseqError]
) -> None:
    """Raise `error` if `found` is not a mapping or has a key outside `allowed`, naming the closest one."""
    if not isinstance(found, dict):
        raise error(f"{document.at(where)}  expected a mapping with keys {', '.join(sorted(allowed))}.")
    for key in found:
        if key not in allowed:
            raise error(
                f"{document.at((*where, key))}  unknown key `{key}`.{closest(str(key), allowed)} "
                f"Expected one of {', '.join(sorted(allowed))}."
            )
