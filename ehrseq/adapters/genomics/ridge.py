"""Whole-genome ridge predictions, each without one chromosome: the offsets of an association test (regenie's step 1).

Blocks of variants give ridge predictions at several penalties (level 0), and a ridge over all of these gives the trait
(level 1); both are fitted out of fold, so that no sample predicts itself. What a chromosome's variants add is left out
when its variants are tested. Source: Mbatchou et al. 2021, Nature Genetics 53, Methods.
"""

from collections.abc import Iterator

import numpy as np

from ehrseq.adapters.genomics.association import basis_of, filled
from ehrseq.core.errors import ShapeError

HERITABILITIES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Shares of variance that a block, or all of them, may explain; each gives a penalty. As regenie's defaults."""


def leave_one_out(
    genotypes: np.ndarray,
    chromosomes: np.ndarray,
    traits: np.ndarray,
    covariates: np.ndarray,
    *,
    block: int = 1000,
    folds: int = 5,
) -> dict[str, np.ndarray]:
    """For each chromosome the predictions of all others, [samples, traits], in units of the trait.

    genotypes [variants, samples], chromosomes [variants], traits [samples, traits] (NaN: missing, taken as the mean),
    covariates [samples, covariates]. Quantitative models at both levels, for binary traits as well. With a single
    chromosome nothing is left over: predictions of 0. Raises: ShapeError for fewer samples than folds.
    """
    traits = np.asarray(traits, np.float64)
    if len(traits) < 2 * folds:
        raise ShapeError(f"{len(traits)} samples are too few for {folds} folds.")
    names = list(dict.fromkeys(chromosomes.tolist()))
    if len(names) == 1:
        return {names[0]: np.zeros_like(traits)}
    basis = np.asarray(basis_of(np.asarray(covariates, np.float64).reshape(len(traits), -1)))
    known = np.where(np.isnan(traits), np.nanmean(traits, axis=0), traits)
    rest = known - basis @ (basis.T @ known)
    scale = rest.std(axis=0)
    rest = rest / np.where(scale > 0, scale, 1)
    # contiguous folds, as regenie has them
    fold = np.arange(len(traits)) * folds // len(traits)
    predictors, owner = [], []
    for name in names:
        for part in _blocks(np.nonzero(chromosomes == name)[0], block):
            predictors.append(_level_0(genotypes[part], rest, basis, fold))
            owner += [name] * len(HERITABILITIES)
    stacked = np.concatenate(predictors, axis=2)  # [traits, samples, predictors]
    found = {name: np.zeros_like(traits) for name in names}
    for trait in range(traits.shape[1]):
        weights = _level_1(stacked[trait], rest[:, trait], fold)
        for name in names:
            others = np.array([mine != name for mine in owner])
            found[name][:, trait] = scale[trait] * (stacked[trait][:, others] * weights[:, others]).sum(
                axis=1
            )
    return found


def _blocks(variants: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(variants), size):
        yield variants[at : at + size]


def _level_0(genotypes: np.ndarray, rest: np.ndarray, basis: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Out-of-fold ridge predictions of a block: [traits, samples, penalties]."""
    dosages = filled(genotypes).T
    dosages = dosages - basis @ (basis.T @ dosages)
    spread = dosages.std(axis=0)
    dosages = dosages[:, spread > 1e-6] / spread[spread > 1e-6]
    found = np.zeros((rest.shape[1], len(rest), len(HERITABILITIES)))
    if not dosages.shape[1]:
        return found
    for number in np.unique(fold):
        out = fold == number
        values, vectors = np.linalg.eigh(dosages[~out].T @ dosages[~out])
        shared = vectors.T @ (dosages[~out].T @ rest[~out])  # [variants, traits]
        turned = dosages[out] @ vectors
        for at, heritability in enumerate(HERITABILITIES):
            penalty = dosages.shape[1] * (1 - heritability) / heritability
            found[:, out, at] = (turned @ (shared / (values + penalty)[:, None])).T
    return found


def _level_1(predictors: np.ndarray, rest: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Weights of the predictors [samples, predictors]: those fitted without the sample's own fold, at the penalty that
    predicts best out of fold.
    """
    spread = predictors.std(axis=0)
    scaled = predictors / np.where(spread > 0, spread, 1)
    best, chosen = np.inf, np.zeros_like(predictors)
    for heritability in HERITABILITIES:
        penalty = predictors.shape[1] * (1 - heritability) / heritability
        weights = np.zeros_like(predictors)
        for number in np.unique(fold):
            out = fold == number
            gram = scaled[~out].T @ scaled[~out] + penalty * np.eye(scaled.shape[1])
            weights[out] = np.linalg.solve(gram, scaled[~out].T @ rest[~out])
        error = ((rest - (scaled * weights).sum(axis=1)) ** 2).mean()
        if error < best:
            best, chosen = error, weights
    return chosen / np.where(spread > 0, spread, 1)
