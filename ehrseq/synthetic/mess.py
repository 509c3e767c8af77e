"""What real tables are like: gaps, duplicates, corrections, late results, two units, "<5", words for numbers.

Keys stay whole: a row may be missing, doubled or wrong, but what it points to exists.
"""

import numpy as np
import polars as pl

from ehrseq.synthetic.block import Block, Tables, moment
from ehrseq.synthetic.hospital import Lab

_DUPLICATED = {  # table -> share of rows written twice
    "hosp/labevents": 0.004, "icu/chartevents": 0.004, "hosp/emar": 0.002, "hosp/prescriptions": 0.003,
    "hosp/omr": 0.003, "icu/inputevents": 0.002,
}  # fmt: skip
_BLANKED = {  # (table, column) -> share of rows where the cell is empty
    ("hosp/admissions", "marital_status"): 0.03,
    ("hosp/admissions", "discharge_location"): 0.03,
    ("hosp/labevents", "valueuom"): 0.004,
    ("hosp/labevents", "storetime"): 0.003,
    ("hosp/labevents", "ref_range_lower"): 0.01,
    ("hosp/labevents", "order_provider_id"): 0.5,
    ("hosp/labevents", "priority"): 0.02,
    ("hosp/emar", "event_txt"): 0.004,
    ("hosp/emar", "enter_provider_id"): 0.2,
    ("hosp/prescriptions", "stoptime"): 0.01,
    ("hosp/prescriptions", "gsn"): 0.05,
    ("icu/chartevents", "storetime"): 0.002,
    ("icu/inputevents", "rate"): 0.01,
}


def spoil(tables: Tables, block: Block, rng: np.random.Generator) -> Tables:
    """Return the tables of a block with their share of mess."""
    spoilt = dict(tables)
    spoilt["hosp/labevents"] = _laboratory(tables["hosp/labevents"], block, rng)
    spoilt["icu/chartevents"] = _drop(tables["icu/chartevents"], 0.02, rng)
    for (table, column), share in _BLANKED.items():
        lost = pl.Series(rng.random(len(spoilt[table])) < share)
        spoilt[table] = spoilt[table].with_columns(pl.when(~lost).then(column).alias(column))
    for table, share in _DUPLICATED.items():
        times = 1 + (rng.random(len(spoilt[table])) < share)
        spoilt[table] = spoilt[table][np.repeat(np.arange(len(times)), times)]
    return spoilt


def _laboratory(labs: pl.DataFrame, block: Block, rng: np.random.Generator) -> pl.DataFrame:
    labs = _drop(labs, 0.02, rng)
    stays = block.stays
    limits = pl.DataFrame(
        {
            "hadm_id": block.hadm_id,
            "limit": moment(np.where(stays.died, stays.end, stays.end + 6 * 3600)),
            # an analyser of another maker takes over in the middle of a stay
            "switch": moment(
                stays.admit + (stays.hours * 3600 * rng.uniform(0, 1, len(stays))).astype(np.int64)
            ),
            "switches": rng.random(len(stays)) < 0.05,
        }
    )
    labs = labs.join(limits, on="hadm_id", how="left", maintain_order="left")
    labs = _late(labs, rng)
    labs = _corrections(labs, block, rng)
    labs = _other_unit(labs, block.hospital.labs)
    labs = _beyond_range(labs, block.hospital.labs)
    labs = _unreadable(labs, rng)
    return labs.drop("limit", "switch", "switches").sort("subject_id", "charttime", maintain_order=True)


def _drop(frame: pl.DataFrame, share: float, rng: np.random.Generator) -> pl.DataFrame:
    return frame.filter(pl.Series(rng.random(len(frame)) >= share))


def _late(labs: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """One result in a hundred arrives 8 to 30 hours late, though never after a death."""
    minutes = np.where(rng.random(len(labs)) < 0.01, rng.integers(480, 1800, len(labs)), 0)
    late = pl.col("storetime") + pl.duration(minutes=pl.lit(pl.Series(minutes)))
    return labs.with_columns(
        storetime=pl.when(pl.Series(minutes) > 0)
        .then(pl.max_horizontal("storetime", pl.min_horizontal(late, "limit")))
        .otherwise("storetime")
    )


def _corrections(labs: pl.DataFrame, block: Block, rng: np.random.Generator) -> pl.DataFrame:
    """A second row for the same specimen and test, stored later, with another value and its own key."""
    count = len(labs)
    chosen = labs.filter(pl.Series(rng.random(count) < 0.004) & pl.col("valuenum").is_not_null())
    hours = pl.Series(rng.integers(60, 300, len(chosen)))
    later = pl.min_horizontal(pl.col("storetime") + pl.duration(minutes=pl.lit(hours)), "limit")
    factor = pl.Series(rng.choice([0.7, 0.9, 1.1, 1.4], len(chosen)))
    digits = pl.when(pl.col("value").str.contains(".", literal=True)).then(1).otherwise(0)
    value = (
        pl.when(digits == 1)
        .then((pl.col("valuenum") * factor).round(1))
        .otherwise((pl.col("valuenum") * factor).round(0))
    )
    fixed = chosen.with_columns(
        labevent_id=pl.Series(block.ids.take("labevent", len(chosen))),
        comments=pl.format("CORRECTED RESULT.  PREVIOUSLY REPORTED AS {}.", "value"),
        storetime=pl.max_horizontal("storetime", later),
        valuenum=value,
    ).with_columns(value=pl.col("valuenum").cast(pl.String).str.strip_suffix(".0"))
    return pl.concat([labs, fixed], how="diagonal_relaxed")


def _other_unit(labs: pl.DataFrame, tests: list[Lab]) -> pl.DataFrame:
    """From the switch on, some tests of the stay are reported in their second unit, range and all."""
    second = pl.DataFrame(
        [(lab.id, lab.unit2["factor"], lab.unit2["digits"], lab.unit2["unit"]) for lab in tests if lab.unit2],
        schema=["itemid", "factor", "digits", "unit2"], orient="row",
    )  # fmt: skip
    labs = labs.join(second, on="itemid", how="left", maintain_order="left")
    changed = (
        pl.col("switches") & (pl.col("charttime") >= pl.col("switch")) & pl.col("factor").is_not_null()
    ).fill_null(False)
    ten = pl.lit(10.0).pow(pl.col("digits").fill_null(0))

    def convert(name: str) -> pl.Expr:
        return (
            pl.when(changed)
            .then((pl.col(name) * pl.col("factor") * ten).round(0) / ten)
            .otherwise(name)
            .alias(name)
        )

    labs = labs.with_columns(
        convert("valuenum"), convert("ref_range_lower"), convert("ref_range_upper"),
        valueuom=pl.when(changed).then("unit2").otherwise("valueuom"), changed=changed,
    )  # fmt: skip
    words = pl.col("valuenum").cast(pl.String).str.strip_suffix(".0")
    labs = labs.with_columns(value=pl.when("changed").then(words).otherwise("value"))
    return labs.drop("factor", "digits", "unit2", "changed")


def _beyond_range(labs: pl.DataFrame, tests: list[Lab]) -> pl.DataFrame:
    """Values the analyser cannot measure: `<0.01` with the limit as number, or `>35000` with none."""
    ends = pl.DataFrame(
        [(lab.id, lab.least, lab.most) for lab in tests if lab.least is not None or lab.most is not None],
        schema={"itemid": pl.Int64, "least": pl.Float64, "most": pl.Float64}, orient="row",
    )  # fmt: skip
    labs = labs.join(ends, on="itemid", how="left", maintain_order="left")
    below, above = pl.col("valuenum") <= pl.col("least"), pl.col("valuenum") > pl.col("most")

    def limit(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.String).str.strip_suffix(".0")

    return labs.with_columns(
        value=pl.when(below).then(pl.format("<{}", limit("least")))
        .when(above).then(pl.format(">{}", limit("most"))).otherwise("value"),
        valuenum=pl.when(below).then("least").when(above).then(None).otherwise("valuenum"),
    ).drop("least", "most")  # fmt: skip


def _unreadable(labs: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Spoilt specimens without a value; and values blacked out by de-identification, their number kept."""
    chance = pl.Series(rng.random(len(labs)))
    spoilt = (chance < 0.005) & labs["valuenum"].is_not_null()
    hidden = (chance > 0.99) & labs["valuenum"].is_not_null()
    return labs.with_columns(
        value=pl.when(spoilt).then(None).when(hidden).then(pl.lit("___")).otherwise("value"),
        valuenum=pl.when(~spoilt).then("valuenum"),
        comments=pl.when(spoilt).then(pl.lit("HEMOLYZED.  TEST NOT PERFORMED.")).otherwise("comments"),
    )
