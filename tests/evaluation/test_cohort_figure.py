"""The flow of a cohort: what is drawn and what programs read say the same."""

import pytest

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.cohort_figure import CohortFlow, cohort_figure

FLOW = CohortFlow(
    "long_stay_7d", 275, [("adult: too few birth", 5), ("gone", 30)], 240, 100, {"long": 60}, {1: 40, 2: 60}
)


def test_what_remains_after_each_step():
    found = FLOW.to_json()
    assert [step["remain"] for step in found["steps"]] == [270, 240]
    assert found["prevalence"] == {"long": 0.25}


def test_the_figure_names_every_step_and_many_small_ones_together():
    text = cohort_figure([FLOW])
    for said in ("Long stay, 7 days", "275", "adult: too few birth", "240 of 100 patients", "60 true (25 %)"):
        assert said in text, said
    many = CohortFlow("t", 100, [(f"reason {n}", n) for n in range(12)], 34, 9, {"a": 3, "b": 4})
    assert "other reasons" in cohort_figure([many])
    with pytest.raises(ShapeError):
        cohort_figure([])
