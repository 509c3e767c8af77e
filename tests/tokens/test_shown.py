"""`ehrseq show TOKENS` says in words all that a model sees of a patient."""

import io
from pathlib import Path

from rich.console import Console
from test_beside import imaged
from ward_events import SODIUM, event, patients, with_attributes

from ehrseq.deploy.show import show
from ehrseq.tokens.tokenize import tokenize


def printed(page: object) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(page)
    return out.getvalue()


def test_everything_is_said(tmp_path: Path) -> None:
    rows = [*with_attributes(patients()), event(3, 8, SODIUM, 139, unit="mmol/L", text_value="chest pain")]
    imaged(tmp_path / "timeline", rows)
    tokenize(
        tmp_path / "timeline", tmp_path / "tokens", min_patients=3, notes="bag", timezone="Europe/Berlin"
    )
    page = show(tmp_path / "tokens", subject=3)
    text = printed(page)
    assert "tokens, clocks of Europe/Berlin" in text
    assert "Thu 02:00, Jan" in text  # an hour after START (2150-01-01 00:00 UTC, a Thursday)
    assert "specimen serum" in text
    assert "rate=-" in text  # 3 mL/h is less than most
    assert "text: chest 0.50, pain 0.50" in text
    assert "vector 4 of xray (toy 1): 2 numbers" in text
    assert "vector 5 of xray" in text
    note = next(token for token in page.summary()["tokens"] if token["code"].startswith("DocumentReference"))
    assert {entry["code"] for entry in note["beside"]} >= {"text//chest", "text//120.5"}


def test_what_backs_off_names_its_own_code(tmp_path: Path) -> None:
    imaged(tmp_path / "timeline", patients())
    tokenize(tmp_path / "timeline", tmp_path / "tokens", min_patients=3)
    page = show(tmp_path / "tokens", subject=2)
    groups = {token["event_code"]: token["code"] for token in page.summary()["tokens"] if token["event_code"]}
    assert groups["Condition//ICD-10-CM//I2102"] == "Condition//ICD-10-CM//I210"
    assert "Condition//ICD-10-CM//I210  for Condition//ICD-10-CM//I2102" in printed(page)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "tokens").symlink_to(tmp_path / "tokens")
    alone = show(tmp_path / "alone" / "tokens", subject=2)
    assert not [token for token in alone.summary()["tokens"] if token["event_code"]]
