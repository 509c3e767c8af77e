"""Sequence models: tensors, a planted motif found again, what a variant changes."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ehrseq.adapters.genomics.sequence import (
    SequenceConfig,
    effect,
    encode,
    fit,
    kmers,
    motifs,
    predict,
    reverse_complement,
)
from ehrseq.core.errors import ShapeError

MOTIF = "TGACTCAT"
CONFIG = SequenceConfig(
    outputs=2, width=16, dilations=(), positional=False, both_strands=True, epochs=12, dropout=0.1
)


def planted(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Half of the sequences hold the motif, anywhere, on either strand."""
    rng = np.random.default_rng(seed)
    letters = rng.choice(list("ACGT"), (count, 50))
    labels = rng.permutation(np.arange(count) % 2)
    other = str.maketrans("ACGT", "TGCA")
    for row in np.nonzero(labels)[0]:
        at = rng.integers(0, 50 - len(MOTIF))
        word = MOTIF if rng.random() < 0.5 else MOTIF.translate(other)[::-1]
        letters[row, at : at + len(MOTIF)] = list(word)
    return ["".join(row) for row in letters], labels


@pytest.fixture(scope="module")
def trained():
    sequences, labels = planted(1200, 0)
    return fit(encode(sequences), labels, CONFIG)


def test_a_planted_motif_is_found_and_stands_in_a_filter(trained):
    sequences, labels = planted(400, 1)
    bases = encode(sequences)
    assert roc_auc_score(labels, predict([trained], bases)[:, 1]) >= 0.95
    wanted = encode([MOTIF])[0]
    words = np.stack([wanted, reverse_complement(wanted)])
    found = motifs(trained, bases)  # [filters, 9, 4]
    offsets = [np.einsum("flb,wlb->fw", found[:, at : at + 6], words[:, cut : cut + 6]) / 6
               for at in range(4) for cut in range(3)]  # fmt: skip
    assert max(part.max() for part in offsets) > 0.8  # six bases of it, on one strand


def test_both_strands_are_said_to_be_the_same(trained):
    bases = encode(planted(8, 2)[0])
    np.testing.assert_allclose(
        predict([trained], bases), predict([trained], reverse_complement(bases)), atol=1e-5
    )


def test_a_variant_that_breaks_the_motif_lowers_it(trained):
    rng = np.random.default_rng(5)
    around = ["".join(rng.choice(list("ACGT"), 50)) for _ in range(20)]
    whole = [text[:20] + MOTIF + text[28:] for text in around]
    broken = [text[:23] + "GGG" + text[26:] for text in whole]
    change = effect([trained], encode(whole), encode(broken))
    assert (change[:, 1] - change[:, 0] < 0).mean() > 0.9


def test_letters_for_several_bases_are_shared_and_others_refused():
    assert encode(["R"])[0, 0].tolist() == [0.5, 0, 0.5, 0]
    with pytest.raises(ShapeError, match="stands for no base"):
        encode(["AX"])
    with pytest.raises(ShapeError, match="several lengths"):
        encode(["A", "AC"])


def test_words_with_unknown_bases_do_not_count():
    counts = kmers(encode(["ACNAC"]), 2)
    assert counts.sum() == 2
    assert counts[0, 1] == 2
