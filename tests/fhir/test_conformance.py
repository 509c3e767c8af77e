"""HL7's own examples and primitives: accepted or rejected as they should be, and kept unchanged."""

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import ehrseq
from ehrseq.fhir.dtypes import primitive_dtype
from ehrseq.fhir.formats import malformed
from ehrseq.fhir.json_columns import json_columns
from ehrseq.fhir.strict import resource_fault
from ehrseq.fhir.validate import violations

KINDS: dict[pl.DataType, tuple[type, ...]] = {
    pl.Boolean(): (bool,), pl.Int64(): (int,), pl.Float64(): (int, float), pl.String(): (str,),
}  # fmt: skip


@pytest.fixture(scope="module")
def unpacked(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    names = ["fhir_r4_examples", "fhir_primitives"]
    subprocess.run([data_dir / "unpack", folder, *names], check=True, capture_output=True)
    return folder


def accepted(type_name: str, text: str) -> bool:
    """Whether a JSON value is that of a primitive; null is an absent value."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if type_name in ("reference", "xhtml"):
        return _accepted_within(type_name, value, text)
    if value is None:
        return True
    dtype = primitive_dtype(type_name)
    if not isinstance(value, KINDS[dtype]) or isinstance(value, bool) != (dtype == pl.Boolean):
        return False
    rule = malformed(type_name, pl.col("v"))
    return rule is None or not pl.DataFrame({"v": [value]}, schema={"v": dtype}).select(rule[0]).item()


def _accepted_within(type_name: str, value: Any, text: str) -> bool:
    """A Reference and a narrative are what they are inside a resource."""
    if type_name == "reference":
        whole, kind = {"resourceType": "Basic", "subject": value}, "Basic"
        return resource_fault(whole, kind, set()) is None
    whole = {"resourceType": "Patient", "text": {"status": "generated", "div": value}}
    seen: set[str] = set()
    columns = json_columns(pl.Series([json.dumps(whole)]), "Patient", ["text.status", "text.div"])
    missing = violations(columns, "Patient").filter(pl.col("rule") == "required")
    return resource_fault(whole, "Patient", seen) is None and missing.is_empty()


def test_every_primitive(unpacked: Path):
    judged: dict[str, list[int]] = {}
    for path in sorted((unpacked / "fhir_primitives").glob("*.ndjson")):
        stem, expected, _ = path.name.split(".")
        first, *rest = stem.split("_")
        name = first + "".join(part.title() for part in rest)
        for text in filter(str.strip, path.read_text().split("\n")):
            right = accepted(name, text) == (expected == "valid")
            judged.setdefault(path.name, []).append(right)
            assert right, f"{path.name}: {text[:80]}"
    assert len(judged) == 42
    assert sum(map(len, judged.values())) > 150


def test_every_example_survives_unchanged(unpacked: Path, tmp_path: Path):
    folder = unpacked / "fhir_r4_examples"
    given = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for resource in given:
        assert resource_fault(resource, resource["resourceType"], set()) is None
    result = ehrseq.import_fhir(folder, tmp_path / "store", strict=True)
    assert result.manifest.rows["used"] == len(given) > 200
    out = ehrseq.export_fhir(result.out, tmp_path / "out").out
    back = [json.loads(line) for path in out.glob("*.ndjson") for line in path.read_text().splitlines()]
    key = "{0[resourceType]}/{0[id]}".format
    assert {key(one): one for one in back} == {key(one): one for one in given}
