"""`ehrseq show TOKENS`: what the model sees, in words."""

from pathlib import Path

import polars as pl

from ehrseq.console import summary
from ehrseq.deploy.pipeline import Outcome
from ehrseq.deploy.show import show


def test_values_can_be_read_back_with_their_bins(whole: Outcome):
    page = show(whole.out / "tokens", rows=400)
    events = pl.read_parquet(whole.out / "timeline/data/*.parquet").filter(subject_id=page.subject)
    given = dict(
        events.drop_nulls("numeric_value").select("code", "numeric_value").group_by("code").all().iter_rows()
    )
    tokens = summary("show", page)["tokens"]
    read = [token for token in tokens if token["measured"] is not None]
    assert len(read) > 10
    for token in read:
        nearest = min(abs(value - token["measured"]) for value in given[token["code"]])
        assert nearest <= 1e-4 * max(abs(token["measured"]), 1)
        low, high = token["bin_from"], token["bin_to"]
        assert low is None or low <= token["measured"] * (1 + 1e-5) + 1e-6
        assert high is None or token["measured"] <= high * (1 + 1e-5) + 1e-6
    assert any(token["meaning"] for token in tokens)
    assert all(token["after_us"] >= 0 for token in tokens)


def test_tokens_without_a_timeline_beside_them_have_no_descriptions(whole: Outcome, tmp_path: Path):
    (tmp_path / "tokens").symlink_to(whole.out / "tokens")
    page = show(tmp_path / "tokens", rows=5)
    assert [token["meaning"] for token in page.tokens] == [None] * 5
