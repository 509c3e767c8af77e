"""Drift by name: what was planted is named, what was not planted is not, and chance alone names nothing."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from months import CREATININE, RENAMED, SODIUM, deliver

import ehrseq
from ehrseq.core.errors import ConfigError
from ehrseq.deploy.drift import Limits, compare, compare_outcomes, compare_scores, psi
from ehrseq.deploy.profile import LEAST_SUBJECTS, RARE, Profile, profile


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    """Two months as they were, the third month as it was, and with damage of three kinds."""
    folder, found = tmp_path_factory.mktemp("months"), {}
    for name, told in {
        "before": {"months": 2}, "as before": {"months": 3},
        "damaged": {"months": 3, "damaged": (3,)}, "policy": {"months": 3, "policy": (3,)},
    }.items():  # fmt: skip
        data = deliver(folder / name / "data", patients=120, **told)
        timeline = ehrseq.import_meds(data, folder / name / "timeline").out
        last = pl.read_parquet(data / "data/0.parquet")["time"].max()
        start = None if name == "before" else last.replace(day=1)  # type: ignore[union-attr]
        found[name] = profile(timeline, start=start)
    return found


def named(profiles: dict[str, Profile], now: str) -> set[tuple[str, str]]:
    found = compare(profiles["before"], profiles[now], None, Limits())
    assert all(one.sentence.endswith(".") for one in found)
    return {(one.check, one.what) for one in found if one.exceeded}


def test_another_month_of_the_same_hospital_is_no_drift(profiles):
    assert named(profiles, "as before") == set()


def test_new_units_and_a_renamed_code_are_named(profiles):
    found = compare(profiles["before"], profiles["damaged"], None, Limits())
    beyond = {one.check: one for one in found if one.exceeded}
    assert beyond["unit"].what == CREATININE
    assert "`umol/L`" in beyond["unit"].sentence
    assert "`mg/dL`" in beyond["unit"].sentence
    assert beyond["renamed"].what == SODIUM
    assert f"`{RENAMED}` has come in its place" in beyond["renamed"].sentence
    assert set(beyond) <= {"unit", "renamed", "mix"}


def test_a_changed_admission_policy_is_named(profiles):
    assert named(profiles, "policy") == {("admission", "Encounter.type")}


def test_a_profile_speaks_of_no_few_persons(profiles, tmp_path):
    rows = profiles["before"].rows
    assert rows.filter(pl.col("code") != RARE)["subjects"].min() >= LEAST_SUBJECTS
    profiles["before"].save(tmp_path / "p.parquet")
    again = Profile.load(tmp_path / "p.parquet")
    assert again.rows.equals(rows)
    assert (again.events, again.subject_months) == (
        profiles["before"].events,
        profiles["before"].subject_months,
    )


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
@settings(max_examples=50)
def test_psi_of_the_same_counts_is_nothing_and_never_below(counts):
    assert psi(counts, counts) == 0
    assert psi(counts, counts[::-1]) >= 0


def test_scores_and_outcomes():
    random = np.random.default_rng(0)
    risk = random.beta(2, 8, 2000)
    edges = np.quantile(risk, np.arange(1, 10) / 10)
    same, higher = (
        compare_scores("t", edges, risk[:500], 2000, Limits()),
        compare_scores("t", edges, risk[:500] * 2, 2000, Limits()),
    )
    assert same is not None
    assert higher is not None
    assert (same.exceeded, higher.exceeded) == (False, True)
    happened = random.random(2000) < risk
    people = np.arange(2000)
    good, bad = (compare_outcomes("t", happened, given_, people, Limits()) for given_ in (risk, risk / 2))
    assert good is not None
    assert bad is not None
    assert (good.exceeded, bad.exceeded) == (False, True)
    assert bad.measured == pytest.approx(2 * good.measured)
    assert compare_outcomes("t", happened[:5], risk[:5], people[:5], Limits()) is None


def test_an_unknown_limit_is_named_with_the_closest():
    with pytest.raises(ConfigError, match=r"unknown key 'units'.*\"unit\""):
        Limits.from_dict({"units": 0.1})
