"""Families of models by name, and a model's parameters as a flat dict of arrays."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from ehrseq.core.errors import ConfigError, ModelError, closest
from ehrseq.models.config import Inputs, ModelConfig
from ehrseq.models.network import Network
from ehrseq.models.transformer import Transformer

type Parameters = dict[str, Array]

FAMILIES: dict[str, Callable[[ModelConfig, nnx.Rngs], nnx.Module]] = {"transformer": Transformer}


def build(config: ModelConfig, inputs: Inputs, seed: int = 0) -> Network:
    """Make a freshly initialised model.

    Raises: ConfigError if the family is unknown, with the closest name.
    """
    if config.family not in FAMILIES:
        near = closest(config.family, FAMILIES)
        raise ConfigError(f"model.family {config.family!r} is not known.{near} Known: {', '.join(FAMILIES)}.")
    rngs = nnx.Rngs(params=seed)
    return Network(config, inputs, FAMILIES[config.family](config, rngs), rngs)


def parameters(model: nnx.Module) -> Parameters:
    """The model's parameters by dotted name, e.g. `trunk.blocks.0.mlp.out_fd`, sorted by name."""
    state = nnx.state(model, nnx.Param).flat_state()
    # a weakly typed first value (`arange * 0.5`) would come back strong from a step, which would be compiled again
    return dict(sorted((_name(path), leaf[...].astype(leaf[...].dtype)) for path, leaf in state))


def definition(config: ModelConfig, inputs: Inputs) -> Callable[[Parameters], Network]:
    """A function that puts parameters into a model of this shape, without drawing any. Usable inside jit."""
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
