"""The flow of a cohort: what is drawn and what programs read say the same."""

import pytest

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.cohort_figure import CohortFlow, cohort_figure

FLOW = CohortFlow(
    "long_stay_7d",
    275,
    [("first_day: has death", 5), ("nothing", 0), ("no end after first_day.end", 30)],
    240,
    100,
    {"long": 60},
    {1: 40, 2: 60},
    {2019: 100, 2021: 140},
)


def test_what_remains_after_each_step():
    found = FLOW.to_json()
    assert [step["remain"] for step in found["steps"]] == [270, 270, 240]
    assert found["prevalence"] == {"long": 0.25}
    assert found["predictions_per_year"] == {2019: 100, 2021: 140}


def test_the_figure_names_every_step_and_many_small_ones_together():
    text = cohort_figure([FLOW])
    for said in ("Long stay, 7 days", "275", "first day: has death", "no end after first day ends", "−30  (11 %)",
                 "240  (87 %)", "60 true (25 %) · 100 patients · asked 1 to 2 times each · 2019 to 2021"):  # fmt: skip
        assert said in text, said
    assert "nothing" not in text
    many = CohortFlow("t", 100, [(f"reason {n}", n) for n in range(12)], 34, 9, {"a": 3, "b": 4})
    assert "other reasons" in cohort_figure([many])
    with pytest.raises(ShapeError):
        cohort_figure([])
