"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ehrseq.core import progress

# a busy machine is no failure: no test times the clock
settings.register_profile("ehrseq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ehrseq")

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real, open data: `EHRSEQ_DATA`, default `../shared/data`. Skips where it is absent."""
    folder = Path(os.environ.get("EHRSEQ_DATA", _SHARED))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}; set EHRSEQ_DATA to test on them")
    return folder


@pytest.fixture(scope="session")
def mimic_demo(data_dir: Path) -> Path:
    """The MIMIC-IV demo: 100 patients of a real hospital in 30 tables."""
    folder = data_dir / "mimic-iv-demo"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(autouse=True)
def quiet() -> None:
    """No progress lines among the test output."""
    progress.set_quiet(True)
