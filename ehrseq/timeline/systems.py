"""Code system URIs and the short labels that stand for them in event codes."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ehrseq.core.errors import TimelineError
from ehrseq.core.yaml_lines import load_yaml

NO_SYSTEM = "local"
_LAST_PART = re.compile(r"([^/:#|]+)[/:#|]*$")


def read_systems(path: Path) -> dict[str, str]:
    """Read a table of URI → label. Raises: TimelineError with file and line."""
    document = load_yaml(path, TimelineError)
    table = document.value or {}
    if not isinstance(table, dict):
        raise TimelineError(f"{document.at(())}  expected a mapping of system URIs to labels.")
    for uri, label in table.items():
        if not isinstance(label, str) or not label or "/" in label:
            raise TimelineError(f"{document.at((uri,))}  a label is a word without `/`.")
    return {str(uri): label for uri, label in table.items()}


def label_of(uri: str | None, systems: Mapping[str, str]) -> str:
    """Short label of a code system.

    >>> label_of("http://loinc.org", {"http://loinc.org": "LOINC"})
    'LOINC'
    >>> label_of("http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-d-labitems", {}), label_of(None, {})
    ('mimic-d-labitems', 'local')
    """
    if not uri:
        return NO_SYSTEM
    if uri in systems:
        return systems[uri]
    found = _LAST_PART.search(uri)
    return found.group(1) if found else NO_SYSTEM


def ambiguous(uris: Iterable[str], systems: Mapping[str, str]) -> dict[str, list[str]]:
    """Labels that stand for several of these URIs although no table says so.

    >>> ambiguous(["http://a.org/lab", "http://b.org/lab"], {})
    {'lab': ['http://a.org/lab', 'http://b.org/lab']}
    """
    by_label: dict[str, list[str]] = {}
    for uri in sorted(set(uris)):
        by_label.setdefault(label_of(uri, systems), []).append(uri)
    return {
        label: found
        for label, found in sorted(by_label.items())
        if len(found) > 1 and not all(uri in systems for uri in found)
    }
