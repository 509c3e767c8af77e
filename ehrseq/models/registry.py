"""Families of models by name, and a model's parameters as a flat dict of arrays."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError, ModelError, closest
from ehrseq.models.boosting import choose_stumps
from ehrseq.models.config import Inputs, ModelConfig, code_kinds
from ehrseq.models.embedding import EMBEDDED_FEATURES
from ehrseq.models.families import LruConfig, RnnConfig, StumpsConfig, TransformerConfig
from ehrseq.models.lru import Lru
from ehrseq.models.network import Network
from ehrseq.models.rnn import WeightedRnn
from ehrseq.models.stumps import StumpNetwork, as_parameters
from ehrseq.models.tann import Tann
from ehrseq.models.transformer import Transformer, backend_of
from ehrseq.models.work import Work, product

if TYPE_CHECKING:
    from ehrseq.tokens.packing import Examples
    from ehrseq.tokens.store import TokenStore

type Parameters = dict[str, Array]

TRUNKS: dict[str, Any] = {
    "transformer": Transformer,
    "lru": Lru,
    "lstm": WeightedRnn,
    "tann": Tann,
    "stumps": StumpNetwork,
}
"""A trunk is made by `(config, inputs, rngs)`; its `flops(config, inputs, work)` counts what it multiplies."""


def build(config: ModelConfig, inputs: Inputs, seed: int = 0) -> Network:
    """Make a freshly initialised model.

    Raises: ConfigError if the family is unknown, with the closest name.
    """
    if config.family not in TRUNKS:
        near = closest(config.family, TRUNKS)
        raise ConfigError(f"model.family {config.family!r} is not known.{near} Known: {', '.join(TRUNKS)}.")
    rngs = nnx.Rngs(params=seed)
    return Network(config, inputs, TRUNKS[config.family](config, inputs, rngs), rngs)


def initial(config: ModelConfig, inputs: Inputs, seed: int = 0) -> Parameters:
    """Freshly drawn parameters of a model."""
    prepare(config)
    return parameters(build(config, inputs, seed))


def prepare(config: ModelConfig) -> None:
    """Let the attention backend be chosen and checked now, outside of any tracing; later calls remember."""
    if isinstance(config, TransformerConfig) or (isinstance(config, LruConfig) and config.attention_every):
        backend_of(config)


def learned_from_data(
    config: ModelConfig,
    store: "TokenStore",
    examples: "Examples",
    rows: NDArray[np.int64],
    context: int,
    seed: int,
) -> Parameters:
    """Parameters that a family takes from vocabulary and training labels before the first step, by name; often none.

    `rows`: the labels of the training split; `context`: how many events the model will see.
    """
    if isinstance(config, RnnConfig):
        return {"trunk.kind_of_code": jnp.asarray(code_kinds(store.vocabulary)[1], jnp.float32)}
    if isinstance(config, StumpsConfig):
        stumps = choose_stumps(store, examples, rows, config, context=context, seed=seed)
        return {f"trunk.{name}": x for name, x in as_parameters(stumps).items()}
    return {}


def flops(config: ModelConfig, inputs: Inputs, work: Work) -> float:
    """Operations of one forward pass on what `work` counts; a training step is three (see `ehrseq.models.work`)."""
    dim, tasks = config.dim, len(inputs.tasks)
    heads = product(work.labels, dim, dim) + 2 * product(work.labels, dim, tasks)
    embedding = 0.0 if config.family == "stumps" else product(work.tokens, EMBEDDED_FEATURES, dim)
    reader = 0.0
    if not hasattr(TRUNKS[config.family], "read"):
        pools = product(work.tokens, dim, config.pools) + product(work.label_pairs, config.pools * dim, 1)
        reader = pools + product(work.labels, (config.pools + 1) * dim, dim)
    return float(TRUNKS[config.family].flops(config, inputs, work)) + embedding + reader + heads


def parameters(model: nnx.Module) -> Parameters:
    """The model's parameters by dotted name, e.g. `trunk.stream.blocks.0.mlp.out_fd`, sorted by name."""
    state = nnx.state(model, nnx.Param).flat_state()
    # a weakly typed first value (`arange * 0.5`) would come back strong from a step, which would be compiled again
    return dict(sorted((_name(path), leaf[...].astype(leaf[...].dtype)) for path, leaf in state))


def definition(config: ModelConfig, inputs: Inputs) -> Callable[[Parameters], Network]:
    """A function that puts parameters into a model of this shape, without drawing any. Usable inside jit."""
    prepare(config)
    abstract = nnx.eval_shape(lambda: build(config, inputs))
    graph, state = nnx.split(abstract, nnx.Param)
    shapes = {_name(path): (path, leaf.shape) for path, leaf in state.flat_state()}

    def bind(values: Parameters) -> Network:
        _check(values, {name: shape for name, (_, shape) in shapes.items()})
        leaves = {path: nnx.Param(values[name]) for name, (path, _) in shapes.items()}
        model: Network = nnx.merge(graph, nnx.from_flat_state(leaves))
        return model

    return bind


def _check(values: Parameters, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if name not in values:
            raise ModelError(f"parameter {name!r} is missing: the weights belong to another configuration.")
        if tuple(values[name].shape) != tuple(shape):
            raise ModelError(
                f"parameter {name!r} has shape {tuple(values[name].shape)}, expected {tuple(shape)}."
            )


def count(values: Parameters) -> int:
    """Number of scalars in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(values))


def _name(path: Iterable[Any]) -> str:
    return ".".join(str(part) for part in path)
