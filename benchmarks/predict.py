"""Scoring throughput, and the latency of one patient through `ehrseq serve` under many clients.

    uv run python benchmarks/predict.py --patients 300 --clients 32

A hospital is generated and a small model trained below `--out` (kept for the next time). Then: `predict` in batch,
without and with reasons, in patients per second with the ratio to the bare compiled forward pass on the same packed
batches; and p50 and p99 of requests that `--clients` clients send one after another over HTTP, for records that are new
to the service and for records it has seen. CPU seconds where the work is ours alone, wall seconds over HTTP.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jax
import numpy as np

import ehrseq
from ehrseq.core.dataset import versions
from ehrseq.core.measure import peak_rss_bytes
from ehrseq.deploy.generated import hospital
from ehrseq.deploy.pipeline import run
from ehrseq.deploy.predict import asked_of
from ehrseq.deploy.registry import add, find_model
from ehrseq.deploy.scoring import Predictor
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training.config import TrainConfig
from ehrseq.training.predict import prediction_loader, scorer
from ehrseq.training.step import on_device

SMALL = {"epochs": 1, "context": 256, "row_length": 256}
TOKEN = "benchmark-of-predict"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "ehrseq-predict")
    given = parser.parse_args()
    data = hospital(given.out / "hospital", patients=given.patients, seed=given.seed)
    done = run("mimic_iv", data, given.out / "run", config=TrainConfig.from_dict(SMALL))
    add(done.out, "bench", models=given.out / "models")
    batch(given, done.out)
    served(given, done.out)


def batch(given: argparse.Namespace, folder: Path) -> None:
    version = find_model("bench", given.out / "models")
    store = TokenStore.open(folder / "tokens")
    asked = asked_of(version, folder / "timeline", "now", version.tasks)
    patients = asked["subject_id"].n_unique()
    predictor = Predictor(version)
    floor = _cpu(lambda: _forward(version, store, predictor, asked), given.runs)
    for name, reasons in (("predict", 0), ("predict with reasons", 10)):
        seconds = _cpu(lambda reasons=reasons: predictor.answer(store, asked, reasons=reasons), given.runs)
        _print(name, rows=patients, cpu_seconds=seconds, patients_per_second=patients / seconds,
               floor={"name": "forward pass", "cpu_seconds": floor}, ratio_to_floor=seconds / floor)  # fmt: skip


def _forward(version: Any, store: TokenStore, predictor: Predictor, asked: Any) -> None:
    """The compiled forward pass over batches that are packed already."""
    if not hasattr(_forward, "batches"):
        examples: Examples = predictor.answer(store, asked, reasons=0).examples
        loader = prediction_loader(version.trained.config, store, examples, np.arange(len(examples)))
        _forward.batches = [on_device(one) for one in loader.epoch()]  # type: ignore[attr-defined]
        _forward.call = scorer(version.trained.config, version.trained.inputs).forward  # type: ignore[attr-defined]
    for one in _forward.batches:  # type: ignore[attr-defined]
        jax.block_until_ready(_forward.call(version.trained.parameters, one))  # type: ignore[attr-defined]


def served(given: argparse.Namespace, folder: Path) -> None:
    ehrseq.export_fhir(folder / "fhir", given.out / "bundles", form="bundles")
    people = [
        path
        for path in sorted((given.out / "bundles").rglob("*.json"))
        if '"resourceType":"Patient"' in path.read_text()
    ]
    hooks = [_hook(json.loads(path.read_text())) for path in people[: 4 * given.clients]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "ehrseq.cli",
        "serve",
        "bench",
        "--models",
        str(given.out / "models"),
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, env={**os.environ, "EHRSEQ_TOKEN": TOKEN}, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url)
        with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=600) as client:
            for name in ("serve, new records", "serve, records seen before"):
                with ThreadPoolExecutor(given.clients) as pool:
                    began = time.perf_counter()
                    taken = list(pool.map(lambda body: _ask(client, url, body), hooks))
                    seconds = time.perf_counter() - began
                p50, p99 = np.quantile(taken, [0.5, 0.99])
                told = {"clients": given.clients, "load_average": os.getloadavg()[0]}
                told |= {"p50_seconds": float(p50), "p99_seconds": float(p99)}
                _print(
                    name, rows=len(hooks), seconds=seconds, patients_per_second=len(hooks) / seconds, **told
                )
    finally:
        server.terminate()
        server.wait()


def _hook(bundle: dict[str, Any]) -> bytes:
    patient = next(one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "Patient")
    rest = [one for one in bundle["entry"] if one["resource"]["resourceType"] != "Patient"]
    record = {"resourceType": "Bundle", "type": "searchset", "entry": rest}
    return json.dumps({"hook": "patient-view", "prefetch": {"patient": patient, "record": record}}).encode()


def _ask(client: httpx.Client, url: str, body: bytes) -> float:
    began = time.perf_counter()
    answer = client.post(f"{url}/cds-services/bench", content=body)
    answer.raise_for_status()
    return time.perf_counter() - began


def _wait(url: str) -> None:
    for _ in range(3000):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the service did not get ready")


def _cpu(work: Any, runs: int) -> float:
    """Least CPU seconds of `runs`, after one that warms up."""
    work()
    spent = []
    for _ in range(runs):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def _print(name: str, **told: Any) -> None:
    device = f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    line = {
        "name": name,
        **told,
        "peak_rss_bytes": peak_rss_bytes(),
        "versions": versions(),
        "device": device,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
