"""Association: against scikit-learn-free oracles on small data of our own, and what it refuses."""

import numpy as np
import pytest
from scipy import optimize, stats

from ehrseq.adapters.genomics.association import (
    MONOMORPHIC,
    associate,
    lambda_gc,
    principal_components,
)
from ehrseq.adapters.genomics.gwas_figures import manhattan_plot, quantile_plot
from ehrseq.adapters.genomics.plink import read_plink
from ehrseq.adapters.genomics.ridge import leave_one_out
from ehrseq.core.errors import ModelError, ShapeError, SourceError

RNG = np.random.default_rng(3)
SAMPLES = 120
GENOTYPES = RNG.binomial(2, RNG.uniform(0.1, 0.5, (30, 1)), (30, SAMPLES)).astype(float)
COVARIATES = RNG.normal(size=(SAMPLES, 2))
LINE = 0.9 * GENOTYPES[0] - 0.8 + 0.5 * COVARIATES[:, 0]
BINARY = (RNG.uniform(size=SAMPLES) < 1 / (1 + np.exp(-LINE))).astype(float)
AMOUNT = LINE + RNG.normal(size=SAMPLES)


def design(*columns):
    return np.column_stack([np.ones(SAMPLES), COVARIATES, *columns])


def test_a_linear_test_is_that_of_least_squares_with_the_variance_of_the_null():
    found = associate(GENOTYPES, AMOUNT[:, None], COVARIATES, binary=False)
    projector = np.eye(SAMPLES) - design() @ np.linalg.pinv(design())
    rest, variants = projector @ AMOUNT, GENOTYPES @ projector
    variance = rest @ rest / (SAMPLES - 3)
    expected = (variants @ rest) ** 2 / (variance * (variants**2).sum(axis=1))
    np.testing.assert_allclose(found.chi2[:, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(found.log10p[:, 0], -np.log10(stats.chi2.sf(expected, 1)), rtol=1e-9)


def test_a_score_test_is_that_of_the_fitted_null_model():
    found = associate(GENOTYPES, BINARY[:, None], COVARIATES, binary=True, firth_below=0)

    def loss(b):
        line = design() @ b
        return np.logaddexp(0, line).sum() - BINARY @ line

    b = optimize.minimize(loss, np.zeros(3), tol=1e-14).x
    p = 1 / (1 + np.exp(-design() @ b))
    w = p * (1 - p)
    for variant in range(3):
        g = GENOTYPES[variant]
        rest = g - design() @ np.linalg.solve(design().T @ (w[:, None] * design()), design().T @ (w * g))
        assert found.chi2[variant, 0] == pytest.approx((rest @ (BINARY - p)) ** 2 / (w @ rest**2), rel=1e-4)


def test_firth_is_near_the_joint_penalised_likelihood():
    found = associate(GENOTYPES[:1], BINARY[:, None], COVARIATES, binary=True, firth_below=1)
    whole = design(GENOTYPES[0])

    def loss(b):
        line = whole @ b
        p = 1 / (1 + np.exp(-line))
        information = whole.T @ ((p * (1 - p))[:, None] * whole)
        return np.logaddexp(0, line).sum() - BINARY @ line - 0.5 * np.linalg.slogdet(information)[1]

    full = optimize.minimize(loss, np.zeros(4))
    null = optimize.minimize(lambda b: loss(np.append(b, 0.0)), np.zeros(3))
    assert found.firth[0, 0]
    assert found.beta[0, 0] == pytest.approx(full.x[-1], rel=0.05)
    assert found.chi2[0, 0] == pytest.approx(2 * (null.fun - full.fun), abs=0.05)


def test_a_perfectly_separated_variant_has_an_end_with_firth():
    trait = (GENOTYPES[1] > 0).astype(float)
    found = associate(GENOTYPES[1:2], trait[:, None], COVARIATES, binary=True)
    assert np.isfinite(found.beta[0, 0])
    assert found.log10p[0, 0] > 5


def test_a_variant_that_does_not_vary_is_said_to_be_so():
    still = np.vstack([np.ones(SAMPLES), np.full(SAMPLES, np.nan), GENOTYPES[0]])
    found = associate(still, BINARY[:, None], COVARIATES, binary=True)
    assert found.note[:2, 0].tolist() == [MONOMORPHIC] * 2
    assert np.isnan(found.log10p[:2]).all()
    assert np.isfinite(found.log10p[2])


def test_missing_traits_count_for_their_trait_alone():
    traits = np.column_stack([AMOUNT, AMOUNT])
    traits[:40, 1] = np.nan
    both = associate(
        GENOTYPES,
        traits,
        COVARIATES,
        binary=False,
    )
    alone = associate(GENOTYPES[:, 40:], AMOUNT[40:, None], COVARIATES[40:], binary=False)
    np.testing.assert_allclose(both.chi2[:, 1], alone.chi2[:, 0], rtol=1e-8)


@pytest.mark.parametrize("binary", [True, False])
def test_fewer_samples_than_covariates_are_refused(binary):
    with pytest.raises(ShapeError, match="more samples than covariates"):
        associate(GENOTYPES[:, :5], BINARY[:5, None], RNG.normal(size=(5, 6)), binary=binary)


def test_a_trait_that_a_covariate_separates_is_refused():
    with pytest.raises(ModelError, match="separated perfectly"):
        associate(GENOTYPES, BINARY[:, None], BINARY[:, None] * 2 - 1, binary=True)


def test_components_find_two_populations_and_take_away_their_inflation():
    groups = np.repeat([0, 1], SAMPLES // 2)
    shares = np.stack([RNG.uniform(0.1, 0.9, 400), RNG.uniform(0.1, 0.9, 400)])
    many = RNG.binomial(2, shares[groups].T).astype(float)
    trait = (groups + RNG.normal(size=SAMPLES))[:, None]
    parts = principal_components(many, 2)
    assert abs(np.corrcoef(parts[:, 0], groups)[0, 1]) > 0.95
    assert lambda_gc(associate(many, trait, np.empty((SAMPLES, 0)), binary=False).chi2) > 3
    assert lambda_gc(associate(many, trait, parts, binary=False).chi2) < 1.5


def test_predictions_leave_their_own_chromosome_out():
    many = RNG.binomial(2, 0.4, (60, SAMPLES)).astype(float)
    chromosomes = np.repeat(["1", "2", "3"], 20)
    trait = (many[:20].sum(axis=0) + RNG.normal(size=SAMPLES))[:, None]  # all of it from chromosome 1
    offsets = leave_one_out(many, chromosomes, trait, np.empty((SAMPLES, 0)), block=10)
    fits = {name: abs(np.corrcoef(offsets[name][:, 0], trait[:, 0])[0, 1]) for name in "123"}
    assert fits["2"] > 0.6
    assert fits["3"] > 0.6
    assert fits["1"] < 0.3
    plain, with_offset = (
        associate(many[20:], trait, np.empty((SAMPLES, 0)), binary=False, offsets=offset)
        for offset in (None, offsets["2"])
    )
    assert np.isfinite(with_offset.chi2).all()
    assert not np.allclose(plain.chi2, with_offset.chi2)


def test_one_chromosome_leaves_nothing_over():
    found = leave_one_out(GENOTYPES, np.repeat("1", 30), AMOUNT[:, None], COVARIATES)
    assert not found["1"].any()


def test_figures_are_written(tmp_path):
    found = associate(GENOTYPES, AMOUNT[:, None], COVARIATES, binary=False)
    chi2, log10p = found.chi2[:, 0], found.log10p[:, 0]
    quantile_plot(chi2, log10p, tmp_path / "qq.png", "trait")
    manhattan_plot(
        np.repeat(["1", "2"], 15), np.tile(np.arange(15.0), 2), log10p, tmp_path / "m.png", "trait"
    )
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("qq.png", "m.png"))


def test_plink_files_give_what_was_packed(tmp_path):
    counts = np.array([[0, 1, 2, -1, 0], [2, 2, 1, 0, -1]], np.int8)
    codes = {2: 0, -1: 1, 1: 2, 0: 3}
    packed = bytearray(b"\x6c\x1b\x01")
    for row in counts:
        padded = [codes[int(count)] for count in row] + [0] * 3
        packed += bytes(sum(code << (2 * k) for k, code in enumerate(padded[at : at + 4])) for at in (0, 4))
    (tmp_path / "a.bed").write_bytes(packed)
    (tmp_path / "a.bim").write_text("1 rs1 0 10 A G\n23\trs2\t0\t20\tT\tC\n")
    (tmp_path / "a.fam").write_text("".join(f"f s{n} 0 0 1 -9\n" for n in range(5)))
    panel = read_plink(tmp_path / "a.bed")
    assert panel.counts.tolist() == counts.tolist()
    assert panel.variants["position"].to_list() == [10, 20]
    (tmp_path / "a.fam").write_text("f s0 0 0 1 -9\n")
    with pytest.raises(SourceError, match="no PLINK 1 file of 2 variants and 1 samples"):
        read_plink(tmp_path / "a.bed")


def test_bed_and_pgen_of_regenie_are_the_same(data_dir):
    folder = data_dir / "genomics" / "regenie-example"
    bed, pgen = read_plink(folder / "example.bed"), read_plink(folder / "example.pgen")
    assert bed.counts.shape == (1000, 500)
    assert (bed.counts == pgen.counts).all()
