"""Genome-wide association in JAX: every variant against every trait, in a few matrix products.

As regenie does it (Mbatchou et al. 2021, Nature Genetics 53): a whole-genome ridge prediction without the chromosome
at hand is the offset (`ehrseq.adapters.genomics.ridge`), a score test is made for every variant, and where it is below
`firth_below` for a binary trait, Firth's penalised likelihood ratio takes its place. All in float64.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_ndtr  # type: ignore[import-untyped]

from ehrseq.core.errors import ModelError, ShapeError

TESTED, MONOMORPHIC, NOT_CONVERGED = 0, 1, 2
"""What became of a variant and trait: tested; one genotype only among the trait's samples; Firth without an end."""
_ITERATIONS, _TOLERANCE = 50, 1e-10
_AT_ONCE = 4096  # variants in one product


@dataclass(frozen=True, slots=True)
class Associations:
    """[variants, traits] float64: effect of an allele (log odds of a binary trait), its standard error, chi square (1
    df), -log10 p; `note` uint8; `firth` whether Firth's test took the place of the score test.
    """

    beta: np.ndarray
    error: np.ndarray
    chi2: np.ndarray
    log10p: np.ndarray
    note: np.ndarray
    firth: np.ndarray


def associate(
    genotypes: np.ndarray,
    traits: np.ndarray,
    covariates: np.ndarray,
    *,
    binary: bool,
    offsets: np.ndarray | None = None,
    firth_below: float = 0.01,
) -> Associations:
    """Test every variant against every trait.

    genotypes: [variants, samples] counts of an allele or dosages; NaN or negative: missing, taken as the mean.
    traits: [samples, traits], of binary ones 0 and 1; NaN: the sample does not count for that trait.
    covariates: [samples, covariates], without the intercept, without missing values.
    binary: logistic or linear models.
    offsets: [samples, traits], predictions from the other chromosomes (log odds, or in units of the trait).
    firth_below: p below which a binary trait is tested again by Firth's method; 0 for never.

    Raises: ShapeError if shapes differ, or samples are not more than covariates; ModelError for a trait that is
    constant, or that covariates separate perfectly.
    """
    genotypes, traits = np.asarray(genotypes), np.asarray(traits, np.float64)
    covariates = np.asarray(covariates, np.float64).reshape(len(traits), -1)
    offsets = np.zeros_like(traits) if offsets is None else np.asarray(offsets, np.float64)
    _check(genotypes, traits, covariates, offsets)
    with jax.enable_x64(True):
        there = ~np.isnan(traits)
        outcomes = np.where(there, traits, 0.0)
        basis = basis_of(covariates)
        known = (jnp.array(outcomes), jnp.array(there, jnp.float64), basis, jnp.array(offsets))
        null = _null_logistic(*known) if binary else _null_linear(*known)
        penalised = null[0]
        if binary:
            _check_null(np.asarray(null[0]), there)
            penalised = _null_logistic(*known, penalty=True)[0]
        parts = [
            _tested(
                genotypes[at : at + _AT_ONCE],
                outcomes,
                there,
                basis,
                null,
                penalised,
                firth_below if binary else 0,
            )
            for at in range(0, len(genotypes), _AT_ONCE)
        ]
    return Associations(*(np.concatenate(found) for found in zip(*parts, strict=True)))


def _check(genotypes: np.ndarray, traits: np.ndarray, covariates: np.ndarray, offsets: np.ndarray) -> None:
    shapes = (genotypes.shape[-1], offsets.shape)
    if genotypes.ndim != 2 or traits.ndim != 2 or shapes != (len(traits), traits.shape):
        raise ShapeError(
            f"genotypes {genotypes.shape}, traits {traits.shape}, offsets {offsets.shape}: expected "
            "[variants, samples], [samples, traits] and the same again."
        )
    if np.isnan(covariates).any():
        raise ShapeError("covariates have missing values: leave the samples out, or fill them in.")
    counts = (~np.isnan(traits)).sum(axis=0)
    if (counts <= covariates.shape[1] + 2).any():
        raise ShapeError(
            f"trait {int(counts.argmin())} has {int(counts.min())} samples and {covariates.shape[1]} covariates: a "
            "test needs more samples than covariates, intercept and variant together. Take fewer covariates."
        )
    spread = np.nanmax(traits, axis=0) - np.nanmin(traits, axis=0)
    if (spread == 0).any():
        raise ModelError(f"trait {int(spread.argmin())} has one value only; there is nothing to explain.")


def _check_null(fitted: np.ndarray, there: np.ndarray) -> None:
    certain = (np.minimum(fitted, 1 - fitted) < 1e-9) & there
    if (alone := certain.any(axis=0)).any():
        raise ModelError(
            f"trait {int(alone.argmax())} is separated perfectly by its covariates: no variant can add to that. Leave "
            "out the covariate that says the same as the trait."
        )


def basis_of(covariates: np.ndarray) -> Array:
    """Orthonormal columns [samples, covariates + 1] that span the covariates and the intercept."""
    whole = np.column_stack([np.ones(len(covariates)), covariates])
    scale = np.linalg.norm(whole, axis=0)
    u, s, _ = np.linalg.svd(whole / np.where(scale > 0, scale, 1), full_matrices=False)
    return jnp.array(u[:, s > 1e-8 * s[0]])


def _tested(
    genotypes: np.ndarray, traits: np.ndarray, there: np.ndarray, basis: Array, null: tuple[Array, ...],
    penalised: Array, firth_below: float,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dosages = filled(genotypes)
    found = _score(jnp.array(dosages), jnp.array(traits), jnp.array(there, jnp.float64), basis, *null)
    beta, error, chi2, varies = (np.array(part) for part in found)
    note = np.where(varies, TESTED, MONOMORPHIC).astype(np.uint8)
    again = np.zeros(chi2.shape, bool)
    if firth_below > 0:
        offsets = np.log(np.asarray(penalised)) - np.log1p(-np.asarray(penalised))
        weights = np.asarray(null[1])
        again = varies & (_log10p(chi2) > -np.log10(firth_below))
        rows, columns = np.nonzero(again)
        for at in range(0, len(rows), _AT_ONCE // 8):
            pick = slice(at, at + _AT_ONCE // 8)
            size = _AT_ONCE // 8  # one shape, compiled once: the last part is filled up
            row, column = (np.resize(index[pick], size) for index in (rows, columns))
            mask = there.T[column].astype(float)
            fitted = firth(dosages[row], traits.T[column], mask, basis, offsets.T[column], weights.T[column])
            for whole, part in zip((beta, error, chi2), fitted[:3], strict=True):
                whole[rows[pick], columns[pick]] = np.asarray(part)[: len(rows[pick])]
            ended = np.asarray(fitted[3])[: len(rows[pick])]
            note[rows[pick], columns[pick]] = np.where(ended, TESTED, NOT_CONVERGED)
    for part in (beta, error, chi2):
        part[note != TESTED] = np.nan
    return beta, error, chi2, _log10p(chi2), note, again


def filled(genotypes: np.ndarray) -> np.ndarray:
    """Float64, the missing as the mean of their variant."""
    dosages = genotypes.astype(np.float64)
    dosages[dosages < 0] = np.nan
    known = ~np.isnan(dosages)
    mean = np.where(known, dosages, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(known, dosages, mean[:, None])


def _log10p(chi2: np.ndarray) -> np.ndarray:
    """-log10 of the upper tail of chi square with one degree of freedom, exact far beyond the smallest float."""
    return np.asarray(-(log_ndtr(-np.sqrt(chi2)) + np.log(2)) / np.log(10))


@jax.jit
def _null_linear(traits: Array, there: Array, basis: Array, offsets: Array) -> tuple[Array, Array, Array]:
    """(fitted values, weights, residual variance) of the model without a variant: [samples, traits] twice, [traits]."""

    def one(trait: Array, mask: Array, offset: Array) -> tuple[Array, Array]:
        gram = basis.T @ (mask[:, None] * basis)
        fitted = offset + basis @ jnp.linalg.solve(gram, basis.T @ (mask * (trait - offset)))
        freedom = mask.sum() - basis.shape[1]
        return fitted, (mask * (trait - fitted) ** 2).sum() / freedom

    fitted, variance = jax.vmap(one, in_axes=1, out_axes=(1, 0))(traits, there, offsets)
    return fitted, there / variance, variance


@partial(jax.jit, static_argnames="penalty")
def _null_logistic(
    traits: Array, there: Array, basis: Array, offsets: Array, penalty: bool = False
) -> tuple[Array, Array, Array]:
    """As `_null_linear`, by Newton's method; the fitted values are probabilities, the variance is 1. With `penalty`, by
    Firth's likelihood.
    """

    def one(trait: Array, mask: Array, offset: Array) -> Array:
        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            weights, _, count = state
            p = jax.nn.sigmoid(offset + basis @ weights)
            weighted = (mask * p * (1 - p))[:, None] * basis
            gram = basis.T @ weighted + 1e-12 * jnp.eye(basis.shape[1])
            rest = trait - p
            if penalty:
                rest += (jnp.linalg.solve(gram, weighted.T).T * basis).sum(axis=1) * (0.5 - p)
            move = jnp.linalg.solve(gram, basis.T @ (mask * rest))
            move = move * jnp.minimum(1.0, 20.0 / (jnp.abs(move).max() + 1e-30))
            return weights + move, jnp.abs(move).max(), count + 1

        start = (jnp.zeros(basis.shape[1]), jnp.array(jnp.inf), jnp.array(0))
        weights, _, _ = jax.lax.while_loop(lambda s: (s[1] > _TOLERANCE) & (s[2] < _ITERATIONS), step, start)
        return jax.nn.sigmoid(offset + basis @ weights)

    p = jax.vmap(one, in_axes=1, out_axes=1)(traits, there, offsets)
    return p, there * p * (1 - p), jnp.ones(traits.shape[1])


@jax.jit
def _score(
    dosages: Array, traits: Array, there: Array, basis: Array, fitted: Array, weights: Array, variance: Array
) -> tuple[Array, Array, Array, Array]:
    """Score tests: [variants, traits] effect, standard error, chi square, and whether the variant varies at all."""
    scores = dosages @ (there * (traits - fitted) / variance)  # [variants, traits]
    own = (dosages**2) @ weights

    def explained(weight: Array) -> Array:
        """Of each variant's information, what the covariates have already."""
        gram = basis.T @ (weight[:, None] * basis)
        shared = dosages @ (weight[:, None] * basis)  # [variants, covariates]
        return jnp.sum(shared * jnp.linalg.solve(gram, shared.T).T, axis=1)

    information = own - jax.vmap(explained, in_axes=1, out_axes=1)(weights)
    varies = information > 1e-9 * jnp.maximum(own, 1.0)
    information = jnp.where(varies, information, 1.0)
    return scores / information, 1 / jnp.sqrt(information), scores**2 / information, varies


@jax.jit
def firth(
    dosages: Array, traits: Array, there: Array, basis: Array, offsets: Array, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """Firth's likelihood ratio test of one effect for each pair of a variant and a trait.

    The covariates' effects stay those of the (penalised) model without the variant, and the variant is what its
    covariates do not explain of it: regenie's approximation. All but `basis` [pairs, samples]; `weights` those of the
    model without the variant. Returns effect, standard error, chi square, and whether it converged: [pairs].

    Source: Firth 1993; Heinze, Schemper 2002.
    """

    def pair(
        dosage: Array, trait: Array, mask: Array, offset: Array, weight: Array
    ) -> tuple[Array, Array, Array, Array]:
        gram = basis.T @ (weight[:, None] * basis)
        rest = dosage - basis @ jnp.linalg.solve(gram, basis.T @ (weight * dosage))

        def likelihood(beta: Array) -> Array:
            line = offset + beta * rest
            p = jax.nn.sigmoid(line)
            ordinary = jnp.sum(mask * (trait * line - jax.nn.softplus(line)))
            return ordinary + 0.5 * jnp.log(jnp.sum(mask * p * (1 - p) * rest**2))

        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            beta, _, count = state
            p = jax.nn.sigmoid(offset + beta * rest)
            information = (mask * p * (1 - p) * rest**2).sum()
            move = jax.grad(likelihood)(beta) / information
            move = jnp.clip(move, -2.0, 2.0)
            # half the step until the likelihood no longer falls
            before = likelihood(beta)
            halves = move * 0.5 ** jnp.arange(8)
            good = jax.vmap(lambda m: likelihood(beta + m))(halves) >= before - 1e-12
            move = jnp.where(good.any(), halves[jnp.argmax(good)], 0.0)
            return beta + move, jnp.abs(move), count + 1

        start = (jnp.array(0.0), jnp.array(jnp.inf), jnp.array(0))
        beta, last, _ = jax.lax.while_loop(lambda s: (s[1] > 1e-8) & (s[2] < 250), step, start)
        p = jax.nn.sigmoid(offset + beta * rest)
        error = 1 / jnp.sqrt((mask * p * (1 - p) * rest**2).sum())
        ratio = 2 * (likelihood(beta) - likelihood(jnp.array(0.0)))
        return beta, error, jnp.maximum(ratio, 0.0), (last <= 1e-8) & jnp.isfinite(beta)

    return jax.vmap(pair)(dosages, traits, there, offsets, weights)


def principal_components(genotypes: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of samples [samples, count], of unit length, from [variants, samples] counts.

    Variants are centred and scaled by their binomial deviation; those that do not vary are left out.
    Source: Patterson, Price, Reich 2006.
    """
    dosages = filled(genotypes)
    share = dosages.mean(axis=1, keepdims=True) / 2
    scale = np.sqrt(2 * share * (1 - share))
    kept = scale[:, 0] > 1e-6
    scaled = (dosages[kept] - 2 * share[kept]) / scale[kept]
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    return np.asarray(vectors[:, ::-1][:, :count])


def lambda_gc(chi2: np.ndarray) -> float:
    """Genomic inflation: the median chi square over that of no association. Source: Devlin, Roeder 1999."""
    return float(np.nanmedian(chi2) / 0.4549364231195724)
