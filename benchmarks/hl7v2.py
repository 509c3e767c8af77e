"""Messages a second on one core, from a file to all tables: `python benchmarks/hl7v2.py FILE.hl7`."""

import sys
import time
from pathlib import Path

from ehrseq.sources.declaration import load_source
from ehrseq.sources.hl7v2 import read

source = load_source(Path(__file__).resolve().parents[1] / "fhir_mappings" / "hl7v2")
start, count = time.process_time(), 0
for table in source.tables.values():
    for rows, bad in read(table, [(Path(sys.argv[1]), "messages")]):
        count += rows.height + bad.height if table.name == "msh" else 0
seconds = time.process_time() - start
print(f"{count:,} messages in {seconds:.2f} CPU-s: {count / seconds:,.0f} a second")
