"""Time the HL7 v2 reader on messages of its own making against splitting the same text into fields.

    python benchmarks/hl7v2.py --messages 20000 --seed 0

Admissions, results with five values, and discharges, each message different from all others. Measured: every segment
table of `fhir_mappings/hl7v2`, as typed rows. Floor: Python splits the same text into messages, segments and fields.
`--map` times `ehrseq map hl7v2` instead, with FHIR at the end.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np

import ehrseq
from ehrseq.core import progress
from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter
from ehrseq.mapping.check import find_source, load_mappings
from ehrseq.sources.tables import read_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--map", action="store_true")
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "data" / "messages.hl7"
        path.parent.mkdir()
        path.write_bytes(messages(chosen.messages, chosen.seed).encode())
        meter = Meter()
        if chosen.map:
            ehrseq.map("hl7v2", path.parent, folder / "fhir", validate="none")
        else:
            for table in load_mappings(find_source("hl7v2")).source.tables.values():
                for _ in read_batches(table, [(path, path.name)]):
                    pass
        spent, meter = meter.read(), Meter()
        [[line.split("|") for line in text.split("\r")] for text in path.read_bytes().decode().split("\rMSH")]
        floor = meter.read()["cpu_seconds"]
    record = {
        "name": "hl7v2.map" if chosen.map else "hl7v2.read",
        "messages": chosen.messages,
        **spent,
        "messages_per_cpu_second": round(chosen.messages / spent["cpu_seconds"]),
        "floor": {"name": "split into messages, segments and fields", "cpu_seconds": floor},
        "ratio_to_floor": round(spent["cpu_seconds"] / floor, 2),
        "versions": versions(),
        "device": platform.machine(),
    }
    print(json.dumps(record))


def messages(count: int, seed: int) -> str:
    """So many messages, a patient for every ten of them."""
    rng = np.random.default_rng(seed)
    return "\r".join(message(number, rng) for number in range(count)) + "\r"


def message(number: int, rng: np.random.Generator) -> str:
    """One message: two in three carry results."""
    patient, minute = number // 10, f"{number % 1440 // 60:02d}{number % 60:02d}"
    stamp = f"202001{number // 10 % 28 + 1:02d}{minute}"
    kind = ("ADT^A01", "ORU^R01", "ORU^R01")[number % 3]
    head = [
        f"MSH|^~\\&|LAB|HOSPITAL|EHRSEQ|HERE|{stamp}||{kind}|{number}|P|2.5",
        f"PID|1||{patient}^^^HOSPITAL^MR||Family{patient}^Given||19500101|F",
        f"PV1|1|I|WARD^{number % 40}||||||||||||||||{patient}-{number // 50}|||||||||||||||||||||||||{stamp}",
    ]
    if kind.startswith("ADT"):
        return "\r".join([*head, f"DG1|1||I10^Hypertension^I10||{stamp}|A"])
    results = [
        f"OBX|{n}|NM|{718 + n}-7^Test {n}^LN||{rng.integers(10, 2000) / 10}|g/L|5-100|N|||F|||{stamp}"
        for n in range(1, 6)
    ]
    return "\r".join([*head, f"OBR|1|{number}|F{number}|24323-8^Panel^LN|||{stamp}", *results])


if __name__ == "__main__":
    main()
