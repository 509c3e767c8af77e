"""The generated months of `benchmarks/drift.py`, for tests."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "drift.py"
_SPEC = importlib.util.spec_from_file_location("drift_months", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

CREATININE, SODIUM, RENAMED, TASK = _MODULE.CREATININE, _MODULE.SODIUM, _MODULE.RENAMED, _MODULE.TASK
deliver, settings = _MODULE.deliver, _MODULE.settings
PATIENTS = 120  # a month in tests
