"""The table of event kinds as Markdown, for people: `views/README.md`. Written by

    python -m ehrseq.timeline.rendered > ehrseq/timeline/views/README.md

and a test says when it is stale.
"""

import sys
from collections.abc import Iterator

from ehrseq.timeline.definition import Select, View
from ehrseq.timeline.knowable import Kind, Knowledge, Source, load_knowledge

HEAD = """# When each event is knowable

Made of [`knowable.yaml`](../knowable.yaml) and the views beside this file; change those, then run
`python -m ehrseq.timeline.rendered > ehrseq/timeline/views/README.md`.

Sources of time are in order of trust: the first that a record has counts. **stated**: the record says when it could
be seen. **derived**: it follows from a stated time of another fact. **assumed**: nothing better is known, so when it
happened stands for when it was known. A date without a time of day counts as known at the end of that day, month or
year, in the time zone of the source. `ehrseq timeline` counts the events that stand on each source, and the manifest
has all of them (`notes.knowable`).

A mapping declares other rules for what it makes under `knowable:`, by the names of events and columns given here:

    knowable: {death: [{from: deceased, after: 30d, guarantee: assumed}]}  # a register tells us a month later

| event | time (column: element) | guarantee |
|---|---|---|
"""


def rendered(knowledge: Knowledge) -> str:
    """The whole page.

    >>> print(rendered(load_knowledge()).splitlines()[0])
    # When each event is knowable
    """
    return HEAD + "".join(row for kind in knowledge.kinds for row in _rows(kind, knowledge))


def _rows(kind: Kind, knowledge: Knowledge) -> Iterator[str]:
    name = f"`{kind.name}`: {kind.code or kind.prefix}"
    if kind.time is None:
        yield f"| {name} | for life: no time | stated |\n"
    for number, source in enumerate(kind.time or ()):
        yield f"| {name if not number else ''} | {_described(source, kind, knowledge)} | {source.guarantee} |\n"


def _described(source: Source, kind: Kind, knowledge: Knowledge) -> str:
    parts = [
        "else ".join(f"{_column(name, kind, knowledge)}, " for name in part)[:-2] for part in source.parts
    ]
    text = parts[0] if len(parts) == 1 else "the latest of " + " and ".join(parts)
    if source.edge == "start":
        text += ", its start"
    if source.clock:
        text += ", if it has a time of day"
    if source.after:
        text += f", and {source.after} more"
    if source.unless:
        text += f", unless {' or '.join(f'`{name}`' for name in source.unless)}"
    return text


def _column(name: str, kind: Kind, knowledge: Knowledge) -> str:
    view, dot, column = name.rpartition(".")
    definition = knowledge.views[view if dot else kind.view]
    return f"`{name}`: {definition.resource}.{_path(definition, column)}"


def _path(view: View, column: str) -> str:
    return next(path for name, path in _paths(view.select, "") if name == column).replace("|", "\\\\|")


def _paths(select: Select, above: str) -> Iterator[tuple[str, str]]:
    here = above + f"{select.paths[0]}." if select.mode else above
    yield from ((column.name, here + column.path) for column in select.columns)
    for part in (*select.selects, *select.union):
        yield from _paths(part, here)


if __name__ == "__main__":
    sys.stdout.write(rendered(load_knowledge()))
