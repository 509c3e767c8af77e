"""What a mapped store holds of each code system: values, patients, codes, and what its ConceptMaps did not know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.elements import resource_types
from ehrseq.mapping.specification import MappingSet

_MOST = 5


@dataclass(frozen=True)
class CodeSystem:
    """Codings of one system: how many, of how many patients, how many codes.

    `unmapped`: local values without a code, with their rows, of the ConceptMaps (`maps`) into the system.
    """

    system: str
    values: int
    patients: int
    codes: int
    maps: list[str] = field(default_factory=list)
    unmapped: dict[str, int] = field(default_factory=dict)

    @property
    def commonest(self) -> str:
        """The commonest of what is unmapped, in words."""
        top = [f"{value} {rows:,}" for value, rows in list(self.unmapped.items())[:_MOST]]
        return ", ".join(
            [*top, *([f"… {len(self.unmapped) - _MOST} more"] if len(self.unmapped) > _MOST else [])]
        )


def code_systems(store: Path, mappings: MappingSet) -> list[CodeSystem]:
    """Every system of a Coding below `store`, which `mappings` made, the most used first.

    Raises: SchemaError if there are no resources.
    """
    counted, people = [], []
    for folder in sorted(path for path in store.iterdir() if path.is_dir()) if store.is_dir() else []:
        if folder.name in resource_types() and (files := sorted(folder.glob("*.parquet"))):
            for frame in _codings(folder.name, pl.scan_parquet(files)):
                counted.append(frame.group_by("system", "code").agg(values=pl.len()))
                people.append(frame.select("system", "patient").drop_nulls().unique())
    if not counted:
        raise SchemaError(f"{store}: holds no coded resources. Expected what `ehrseq map … --out` wrote.")
    codes, patients = pl.collect_all([pl.concat(counted), pl.concat(people)])
    rows = (
        codes.group_by("system").agg(pl.col("values").sum(), codes=pl.col("code").n_unique())
        .join(patients.group_by("system").agg(patients=pl.col("patient").n_unique()), on="system", how="left")
        .sort(["values", "system"], descending=[True, False])
    )  # fmt: skip
    unmapped = _unmapped(store, mappings)
    found = [
        CodeSystem(
            row["system"],
            row["values"],
            row["patients"] or 0,
            row["codes"],
            *unmapped.pop(row["system"], ([], {})),
        )
        for row in rows.to_dicts()
    ]
    return [*found, *(CodeSystem(system, 0, 0, 0, *rest) for system, rest in sorted(unmapped.items()))]


def _codings(resource: str, frame: pl.LazyFrame) -> Iterator[pl.LazyFrame]:
    """(system, code, patient) of every Coding of a resource type."""
    schema = frame.collect_schema()
    owner = [
        pl.col(name).struct.field("reference") for name in ("subject", "patient", "beneficiary")
        if isinstance(kind := schema.get(name), pl.Struct) and "reference" in kind.to_schema()
    ]  # fmt: skip
    patient = (
        pl.lit("Patient/") + pl.col("id")
        if resource == "Patient"
        else pl.coalesce(*owner, pl.lit(None, pl.String))
    )
    for name, dtype in schema.items():
        yield from _below(frame.select(patient=patient, at=pl.col(name)), dtype)


def _below(frame: pl.LazyFrame, dtype: pl.DataType) -> Iterator[pl.LazyFrame]:
    """Codings below the column `at`; lists are opened on the way."""
    if isinstance(dtype, pl.List):
        yield from _below(frame.explode("at"), dtype.inner)  # type: ignore[arg-type]
    elif isinstance(dtype, pl.Struct):
        fields = dtype.to_schema()
        if {"system", "code"} <= set(fields) and "value" not in fields:  # a Quantity has a value
            coding = pl.col("at").struct.field
            yield frame.select("patient", system=coding("system"), code=coding("code")).drop_nulls(
                ["system", "code"]
            )
        else:
            for name, kind in fields.items():
                if isinstance(kind, pl.List | pl.Struct):
                    yield from _below(frame.select("patient", at=pl.col("at").struct.field(name)), kind)


def _unmapped(store: Path, mappings: MappingSet) -> dict[str, tuple[list[str], dict[str, int]]]:
    """By target system: ConceptMaps, and local values that they lack with their rows, the most first."""
    path = store / "unmapped" / "unmapped.parquet"
    if not path.is_file():
        return {}
    found: dict[str, tuple[list[str], dict[str, int]]] = {}
    for name, value, rows in (
        pl.read_parquet(path).sort("rows", descending=True).select("map", "value", "rows").iter_rows()
    ):
        concepts = mappings.concept_maps.get(name)
        target = next((system for system, _, _ in concepts.targets.values()), name) if concepts else name
        maps, values = found.setdefault(target, ([], {}))
        maps += [name] if name not in maps else []
        values[str(value)] = values.get(str(value), 0) + rows
    return found
