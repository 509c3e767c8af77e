"""Starting from an older model's weights: what it has learnt keeps its place, what is new begins as new."""

from collections.abc import Sequence

import jax.numpy as jnp

from ehrseq.models.registry import Parameters


def grown(
    old: Parameters, fresh: Parameters, *, old_tasks: Sequence[str], tasks: Sequence[str]
) -> Parameters:
    """`fresh` with the values of `old` wherever they mean the same.

    A table of codes or units may have grown at its end (`ehrseq tokenize --extend`): its old rows are kept. Heads are
    kept if the tasks are the same. Anything of another shape stays fresh.

    >>> small, large = {"embedding.code": jnp.ones((2, 3))}, {"embedding.code": jnp.zeros((4, 3))}
    >>> grown(small, large, old_tasks=["a"], tasks=["a"])["embedding.code"].sum()
    Array(6., dtype=float32)
    """
    same_tasks = tuple(old_tasks) == tuple(tasks)
    made = {}
    for name, value in fresh.items():
        before = old.get(name)
        of_tasks = name.startswith(("heads.", "wide."))
        if before is None or before.ndim != value.ndim or (of_tasks and not same_tasks):
            made[name] = value
        elif before.shape == value.shape:
            made[name] = jnp.copy(before)
        elif before.ndim and before.shape[1:] == value.shape[1:] and before.shape[0] < value.shape[0]:
            made[name] = jnp.concatenate([before, value[before.shape[0] :]])
        else:
            made[name] = value
    return made
