"""Figures of an association: observed against expected p, and p along the genome."""

from pathlib import Path

import numpy as np

from ehrseq.adapters.genomics.association import lambda_gc

GENOME_WIDE = 5e-8
"""The customary threshold: 0.05 over a million independent variants. Source: Pe'er et al. 2008."""


def quantile_plot(chi2: np.ndarray, log10p: np.ndarray, out: Path, title: str) -> None:
    """Write a QQ plot with its genomic inflation. `chi2` and `log10p` [variants]; NaN is left out."""
    from matplotlib.figure import Figure

    seen = np.sort(log10p[np.isfinite(log10p)])[::-1]
    expected = -np.log10((np.arange(len(seen)) + 0.5) / len(seen))
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    top = max(expected.max(), seen.max()) * 1.05
    axes.plot([0, top], [0, top], color="0.6", linewidth=1)
    axes.scatter(expected, seen, s=8, color="#1f5a96")
    about = f"{title}\nλGC {lambda_gc(chi2):.3f}, {len(seen):,} variants"
    axes.set(xlabel="expected −log10 p", ylabel="observed −log10 p", title=about)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


def manhattan_plot(
    chromosomes: np.ndarray, positions: np.ndarray, log10p: np.ndarray, out: Path, title: str
) -> None:
    """Write a Manhattan plot: chromosomes side by side in their order, positions within. All arrays [variants]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    start, ticks = 0.0, []
    for number, name in enumerate(dict.fromkeys(chromosomes.tolist())):
        mine = chromosomes == name
        place = start + positions[mine] - positions[mine].min()
        axes.scatter(place, log10p[mine], s=6, color=("#1f5a96", "#7a9cbf")[number % 2])
        ticks.append(((start + place.max()) / 2, str(name)))
        start = place.max() + 0.02 * positions.max()
    axes.axhline(-np.log10(GENOME_WIDE), color="#b03030", linewidth=1, linestyle="--")
    axes.set_xticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.set(xlabel="chromosome", ylabel="−log10 p", title=title, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
