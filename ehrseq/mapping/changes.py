"""What a run changed: resources that were added, changed and removed, against the store that stood there before."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema

_OWNER = ("subject", "patient", "beneficiary")


class Change(Schema):
    """One resource that is not as it was. `patient` is the Patient's id, if it belongs to one."""

    resource_type = Required(pl.String)
    id = Required(pl.String)
    change = Required(pl.String)  # added, changed or removed
    patient = Nullable(pl.String)


def changes(old: Path, new: Path, names: Iterable[str]) -> pl.DataFrame:
    """Compare the shards `names` (`<ResourceType>/<bucket>.parquet`, absent ones are empty) of two stores.

    A resource is changed if any element is; where it stands in the source (`_file`, `_row`) is no element.
    """
    found = [Change.empty()]
    for name in sorted(set(names)):
        before, after = _hashed(old / name), _hashed(new / name)
        both = before.join(after, on="id", how="full", coalesce=True, maintain_order="left_right")
        differs = both.filter(pl.col("hash").ne_missing(pl.col("hash_right")))
        found.append(
            differs.select(
                pl.lit(Path(name).parent.name).alias(Change.resource_type),
                pl.col("id").alias(Change.id),
                pl.when(pl.col("hash").is_null())
                .then(pl.lit("added"))
                .when(pl.col("hash_right").is_null())
                .then(pl.lit("removed"))
                .otherwise(pl.lit("changed"))
                .alias(Change.change),
                pl.coalesce("patient_right", "patient").alias(Change.patient),
            )
        )
    return pl.concat(found)


def _hashed(path: Path) -> pl.DataFrame:
    """id, patient and a hash of all elements of each resource of a shard."""
    if not path.is_file():
        return pl.DataFrame(schema={"id": pl.String, "patient": pl.String, "hash": pl.UInt64})
    frame = pl.read_parquet(path)
    elements = sorted(name for name in frame.columns if not name.startswith("_"))
    if path.parent.name == "Patient":
        patient = pl.col("id")
    else:
        owners = [pl.col(name).struct.field("reference") for name in _OWNER if name in frame.columns]
        whole = pl.coalesce(owners) if owners else pl.lit(None, pl.String)
        patient = whole.str.strip_prefix("Patient/")
    return frame.select("id", patient.alias("patient"), hash=frame.select(elements).hash_rows(seed=1))


def summary(frames: Sequence[pl.DataFrame]) -> dict[str, Any]:
    """Counts for a manifest: resources by type and change, and distinct patients; empty if nothing changed."""
    together = pl.concat([Change.empty(), *frames])
    if together.is_empty():
        return {}
    counts: dict[str, dict[str, int]] = {}
    grouped = together.group_by(Change.resource_type, Change.change).len().sort(pl.all())
    for resource, change, count in grouped.iter_rows():
        counts.setdefault(resource, {})[change] = count
    return {"resources": counts, "patients": together[Change.patient].drop_nulls().n_unique()}


def in_words(counts: Mapping[str, Any]) -> str:
    """A summary in words.

    >>> in_words({"resources": {"Observation": {"added": 2, "changed": 1}}, "patients": 2})
    '2 patients; Observation 2 added, 1 changed'
    """
    patients = counts["patients"]
    parts = [f"{patients:,} patient{'s' * (patients != 1)}"]
    parts += [
        f"{resource} {', '.join(f'{count:,} {change}' for change, count in sorted(of.items()))}"
        for resource, of in sorted(counts["resources"].items())
    ]
    return "; ".join(parts)
