"""Bases as tensors, and a network of dilated convolutions over them: splice sites, motifs, effects of variants.

Source: Jaganathan et al. 2019, Cell 176 (SpliceAI), residual blocks of dilated convolutions; Avsec et al. 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from ehrseq.core.errors import ShapeError

BASES = "ACGT"
_CODES = {  # IUPAC: which bases a letter may stand for
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT", "-": "",
}  # fmt: skip


def encode(sequences: Sequence[str]) -> np.ndarray:
    """One-hot [sequences, length, 4] float32 in the order ACGT; a letter for several bases is shared among them.

    Raises: ShapeError if lengths differ, or a letter is none of IUPAC.

    >>> encode(["AN"])[0].tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    """
    if len({len(sequence) for sequence in sequences}) > 1:
        raise ShapeError("sequences have several lengths. Cut or fill them (with N) to one.")
    table = np.full((256, 4), np.nan, np.float32)
    for letter, bases in _CODES.items():
        row = np.array([base in bases for base in BASES], np.float32) / max(len(bases), 1)
        table[ord(letter)] = table[ord(letter.lower())] = row
    letters = np.frombuffer("".join(sequences).encode("latin-1"), np.uint8)
    found = table[letters].reshape(len(sequences), -1, 4)
    if np.isnan(found).any():
        raise ShapeError("a sequence has a letter that stands for no base (IUPAC: ACGTURYSWKMBDHVN-).")
    return found


def reverse_complement(tensor: Array) -> Array:
    """The other strand of one-hot sequences [..., length, 4]: backwards, A for T and C for G."""
    return tensor[..., ::-1, ::-1]


def kmers(tensor: np.ndarray, k: int) -> np.ndarray:
    """How often each word of k bases stands in a sequence: [sequences, 4**k] float32; words with other letters not.

    >>> kmers(encode(["AAC"]), 2)[0, :2].tolist()  # AA, AC
    [1.0, 1.0]
    """
    digits, known = tensor.argmax(axis=2), tensor.max(axis=2) == 1
    windows = np.lib.stride_tricks.sliding_window_view(digits, k, axis=1)
    whole = np.lib.stride_tricks.sliding_window_view(known, k, axis=1).all(axis=2)
    words = windows @ (4 ** np.arange(k - 1, -1, -1))
    counts = np.zeros((len(tensor), 4**k), np.float32)
    np.add.at(counts, (np.nonzero(whole)[0], words[whole]), 1)
    return counts


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """Sizes and training of a `SequenceNetwork`.

    `positional`: the head sees where a feature stands (splice sites, in the middle), else only whether it is there.
    `both_strands`: a sequence and its other strand mean the same, in training (as augmentation) and in prediction.
    """

    outputs: int
    width: int = 32
    kernel: int = 9
    dilations: tuple[int, ...] = (1, 2, 4)
    positional: bool = True
    both_strands: bool = False
    dropout: float = 0.4
    epochs: int = 20
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-2
    smoothing: float = 0.05


class SequenceNetwork(nnx.Module):
    """Bases [B, L, 4] -> logits [B, outputs]: a convolution (the motifs), residual dilated blocks, a linear head."""

    def __init__(self, config: SequenceConfig, length: int, rngs: nnx.Rngs) -> None:
        width = config.width
        self.config = config
        self.motifs = nnx.Conv(4, width, (config.kernel,), rngs=rngs)
        self.blocks = nnx.List([
            nnx.Conv(width, width, (5,), kernel_dilation=(step,), rngs=rngs) for step in config.dilations
        ])  # fmt: skip
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in config.dilations])
        seen = width * length + 4 * length if config.positional else width
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.head = nnx.Linear(seen, config.outputs, rngs=rngs)

    def __call__(self, bases: Array, *, train: bool = False) -> Array:
        """Logits [B, outputs]; in prediction the mean of both strands, if they mean the same."""
        if self.config.both_strands and not train:
            return (self._one(bases, train) + self._one(reverse_complement(bases), train)) / 2
        return self._one(bases, train)

    def _one(self, bases: Array, train: bool) -> Array:
        hidden = nnx.relu(self.motifs(bases - 0.25))
        for block, norm in zip(self.blocks, self.norms, strict=True):
            hidden = hidden + nnx.gelu(block(norm(hidden)))
        if not self.config.positional:
            return self.head(self.dropout(hidden.max(axis=1), deterministic=not train))
        flat = self.dropout(hidden.reshape(len(hidden), -1), deterministic=not train)
        return self.head(jnp.concatenate([flat, (bases - 0.25).reshape(len(bases), -1)], axis=1))


def fit(bases: np.ndarray, labels: np.ndarray, config: SequenceConfig, seed: int = 0) -> SequenceNetwork:
    """Train on one-hot `bases` [N, L, 4] and class numbers `labels` [N]. AdamW with a cosine rate."""
    network = SequenceNetwork(config, bases.shape[1], nnx.Rngs(seed))
    steps = max(len(bases) // config.batch, 1)
    rate = optax.cosine_onecycle_schedule(config.epochs * steps, config.rate)
    optimizer = nnx.Optimizer(network, optax.adamw(rate, weight_decay=config.decay), wrt=nnx.Param)
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(bases), jnp.asarray(labels)
    for _ in range(config.epochs):
        order = (
            rng.permutation(len(bases))[: steps * config.batch] if steps > 1 else rng.permutation(len(bases))
        )
        turned = rng.random(len(order)) < (0.5 if config.both_strands else 0.0)
        for at in range(0, len(order), config.batch):
            pick = order[at : at + config.batch]
            _step(network, optimizer, x[pick], y[pick], jnp.asarray(turned[at : at + config.batch]))
    return network


@nnx.jit
def _step(network: SequenceNetwork, optimizer: nnx.Optimizer, x: Array, y: Array, turned: Array) -> None:
    config = network.config
    x = jnp.where(turned[:, None, None], reverse_complement(x), x)
    smooth = optax.smooth_labels(jax.nn.one_hot(y, config.outputs), config.smoothing)

    def loss(network: SequenceNetwork) -> Array:
        return jnp.mean(optax.softmax_cross_entropy(network(x, train=True), smooth))

    optimizer.update(network, nnx.grad(loss)(network))


@nnx.jit
def _logits(network: SequenceNetwork, bases: Array) -> Array:
    logits: Array = network(bases)
    return logits


def predict(networks: Sequence[SequenceNetwork], bases: np.ndarray) -> np.ndarray:
    """Probabilities [N, outputs] float32: the mean of several networks."""
    return np.asarray(
        sum(jax.nn.softmax(_logits(network, jnp.asarray(bases))) for network in networks)
    ) / len(networks)


def effect(networks: Sequence[SequenceNetwork], reference: np.ndarray, alternate: np.ndarray) -> np.ndarray:
    """What a variant changes: mean logits of the alternate sequence less those of the reference, [N, outputs]."""
    pair = (jnp.asarray(alternate), jnp.asarray(reference))
    after, before = (sum(_logits(network, bases) for network in networks) for bases in pair)
    return np.asarray(after - before) / len(networks)


def motifs(network: SequenceNetwork, bases: np.ndarray, best: int = 100) -> np.ndarray:
    """What each filter of the first layer looks for: base frequencies [filters, kernel, 4] of the `best` windows that
    excite it most. Source: Alipanahi et al. 2015 (DeepBind), Nature Biotechnology 33.
    """
    kernel = network.config.kernel
    before, after = (kernel - 1) // 2, kernel // 2
    excited = np.asarray(network.motifs(jnp.asarray(bases) - 0.25))  # [N, L, filters]
    padded = np.pad(bases, ((0, 0), (before, after), (0, 0)), constant_values=0.25)
    flat = excited.reshape(-1, excited.shape[2])
    top = np.argsort(-flat, axis=0)[:best]  # [best, filters]
    row, column = np.unravel_index(top, excited.shape[:2])
    windows = padded[row[..., None], column[..., None] + np.arange(kernel)]  # [best, filters, kernel, 4]
    return np.asarray(windows.mean(axis=0))
