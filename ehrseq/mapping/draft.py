"""First mappings of guessed tables, as text with comments where a person must decide."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import yaml
from polars.exceptions import PolarsError

from ehrseq.mapping.guess import Guess, code_system, plain
from ehrseq.mapping.sample import Sampled

_SEXES = {
    "male": "'M', 'MALE', 'MÄNNLICH', 'MANN', 'H', '1'",
    "female": "'F', 'FEMALE', 'W', 'WEIBLICH', 'FRAU', '2'",
    "other": "'D', 'DIVERS', 'OTHER', 'O', 'X'",
}


@dataclass
class Draft:
    """One mapping file in the making. `used`: columns it reads; `left`: those nobody has placed."""

    name: str
    resource: str
    table: Sampled
    key: list[str]
    template: list[str]
    used: list[str]
    head: list[str] = field(default_factory=list)
    dictionaries: list[Sampled] = field(default_factory=list)
    unique: bool = True

    @property
    def joined(self) -> list[str]:
        """Names of the tables it joins."""
        return [table.name for table in self.dictionaries]

    @property
    def left(self) -> list[str]:
        """Columns that it does not read."""
        return [name for name in self.table.columns if name not in self.used]

    def text(self) -> str:
        """The file."""
        lines = [f"# {self.table.name} -> {self.resource}. First draft by `ehrseq mappings new`.", "version: 1",
                 f"resource: {self.resource}", f"from: {flow(self.table.name)}", *self.head,
                 f"key: {flow(self.key)}"]  # fmt: skip
        if not self.unique:
            lines += ["# TODO: rows share this key; the last one stands, the others are filtered as superseded",
                      f"winner: {flow(self.key[:1])}"]  # fmt: skip
        if self.left:
            lines += ["ignore:", *(f"  {flow(name)}: not decided yet" for name in self.left)]
        return "\n".join([*lines, "template:", *(f"  {line}" for line in self.template)]) + "\n"


def draft(source: str, guesses: list[Guess]) -> list[Draft]:
    """A mapping for every guessed table: patients first, then encounters, then what happened to them."""
    people = [guess for guess in guesses if guess.kind == "Patient"]
    people.sort(key=lambda guess: -len({"birth", "sex", "death"} & set(guess.roles)))
    owned = [guess for guess in guesses if "patient" in guess.roles]
    # a table of patients without any other column to know it by: that which holds the fewest rows for each patient
    people = people[:1] or [next((g for g in owned if g.kind == "Encounter"), owned[0])]
    names: set[str] = set()
    patients = _patients(people[0], _name(people[0], "patients", names, people[0].kind != "Patient"))
    drafts, stays = [patients], None
    for guess in guesses:
        if guess.kind == "Encounter" and stays is None:
            stays = _encounters(guess, _name(guess, "encounters", names), patients)
            drafts.append(stays[0])
    for guess in guesses:
        if guess.kind and guess.kind not in ("Patient", "Encounter"):
            dictionary = _dictionary(guess, guesses)
            drafts.append(_fact(guess, _name(guess, "", names), patients, stays, dictionary))
    return drafts


def sql(column: str) -> str:
    """A column's name as SQL, quoted where it must be.

    >>> sql("value"), sql("Wert (num)")
    ('value', '"Wert (num)"')
    """
    try:
        if pl.sql_expr(column).meta.root_names() == [column] and column.isidentifier():
            return column
    except PolarsError:
        pass
    return '"' + column.replace('"', '""') + '"'


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _name(guess: Guess, usual: str, taken: set[str], other: bool = False) -> str:
    stem = usual if other else plain(guess.table.name.rpartition("/")[2]) or usual
    name = stem if stem not in taken and stem != "source" else f"{stem}_{guess.resource.lower()}"
    while name in taken:
        name += "_2"
    taken.add(name)
    return name


def _key(guess: Guess, used: list[str], *options: list[str]) -> tuple[list[str], bool]:
    """SQL of the first of these lists of columns that names a row of the sample; else the longest. `used` grows."""
    table = guess.table
    tried = [columns for columns in options if columns]
    best = next((columns for columns in tried if table.unique(columns)), None)
    columns = best or max(tried, key=len)
    used += columns
    forms = {
        "datetime": "STRFTIME({}, '%Y%m%d%H%M%S')",
        "date": "STRFTIME({}, '%Y%m%d')",
        "number": "CAST({} AS VARCHAR)",
    }
    return [forms.get(table.columns[name], "{}").format(sql(name)) for name in columns], best is not None


def _own(guess: Guess) -> list[list[str]]:
    """Columns that name a row by themselves: whole numbers and texts that call themselves so."""
    words = {"id", "nr", "no", "key", "number", "nummer", "lfd", "seq"}
    named = [name for name, kind in guess.table.columns.items()
             if kind in ("integer", "string")
             and (set(plain(name).split("_")) & words or plain(name).endswith(("nr", "id")))
             and name not in (guess.roles.get("patient"), guess.roles.get("encounter"))]  # fmt: skip
    return [[name] for name in named if guess.table.unique([name])]


def _when(guess: Guess, used: list[str], role: str) -> str:
    used.append(guess.roles[role])
    return f"{{$datetime: {flow(sql(guess.roles[role]))}}}"


def _period(guess: Guess, used: list[str]) -> str:
    parts = [
        f"{part}: {_when(guess, used, role)}"
        for part, role in (("start", "start"), ("end", "end"))
        if role in guess.roles
    ]
    return f"period: {{{', '.join(parts)}}}"


def _patients(guess: Guess, name: str) -> Draft:
    roles, table = guess.roles, guess.table
    used = [roles["patient"]]
    number = sql(roles["patient"])
    template = [f"identifier: [{{system: $systems.patient, value: {flow(number)}}}]"]
    if "sex" in roles and guess.kind == "Patient":
        used.append(roles["sex"])
        value = sql(roles["sex"])
        cases = " ".join(f"WHEN UPPER({value}) IN ({codes}) THEN '{sex}'" for sex, codes in _SEXES.items())
        template += ["# TODO: are these the codes of your hospital?",
                     "gender: " + flow(f"CASE {cases} WHEN {value} IS NOT NULL THEN 'unknown' END")]  # fmt: skip
    if "birth" in roles:
        column = roles["birth"]
        if table.columns[column] == "integer":
            used.append(column)
            template.append(f"birthDate: {{$datetime: {flow(f'CAST({sql(column)} AS VARCHAR)')}}}  # a year")
        else:
            template.append(f"birthDate: {_when(guess, used, 'birth')}")
    if "death" in roles and guess.kind == "Patient":
        template.append(f"deceasedDateTime: {_when(guess, used, 'death')}")
    return Draft(name, "Patient", table, [number], template, used, unique=table.unique([roles["patient"]]))


def _subject(guess: Guess, patients: Draft, used: list[str]) -> str:
    used.append(guess.roles["patient"])
    return f"subject: {{$reference: {{{patients.name}: {flow(sql(guess.roles['patient']))}}}}}"


def _encounters(guess: Guess, name: str, patients: Draft) -> tuple[Draft, bool]:
    """The mapping, and whether other tables can refer to it by the number of an encounter."""
    roles, used = guess.roles, []  # type: ignore[var-annotated]
    start = roles.get("start") or roles["time"]
    number = [[roles["encounter"]]] if "encounter" in roles else []
    key, unique = _key(guess, used, *number, *_own(guess), [roles["patient"], start])
    ended = (
        f"CASE WHEN {sql(roles['end'])} IS NULL THEN 'in-progress' ELSE 'finished' END"
        if "end" in roles
        else "'unknown'"
    )
    template = [
        f"status: {flow(ended)}",
        "class: {system: $systems.act_code, code: \"'IMP'\"}  # TODO: IMP inpatient, AMB ambulatory, EMER emergency",
        _subject(guess, patients, used),
    ]
    timed = guess if "start" in roles else Guess(guess.table, guess.kind, {**roles, "start": start}, [])
    template += [_period(timed, used), *_circumstances(guess, used)]
    made = Draft(name, "Encounter", guess.table, key, template, used, unique=unique)
    return made, bool(number) and key == [sql(roles["encounter"])]


_CIRCUMSTANCES = {
    "kind": "type: [{{text: {}}}]",
    "ward": "location: [{{location: {{display: {}}}}}]",
    "source": "admitSource: {{text: {}}}",
    "disposition": "dischargeDisposition: {{text: {}}}",
}


def _circumstances(guess: Guess, used: list[str]) -> list[str]:
    """How and where the patient came, was and went, in the hospital's own words."""
    there = [role for role in _CIRCUMSTANCES if role in guess.roles]
    used += [guess.roles[role] for role in there]
    said = {role: _CIRCUMSTANCES[role].format(flow(sql(guess.roles[role]))) for role in there}
    stay = [said.pop(role) for role in ("source", "disposition") if role in said]
    return [*said.values(), *([f"hospitalization: {{{', '.join(stay)}}}"] if stay else [])]


def _dictionary(guess: Guess, guesses: list[Guess]) -> tuple[Guess, str] | None:
    """A shared table that explains the code of this one: it has the same column, in which each value stands once."""
    if (column := guess.roles.get("code")) is None:
        return None
    for other in guesses:
        same = other.table.columns.get(column) == guess.table.columns[column]
        if "patient" not in other.roles and "label" in other.roles and same and other.table.unique([column]):
            return other, column
    return None


def _fact(
    guess: Guess,
    name: str,
    patients: Draft,
    stays: tuple[Draft, bool] | None,
    dictionary: tuple[Guess, str] | None,
) -> Draft:
    """Observation, Condition, medication or Procedure of one table."""
    roles, wide = guess.roles, guess.kind == "Observation (wide)"
    used: list[str] = []
    head: list[str] = []
    if wide:
        used += guess.measurements
        head = ["explode:", "  columns:  # TODO: say a unit and a LOINC code of each",
                *(f"    {flow(column)}: {{}}" for column in guess.measurements),
                "  name: measurement", "  value: reading"]  # fmt: skip
    joins: list[Sampled] = []
    if dictionary:
        other, column = dictionary
        clash = (set(other.table.columns) & set(guess.table.columns)) != {column}
        prefix = "d_" if clash else ""
        joins = [other.table]
        on = f"{{on: {flow({column: column})}, prefix: d_}}" if clash else flow(column)
        head.append(f"join: {{{flow(other.table.name)}: {on}}}")
        label = prefix + other.roles["label"]
    else:
        label = roles.get("label", "")
        used += [label] if label else []
    moment = [roles[role] for role in ("time", "start", "issued") if role in roles][:1]
    about = [roles[role] for role in ("encounter", "code", "label", "drug") if role in roles]
    own = [] if wide else _own(guess)
    named = [] if wide else about
    key, unique = _key(guess, used, *own, [roles["patient"], *moment, *named])
    key += ["measurement"] if wide else []
    template = _MAKERS[guess.resource](guess, used, wide)
    template.append(_subject(guess, patients, used))
    if stays and stays[1] and "encounter" in roles:
        used.append(roles["encounter"])
        link = "context" if guess.resource == "MedicationAdministration" else "encounter"
        template.append(f"{link}: {{$reference: {{{stays[0].name}: {flow(sql(roles['encounter']))}}}}}")
    element = "medicationCodeableConcept" if guess.resource.startswith("Medication") else "code"
    template.append(f"{element}: {_concept(guess, used, label, wide)}")
    return Draft(name, guess.resource, guess.table, key, template, used, head, joins, unique)


def _concept(guess: Guess, used: list[str], label: str, wide: bool) -> str:
    if wide:
        return f"{{coding: [{{system: {_system(guess)}, code: measurement}}]}}"
    code = guess.roles.get("code")
    text = guess.roles.get("drug") or label
    used += [name for name in (guess.roles.get("drug"),) if name]
    standard = [name for name in guess.table.columns if code_system(name) and name not in (code, *used)]
    used += (columns := [*([code] if code else []), *standard])
    shown = f", display: {flow(sql(label))}" if label and code else ""
    codings = [
        f"{{system: {_system(guess, name)}, code: {flow(sql(name))}{shown if name == code else ''}}}"
        for name in columns
    ]
    coding = f"coding: [{', '.join(codings)}]" if codings else ""
    named = f"text: {flow(sql(text))}" if text and (text != label or not code) else ""
    return f"{{{', '.join(part for part in (coding, named) if part)}}}"


def _system(guess: Guess, column: str = "") -> str:
    """The code system of a column, as an expression: a standard one by the column's name, else the table's own."""
    uri = code_system(column)
    return flow(f"'{uri}'") if uri else f"$systems.{plain(guess.table.name)}"


def _observation(guess: Guess, used: list[str], wide: bool) -> list[str]:
    roles, columns = guess.roles, guess.table.columns
    lines = ["status: \"'final'\""]
    if role := next((role for role in ("time", "start") if role in roles), None):
        lines.append(f"effectiveDateTime: {_when(guess, used, role)}")
    if "issued" in roles:
        lines.append(f"issued: {_when(guess, used, 'issued')}  # when a clinician could first see it")
    if wide:
        return [*lines, "valueQuantity: {$quantity: {value: reading}}"]
    value, text = roles["value"], roles.get("text")
    unit = ""
    if "unit" in roles:
        used.append(roles["unit"])
        unit = f", unit: {flow(sql(roles['unit']))}, ucum: units"
    texts = text or (value if columns[value] == "string" else None)
    parts = ([f"value: {flow(sql(value))}"] if value != texts else []) + (
        [f"text: {flow(sql(texts))}"] if texts else []
    )
    used += [name for name in (value, text) if name]
    lines.append(f"valueQuantity: {{$quantity: {{{', '.join(parts)}{unit}}}}}")
    if texts:
        said = sql(texts) if value == texts else f"CASE WHEN {sql(value)} IS NULL THEN {sql(texts)} END"
        lines.append(f"valueString: {{$text: {flow(said)}}}")
    return lines


def _condition(guess: Guess, used: list[str], wide: bool) -> list[str]:
    for role, element in (("start", "onsetDateTime"), ("time", "recordedDate"), ("issued", "recordedDate")):
        if role in guess.roles:
            return [f"{element}: {_when(guess, used, role)}"]
    return ["# TODO: when was it known? recordedDate: {$datetime: …}"]


def _request(guess: Guess, used: list[str], wide: bool) -> list[str]:
    lines = ["status: \"'unknown'\"", "intent: \"'order'\""]
    if role := next((role for role in ("time", "start") if role in guess.roles), None):
        lines.append(f"authoredOn: {_when(guess, used, role)}")
    return lines


def _administration(guess: Guess, used: list[str], wide: bool) -> list[str]:
    lines = ["status: \"'completed'\""]
    if role := next((role for role in ("start", "time") if role in guess.roles), None):
        period = role == "start" and "end" in guess.roles
        lines.append(f"effectivePeriod: {_period(guess, used).removeprefix('period: ')}" if period
                     else f"effectiveDateTime: {_when(guess, used, role)}")  # fmt: skip
    if "dose" in guess.roles:
        used.append(guess.roles["dose"])
        unit = f", unit: {flow(sql(guess.roles['unit']))}" if "unit" in guess.roles else ""
        used += [guess.roles["unit"]] if unit else []
        lines.append(f"dosage: {{dose: {{$quantity: {{value: {flow(sql(guess.roles['dose']))}{unit}}}}}}}")
    return lines


def _procedure(guess: Guess, used: list[str], wide: bool) -> list[str]:
    lines = ["status: \"'completed'\""]
    if role := next((role for role in ("start", "time") if role in guess.roles), None):
        period = role == "start" and "end" in guess.roles
        lines.append(f"performedPeriod: {_period(guess, used).removeprefix('period: ')}" if period
                     else f"performedDateTime: {_when(guess, used, role)}")  # fmt: skip
    return lines


_MAKERS: dict[str, Callable[[Guess, list[str], bool], list[str]]] = {
    "Observation": _observation,
    "Condition": _condition,
    "MedicationRequest": _request,
    "MedicationAdministration": _administration,
    "Procedure": _procedure,
}
