"""`ehrseq monitor`: within limits on more of the same, exit 3 with each cause by name on damaged months."""

import json
from pathlib import Path

import pytest
from months import CREATININE, PATIENTS, SODIUM, deliver

import ehrseq
from ehrseq.core.errors import ConfigError
from ehrseq.deploy.monitor import Monitored


def watched(retrained: Path, folder: Path, **told: object) -> Monitored:
    data = deliver(folder / "data", 3, patients=PATIENTS, **told)  # type: ignore[arg-type]
    timeline = ehrseq.import_meds(data, folder / "timeline").out
    return ehrseq.monitor("months", timeline, folder / "out", models=retrained / "models")


def test_more_of_the_same_is_within_limits(retrained: Path, tmp_path: Path):
    found = watched(retrained, tmp_path)
    assert found.exit_code == 0, [one.sentence for one in found.exceeded]
    assert {"mix", "admission", "unknown", "abstained", "scores", "calibration"} <= {
        one.check for one in found.findings
    }


def test_each_planted_change_is_named_for_programs_and_for_people(retrained: Path, tmp_path: Path):
    found = watched(retrained, tmp_path, damaged=(3,), policy=(3,))
    assert found.exit_code == 3
    named = {(one.check, one.what) for one in found.exceeded}
    assert {("unit", CREATININE), ("renamed", SODIUM), ("admission", "Encounter.type")} <= named
    told = json.loads((found.result.out / "monitor.json").read_text())
    assert told["exceeded"] == len(found.exceeded)
    page = (found.result.out / "monitor.html").read_text()
    assert page.index("What to look at") < page.index("Units")
    assert "<code>umol/L</code>" in page
    assert "http" not in page
    again = ehrseq.monitor("months", tmp_path / "timeline", tmp_path / "out", models=retrained / "models")
    assert again.result.status == "unchanged"
    assert again.exit_code == 3


def test_an_empty_period_is_refused(retrained: Path, tmp_path: Path):
    data = deliver(tmp_path / "data", 1, patients=20)
    timeline = ehrseq.import_meds(data, tmp_path / "timeline").out
    with pytest.raises(ConfigError, match="is empty"):
        ehrseq.monitor(
            "months",
            timeline,
            tmp_path / "out",
            models=retrained / "models",
            start="2040-01-01",
            end="2039-01-01",
        )
