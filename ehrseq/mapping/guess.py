"""Which table holds what, guessed from names by the table beside this module (`guesses.yaml`)."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ehrseq.core.yaml_lines import load_yaml
from ehrseq.mapping.sample import Sampled

MEASUREMENTS = "measurements"
_LEAST = 3


@dataclass
class Guess:
    """What a table is taken for: `kind` is a name of `guesses.yaml`, None if nothing fits; `roles`: role to column."""

    table: Sampled
    kind: str | None
    roles: dict[str, str]
    measurements: list[str]

    @property
    def resource(self) -> str:
        """FHIR type of the kind."""
        return (self.kind or "").partition(" ")[0]


def plain(name: str) -> str:
    """A name in lower case, without accents, words joined by `_`.

    >>> plain("AufnahmeDatum"), plain("Größe (cm)"), plain("hosp/lab-events")
    ('aufnahme_datum', 'groesse_cm', 'hosp_lab_events')
    """
    spelt = re.sub("(?i)ä", "ae", re.sub("(?i)ö", "oe", re.sub("(?i)ü", "ue", name.replace("ß", "ss"))))
    text = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def guess_tables(tables: list[Sampled]) -> list[Guess]:
    """What each table is taken for."""
    return [_guess(table) for table in tables]


def subject_of(guesses: Iterable[Guess]) -> str | None:
    """The commonest name of the patient's column; None if no table has one."""
    names = Counter(guess.roles["patient"] for guess in guesses if "patient" in guess.roles)
    return names.most_common(1)[0][0] if names else None


def code_system(column: str) -> str | None:
    """URI of the code system that a column's name holds; None if it holds none.

    >>> code_system("LOINC_Code"), code_system("ICD10"), code_system("Test")
    ('http://loinc.org', 'http://hl7.org/fhir/sid/icd-10', None)
    """
    rules = _rules()["systems"].values()
    return next((rule["uri"] for rule in rules if re.search(rule["name"], plain(column))), None)


@cache
def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = load_yaml(Path(__file__).with_name("guesses.yaml")).value
    return rules


def _guess(table: Sampled) -> Guess:
    roles: dict[str, str] = {}
    others: list[str] = []
    for column, kind in table.columns.items():
        fits = [role for role, rule in _rules()["columns"].items()
                if kind in rule.get("types", (kind,)) and re.search(rule["name"], plain(column))]  # fmt: skip
        free = [role for role in fits if role not in roles]
        if free and not (fits[0] in ("patient", "encounter") and fits[0] in roles):
            roles[free[0]] = column
        elif kind == "number" or (
            kind == "integer" and not re.search(r"(^|_)(id|nr|no|key)$", plain(column))
        ):
            others.append(column)
    stem = plain(table.name.rpartition("/")[2])
    own = next((name for name in table.columns if plain(name) == "id"), None)
    if own and "patient" not in roles and re.search(_rules()["tables"]["Patient"]["name"], stem):
        roles["patient"] = own  # patients.Id
    _spoken(table, roles)
    there = {*roles, *([MEASUREMENTS] if len(others) > 1 else [])}
    scores = {kind: _score(rule, stem, there) for kind, rule in _rules()["tables"].items()}
    best = max(scores, key=lambda kind: scores[kind])
    return Guess(table, best if scores[best] >= _LEAST else None, roles, others)


def _spoken(table: Sampled, roles: dict[str, str]) -> None:
    """A number beside a text that is called value too is the better value."""
    value = roles.get("value")
    rule = re.compile(_rules()["columns"]["value"]["name"])
    if value and table.columns[value] == "string":
        better = [c for c, kind in table.columns.items() if kind == "number" and rule.search(plain(c))]
        if better:
            roles["value"], roles["text"] = better[0], value


def _score(rule: dict[str, Any], stem: str, there: set[str]) -> int:
    if not all(there & set(need.split("|")) for need in rule["needs"]):
        return 0
    return 3 * bool(re.search(rule["name"], stem)) + sum(role in there for role in rule["likes"])
