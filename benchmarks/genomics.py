"""Genomes to FHIR and timeline, ancestry from their tokens, one large sample, and association tests by the second.

    python benchmarks/genomics.py ../shared/data/genomics

`kg`: 2,504 genomes of `1kg-chr1-2504`, `ehrseq map vcf` and `ehrseq timeline`; ancestry: super-population by logistic
regression on the VAR events of a timeline, 5 folds, beside the commonest class. `single`: an invented VCF of `--rows`
heterozygous variants of one sample. `association`: invented genotypes, 2 binary traits. Floor: decompressing the file,
or one matrix product of the same genotypes and traits.
"""

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import ehrseq
from ehrseq.adapters.genomics.association import associate
from ehrseq.core.measure import peak_rss_bytes


def line(name: str, rows: int, start: tuple[float, float], floor: tuple[str, float], **more: object) -> None:
    """Print one measurement. `start`: wall and CPU seconds at its beginning; `floor`: name and CPU seconds."""
    cpu = time.process_time() - start[1]
    print(json.dumps({
        "name": name, "rows": rows, "seconds": round(time.perf_counter() - start[0], 2), "cpu_seconds": round(cpu, 2),
        "rows_per_cpu_second": round(rows / cpu), "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": floor[0], "cpu_seconds": round(floor[1], 3)}, "ratio_to_floor": round(cpu / floor[1], 1),
        "versions": {"polars": pl.__version__, "ehrseq": ehrseq.__version__}, "device": "cpu", **more,
    }), flush=True)  # fmt: skip


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def inflate(path: Path) -> float:
    start = time.process_time()
    with gzip.open(path) as file:
        while file.read(1 << 24):
            pass
    return time.process_time() - start


def genomes(data: Path, work: Path) -> None:
    """2,504 genomes to FHIR and timeline, and what their tokens say of ancestry."""
    source = data / "1kg-chr1-2504"
    panel = pl.read_csv(
        next(source.glob("*.panel")), separator="\t", has_header=False, skip_rows=1, truncate_ragged_lines=True,
        new_columns=["sample", "pop", "super_pop", "sex"], columns=[0, 1, 2, 3],
    )  # fmt: skip
    folder = work / "kg"
    folder.mkdir()
    (folder / "a.vcf.gz").symlink_to((source / "example.vcf.gz").resolve())
    panel.select("sample", "sex", reported=pl.lit("2013-05-02 12:00:00")).write_csv(folder / "samples.csv")
    floor = inflate(folder / "a.vcf.gz")
    start = now()
    ehrseq.map("vcf", folder, work / "fhir")
    ehrseq.timeline(work / "fhir", work / "timeline")
    line("genomes to FHIR to timeline", 4296 * 2504, start, ("gunzip", floor))
    events = pl.concat(
        pl.read_parquet(path) for path in sorted((work / "timeline" / "data").rglob("*.parquet"))
    )
    tokens = events.filter(pl.col("code").str.starts_with("VAR//"))
    patients = pl.concat(
        pl.read_parquet(path) for path in sorted((work / "fhir" / "Patient").glob("*.parquet"))
    )
    from ehrseq.fhir.ids import subject_id

    sample = pl.col("identifier").list.first().struct["value"]
    known = patients.select(subject_id=subject_id(pl.col("id")), sample=sample)
    people = known.join(panel, on="sample")
    rows = tokens.join(people.with_row_index("row"), on="subject_id").select(
        "row", pl.col("code").rank("dense")
    )
    shape = (people.height, rows["code"].max())
    counts = csr_matrix((np.ones(rows.height), (rows["row"], rows["code"] - 1)), shape=shape)
    labels = people["super_pop"].to_numpy()
    score = cross_val_score(LogisticRegression(max_iter=500), counts, labels, cv=5).mean()
    most = people["super_pop"].value_counts()["count"].max() / people.height
    print(json.dumps({"results": [
        {"task": "super-population from rare VAR tokens", "model": "logistic regression", "metric": "accuracy",
         "value": round(float(score), 3), "n": people.height, "commonest_class": round(most, 3)},
    ]}), flush=True)  # fmt: skip


def single(rows: int, work: Path) -> None:
    """One sample with many variants of unknown frequency: each is reported."""
    folder = work / "single"
    folder.mkdir()
    names = "#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT s".replace(" ", "\t")
    head = f"##fileformat=VCFv4.2\n##contig=<ID=1,length=249250621>\n{names}\n"
    body = "".join(
        f"1\t{1000 + 7 * n}\t.\tA\tG\t50\tPASS\tDP=30\tGT:AD:DP\t0/1:15,15:30\n" for n in range(rows)
    )
    (folder / "a.vcf.gz").write_bytes(gzip.compress((head + body).encode()))
    (folder / "samples.csv").write_text("sample,patient,reported\ns,1,2020-01-01\n")
    floor = inflate(folder / "a.vcf.gz")
    start = now()
    ehrseq.map("vcf", folder, work / "single_fhir")
    line("one sample to FHIR", rows, start, ("gunzip", floor))


def association(seed: int) -> None:
    """Variants by the second, times traits; the second run, as the first one compiles."""
    rng = np.random.default_rng(seed)
    genotypes = rng.binomial(2, 0.3, (8192, 2000)).astype(np.int8)
    traits, covariates = rng.integers(0, 2, (2000, 2)).astype(float), rng.normal(size=(2000, 3))
    associate(genotypes, traits, covariates, binary=True)
    start = time.process_time()
    _ = genotypes.astype(np.float64) @ traits
    floor = time.process_time() - start
    start = now()
    associate(genotypes, traits, covariates, binary=True)
    speed = round(genotypes.shape[0] * traits.shape[1] / (time.perf_counter() - start[0]))
    line("association", 8192 * 2, start, ("one product", floor), variants_per_second_times_traits=speed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        single(chosen.rows, Path(folder))
        genomes(chosen.data, Path(folder))
    association(chosen.seed)


if __name__ == "__main__":
    main()
