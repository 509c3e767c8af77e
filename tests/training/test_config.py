"""A wrong configuration says what is wrong before anything is read."""

from typing import Any

import pytest

from ehrseq.core.errors import ConfigError
from ehrseq.training.config import TrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": 1e-3}, 'train: unknown key .* Closest: "learning_rate"'),
        ({"model": {"layer": 3}}, 'train.model: unknown key .* Closest: "layers"'),
        ({"model": 3}, "expected keys and values"),
        ({"epochs": 1.5}, "expected int"),
        ({"context": 512, "row_length": 256}, "row_length is 256"),
        ({"select": "auc"}, "one of loss, auroc"),
        ({"ema": 1.0}, r"ema is 1\.0"),
        ({"learning_rate": 0}, "positive"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(values)


def test_plain_values_come_back() -> None:
    config = TrainConfig.from_dict({"learning_rate": 1, "model": {"dim": 32, "heads": 2}})
    assert TrainConfig.from_dict(config.to_dict()) == config
