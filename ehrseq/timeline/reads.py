"""Which elements of a resource a view can look at: dotted paths down to primitives, from the view's text alone.

This is what must become columns before the view can run over resources that are kept as JSON.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.elements import Element, children
from ehrseq.timeline import fhirpath
from ehrseq.timeline.definition import Select, View
from ehrseq.timeline.fhirpath import Binary, Call, Index, Member, Node, This, Unary

_BELOW_WHOLE = 3  # levels that are read of an element that is asked for as a whole
_REPEATED_PLACES = 12  # how many elements a `repeat` is followed through: 12 levels of one path, 3 of two
_QUIET = frozenset({"extension", "modifierExtension", "id", "assigner", "contained"})


def elements_read(views: Iterable[View]) -> dict[str, frozenset[str]]:
    """Paths of the primitives that the views look at, by resource type; `id` is always among them.

    >>> from ehrseq.timeline.definition import view_of
    >>> column = {"name": "day", "path": "effective.ofType(Period).start"}
    >>> sorted(elements_read([view_of({"resource": "Observation", "select": [{"column": [column]}]})])["Observation"])
    ['effectivePeriod.start', 'id']
    """
    found: dict[str, set[str]] = {}
    for view in views:
        reader = _Reader(found.setdefault(view.resource, {"id"}))
        root = [_Place("", view.resource)]
        for path in view.where:
            reader.whole(reader.places(fhirpath.parse(path), root))
        reader.select(view.select, root)
    return {resource: frozenset(paths) for resource, paths in found.items()}


def paths_by_column(view: View) -> dict[str, frozenset[str]]:
    """Paths that each column of a view looks at; under "" those that decide which rows there are."""
    root = [_Place("", view.resource)]
    deciding = _Reader(set())
    for path in view.where:
        deciding.whole(deciding.places(fhirpath.parse(path), root))
    found: dict[str, set[str]] = {"": deciding.read}
    _by_column(view.select, root, found)
    return {name: frozenset(paths) for name, paths in found.items()}


def _by_column(select: Select, at: "list[_Place]", found: dict[str, set[str]]) -> None:
    at = _Reader(found[""]).walked(select, at)
    for column in select.columns:
        reader = _Reader(found.setdefault(column.name, set()))
        reader.whole(reader.places(fhirpath.parse(column.path), at))
    for part in (*select.selects, *select.union):
        _by_column(part, at, found)


@dataclass(frozen=True)
class _Place:
    """An element, or (`stem`) a choice element of which no type has been chosen yet: then the path is its owner's."""

    path: str
    type: str
    stem: str | None = None

    def below(self, child: Element) -> "_Place":
        return _Place(f"{self.path}.{child.name}" if self.path else child.name, child.type)

    def options(self) -> list["_Place"]:
        """The places of a choice element, one for each type; itself if there is nothing to choose."""
        if self.stem is None:
            return [self]
        owner = replace(self, stem=None)
        return [owner.below(child) for child in _children(self.type) if child.choice == self.stem]


@dataclass
class _Reader:
    read: set[str] = field(default_factory=set)

    def select(self, select: Select, at: list[_Place]) -> None:
        """Everything that a select and the selects in it look at."""
        at = self.walked(select, at)
        for column in select.columns:
            self.whole(self.places(fhirpath.parse(column.path), at))
        for part in (*select.selects, *select.union):
            self.select(part, at)

    def walked(self, select: Select, at: list[_Place]) -> list[_Place]:
        if not select.mode:
            return at
        nodes = [fhirpath.parse(path) for path in select.paths]
        found = [place for node in nodes for place in self.places(node, at)]
        level = found if select.mode == "repeat" else []
        while level and len(found) < _REPEATED_PLACES:
            level = [place for node in nodes for place in self.places(node, level)]
            found = found + level
        self.whole(found, shallow=True)
        return found

    def places(self, node: Node, at: list[_Place]) -> list[_Place]:
        """Where an expression leads; what it looks at on the way is noted."""
        match node:
            case This():
                return at
            case Member(base, name):
                owners = self.places(base, at) if base else at
                return [found for owner in owners for found in _member(owner, name, root=base is None)]
            case Index(base, index):
                self.whole(self.places(index, at))
                return self.places(base, at)
            case Unary(operand):
                return self.places(operand, at)
            case Binary(_, left, right):
                self.whole([*self.places(left, at), *self.places(right, at)])
            case Call():
                return self.call(node, self.places(node.base, at) if node.base else at)
        return []

    def call(self, node: Call, base: list[_Place]) -> list[_Place]:
        match node.name:
            case "where" | "exists" if node.arguments:
                self.whole(self.places(node.arguments[0], base))
                if node.name == "where":
                    return base
            case "first" | "last" | "lowBoundary" | "highBoundary":
                return base
            case "ofType":
                wanted = node.arguments[0]
                kind = wanted.name if isinstance(wanted, Member) else ""
                return [option for place in base for option in place.options() if option.type == kind]
            case "extension":
                found = [place for owner in base for place in _member(owner, "extension", root=False)]
                self.whole([place for owner in found for place in _member(owner, "url", root=False)])
                return found
            case "getReferenceKey":
                self.whole([place for owner in base for place in _member(owner, "reference", root=False)])
                return []
            case "getResourceKey":
                return []
        self.whole(base, shallow=node.name in ("exists", "empty"))
        return []

    def whole(self, places: Iterable[_Place], *, shallow: bool = False) -> None:
        """Note elements whose value is used: primitives as such, others with what is below them.

        `shallow`: only whether there is one matters, so its own primitives will do where it has any.
        """
        for place in places:
            for option in place.options():
                self.read.update(_primitives(option, 1 if shallow else _BELOW_WHOLE))


def _member(owner: _Place, name: str, *, root: bool) -> Iterator[_Place]:
    if root and not owner.path and name == owner.type:  # Patient.name
        yield owner
        return
    for place in owner.options():
        known = {child.name: child for child in _children(place.type)}
        if name in known:
            yield place.below(known[name])
        elif any(child.choice == name for child in known.values()):
            yield replace(place, stem=name)


def _primitives(place: _Place, levels: int) -> Iterator[str]:
    below = _children(place.type)
    if not below:
        if place.path:
            yield place.path
        return
    own = [place.below(child) for child in below if child.primitive and child.name not in _QUIET]
    yield from (one.path for one in own)
    if levels > 1 or not own:
        for child in below:
            if not child.primitive and child.name not in _QUIET:
                yield from _primitives(place.below(child), levels - 1) if levels > 0 else ()


def _children(type_name: str) -> list[Element]:
    """Children of a type; none of a primitive, nor of `Resource`, which may be anything."""
    if type_name[:1].islower() or type_name == "Resource":
        return []
    try:
        return list(children(type_name).values())
    except SchemaError:
        return []
