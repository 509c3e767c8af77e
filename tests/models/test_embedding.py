"""The embedding of an event: what stands beside it is added, what is absent costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ehrseq.models.config import Inputs
from ehrseq.models.dropout import hide_events
from ehrseq.models.embedding import EventEmbedding, calendar_features

INPUTS = Inputs(codes=9, bins=3, units=2, modalities=3, tasks=("a",), dense=(("xray", 4),))
T = 5


@pytest.fixture(scope="module")
def embedding() -> EventEmbedding:
    return EventEmbedding(INPUTS, 8, nnx.Rngs(0))


def plain() -> dict[str, jax.Array]:
    zeros = jnp.zeros((1, T), jnp.int32)
    return {
        "code": jnp.asarray([[2, 3, 4, 5, 0]]), "segment": jnp.asarray([[1, 1, 1, 1, 0]]), "bin": zeros, "unit": zeros,
        "modality": zeros, "position": jnp.asarray([[0, 1, 2, 3, 0]]), "value": jnp.full((1, T), jnp.nan),
        "time": jnp.zeros((1, T)), "age": jnp.full((1, T), jnp.nan), "before": zeros - 1, "after": zeros + T,
    }  # fmt: skip


def with_beside() -> dict[str, jax.Array]:
    return plain() | {
        "bag_at": jnp.asarray([[1, 1, 3, T]]),
        "bag_code": jnp.asarray([[7, 8, 7, 0]]),
        "bag_weight": jnp.asarray([[1.0, 0.5, -2.0, 0.0]]),
        "dense_at.xray": jnp.asarray([[2, T]]),
        "dense.xray": jnp.ones((1, 2, 4)),
    }


def test_what_stands_beside_an_event_is_added_to_it(embedding: EventEmbedding) -> None:
    added = np.asarray(embedding(with_beside()) - embedding(plain()))[0]
    code, image = np.asarray(embedding.code[...]), np.asarray(embedding.dense_xray[...])
    expected = [np.zeros(8), code[7] + code[8] / 2, image.sum(0), -2 * code[7], np.zeros(8)]
    np.testing.assert_allclose(added, expected, atol=1e-6)


def test_a_hidden_event_hides_what_stands_beside_it(embedding: EventEmbedding) -> None:
    key = jax.random.key(3)
    hidden = hide_events(with_beside(), 0.5, key)
    unknown = np.asarray(hidden["code"] == 1)[0]
    assert unknown.any()
    assert not unknown.all()
    added = np.asarray(embedding(hidden) - embedding(hide_events(plain(), 0.5, key)))[0]
    assert not added[unknown].any()
    before = np.asarray(embedding(with_beside()) - embedding(plain()))[0]
    np.testing.assert_allclose(added[~unknown], before[~unknown], atol=1e-6)


def test_a_vector_moves_its_own_projection_alone(embedding: EventEmbedding) -> None:
    def loss(batch: dict[str, jax.Array]) -> jax.Array:
        return jax.grad(lambda vectors: (embedding(batch | {"dense.xray": vectors}) ** 2).sum())(
            batch["dense.xray"]
        )

    gradient = np.asarray(loss(with_beside()))[0]
    assert gradient[0].any()
    assert not gradient[1].any()  # the empty place


def test_calendar() -> None:
    morning = 18_263.25  # 2020-01-02 06:00, a Thursday; 1970-01-01 was one, too
    same_time_next_week = morning + 7
    one, other, none = np.asarray(calendar_features(jnp.asarray([[morning, same_time_next_week, jnp.nan]])))[
        0
    ]
    np.testing.assert_allclose(one[:4], other[:4], atol=1e-2)
    np.testing.assert_allclose(one[[1, 6]], [1, 0], atol=1e-2)  # sine and cosine of a quarter of a day
    np.testing.assert_allclose(
        one[[3, 8]], [np.sin(2 * np.pi * 0.25 / 7), np.cos(2 * np.pi * 0.25 / 7)], atol=1e-2
    )
    assert not none.any()
