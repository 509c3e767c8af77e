"""Single patients through a model that is kept warm: FHIR resources in memory to predictions, no dataset written.

The resources take the way of every store (`keyed`, `make_bucket`, `tokens_of`), so a patient gets what a batch would
give. Most of that is the cost of building query plans and not of the data, so patients who ask at the same moment go
through it together, and an unchanged record is answered from memory.
"""

import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrseq.core.errors import DataQualityError, EhrseqError
from ehrseq.core.manifest import Manifest
from ehrseq.deploy.predict import DEAD, basis_of
from ehrseq.deploy.scoring import Predictor
from ehrseq.deploy.version import ModelVersion
from ehrseq.fhir.ids import subject_id
from ehrseq.sources.fhir.files import TEXTS, opened
from ehrseq.sources.fhir.keys import keyed
from ehrseq.timeline.bucket import BucketTask, make_bucket
from ehrseq.timeline.knowable import rules_hash
from ehrseq.timeline.schema import Event
from ehrseq.tokens.events import tokens_of
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.shards import BIRTH, TimelineShard, read_events
from ehrseq.tokens.store import BAG_FIELDS, DENSE_FIELDS, SUBJECT_FIELDS, TOKEN_FIELDS, TokenStore
from ehrseq.tokens.vocabulary import Vocabulary

BUCKET = "0000"
_KEPT = 1024  # answers kept in memory
_FAST = Path("/dev/shm")


class PatientError(DataQualityError):
    """A request that is not the record of one patient."""


@dataclass(frozen=True)
class PatientAnswer:
    """One patient: `predictions` and `abstained` as rows, the reasons as `basis`, all plain values."""

    patient: str
    predictions: list[dict[str, Any]]
    abstained: list[dict[str, Any]]
    basis: list[dict[str, Any]]


class MemoryStore(TokenStore):
    """A token store of arrays in memory."""

    def __init__(self, arrays: dict[str, Any], vocabulary: Vocabulary, timezone: str | None) -> None:
        self.path, self.timezone = Path("memory"), timezone
        self.__dict__["vocabulary"] = json.loads(vocabulary.to_bytes())
        self.subjects, self.tokens = len(arrays["subject_id"]), len(arrays["code"])
        self.vocabulary_sha256 = vocabulary.sha256
        for name, values in arrays.items():
            setattr(self, name, values)
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(arrays["length"])])


class Warm:
    """A version, ready to answer. One thread at a time may use it."""

    def __init__(self, version: ModelVersion, *, reasons: int = 5) -> None:
        self.version, self.reasons = version, reasons
        self._predictor = Predictor(version)
        self._vocabulary = Vocabulary.load(version.folder / "model")
        self._rules = rules_hash(version.views)
        self._clock = version.timezone
        config = version.lineage["timeline"]["config"]
        self._zone, self._declared = config.get("timezone", "UTC"), config.get("declared", "{}")
        self._kept: OrderedDict[str, PatientAnswer] = OrderedDict()

    def compile(self) -> None:
        """Compile for one patient and for several, so that the first request need not wait."""
        one = {name: np.zeros(2, dtype) for name, dtype in TOKEN_FIELDS.items()}
        one |= {name: np.zeros(1, dtype) for name, dtype in SUBJECT_FIELDS.items()}
        one |= {name: np.zeros(0, dtype) for name, dtype in {**BAG_FIELDS, **DENSE_FIELDS}.items()}
        store = MemoryStore(
            {**one, "code": np.full(2, 2, np.int32), "length": np.array([2])}, self._vocabulary, self._clock
        )
        zero, tasks = np.zeros(1, np.int64), np.asarray(self.version.trained.inputs.tasks)
        examples = Examples(
            zero,
            zero + 2,
            zero.astype(np.int32),
            np.full(1, np.nan, np.float32),
            np.full(1, 2, np.int8),
            zero,
            tasks,
        )
        for alone in (True, False):
            self._predictor.compute(store, examples, zero, reasons=self.reasons, alone=alone)

    def answer(self, records: Sequence[bytes]) -> list[PatientAnswer | EhrseqError]:
        """Answer each record, the JSON of one patient's Bundle, at the patient's last event.

        What is wrong with one record is its answer; the others are not touched.
        """
        keys = [sha256(record).hexdigest() for record in records]
        found: dict[str, PatientAnswer | EhrseqError] = {
            key: self._kept[key] for key in keys if key in self._kept
        }
        new = {key: record for key, record in zip(keys, records, strict=True) if key not in found}
        found |= self._together(new) if new else {}
        for key, answer in found.items():
            if isinstance(answer, PatientAnswer):
                self._kept[key] = answer
                self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return [found[key] for key in keys]

    def _together(self, records: dict[str, bytes]) -> dict[str, PatientAnswer | EhrseqError]:
        answers: dict[str, PatientAnswer | EhrseqError] = {}
        groups: list[dict[int, Record]] = []
        for key, given in records.items():
            try:
                record = one_patient(given, key)
            except EhrseqError as error:
                answers[key] = error
                continue
            group = next((one for one in groups if record.subject not in one), None)
            if group is None:  # two records of one patient must not be taken for one
                groups.append(group := {})
            group[record.subject] = record
        for group in groups:
            answers |= self._group(group)
        return answers

    def _group(self, people: dict[int, "Record"]) -> dict[str, PatientAnswer | EhrseqError]:
        try:
            return dict(self._bucket(people))
        except EhrseqError as error:
            if len(people) == 1:
                return {record.key: error for record in people.values()}
        parts = [self._group({subject: record}) for subject, record in people.items()]  # whose is wrong?
        return {key: answer for part in parts for key, answer in part.items()}

    def _bucket(self, people: dict[int, "Record"]) -> dict[str, PatientAnswer]:
        folder = Path(tempfile.mkdtemp(prefix="ehrseq-", dir=_FAST if _FAST.is_dir() else None))
        try:
            timeline = self._timeline(folder, pl.concat(record.rows for record in people.values()))
            return self._predict(timeline, people)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _timeline(self, folder: Path, rows: pl.DataFrame) -> Path:
        """One bucket's timeline of the resources."""
        kinds = []
        for (kind,), part in rows.group_by("type"):
            path = folder / "fhir" / str(kind) / f"{BUCKET}.parquet"
            path.parent.mkdir(parents=True)
            part.sort("id").select(
                "id", "_json", pl.lit("fhir").alias("_mapping"), "_file", "_row"
            ).write_parquet(path)
            kinds.append(str(kind))
        (folder / "fhir" / "manifest.json").write_text(json.dumps(Manifest("fhir", "", "", "").to_json()))
        timeline = folder / "timeline"
        for place in ("data", "parts"):
            (timeline / place).mkdir(parents=True)
        make_bucket(
            BucketTask(
                folder / "fhir",
                timeline,
                BUCKET,
                tuple(kinds),
                self.version.views,
                self._rules,
                self._zone,
                self._declared,
            )
        )
        return timeline

    def _predict(self, timeline: Path, people: dict[int, "Record"]) -> dict[str, PatientAnswer]:
        path = timeline / "data" / f"{BUCKET}.parquet"
        if not path.is_file():
            return {record.key: PatientAnswer(record.patient, [], [], []) for record in people.values()}
        events = read_events(TimelineShard(0, path, ""), checked=False)
        codes = pl.read_parquet(timeline / "parts" / f"{BUCKET}.parquet").drop_nulls("parent_codes")
        parents = {
            code: tuple(sorted(above)) for code, above in codes.select("code", "parent_codes").iter_rows()
        }
        splits = pl.DataFrame(schema={"subject_id": pl.Int64, "split": pl.Int8})
        arrays, _ = tokens_of(
            events, self._vocabulary, splits, 0, parents, timeline=timeline, timezone=self._clock
        )
        store = MemoryStore(arrays, self._vocabulary, self._clock)
        asked = _at_the_end(events, self.version.tasks)
        answer = self._predictor.answer(store, asked, reasons=self.reasons, alone=len(people) == 1)
        frames = (answer.scored, answer.abstained, basis_of(answer, timeline, store))
        rows = [frame.partition_by("subject_id", as_dict=True) for frame in frames]
        return {
            record.key: PatientAnswer(
                record.patient, *(one[subject,].to_dicts() if (subject,) in one else [] for one in rows)
            )
            for subject, record in people.items()
        }


@dataclass(frozen=True)
class Record:
    """One patient's resources: `rows` with the columns of `keys.KEYS`; `key` names the request's bytes."""

    key: str
    patient: str
    subject: int
    rows: pl.DataFrame


def one_patient(record: bytes, key: str = "") -> Record:
    """The resources of a Bundle of one patient.

    Raises: PatientError if it is no Bundle, or holds none or several patients, or resources of others.
    """
    try:
        text = record.decode()
        kind = json.loads(text).get("resourceType")
    except (ValueError, AttributeError) as error:
        raise PatientError(
            "the record is not JSON in UTF-8. Expected a FHIR Bundle of one patient."
        ) from error
    if kind != "Bundle":
        raise PatientError(f"the record is a {str(kind)[:30]!r}. Expected a FHIR Bundle of one patient.")
    given = pl.DataFrame({"_json": [text]}).select(
        pl.col("_json") if name == "_json" else pl.lit(None, dtype).alias(name)
        for name, dtype in TEXTS.items()
    )
    batch = opened(given.with_columns(_file=pl.lit("request"), _row=pl.lit(1, pl.Int64)))
    kept = keyed(batch, place=0, strict=False).kept
    patients = kept.filter(type="Patient")["id"].unique()
    others = set(kept["patient"].drop_nulls()) - set(patients)
    if len(patients) != 1 or others:
        raise PatientError(
            f"the Bundle holds {len(patients)} Patient resources and resources of {len(others)} others. Expected one "
            "patient with what is about them."
        )
    rows = kept.unique(["type", "id"], keep="last", maintain_order=True)
    return Record(
        key, str(patients[0]), int(patients.to_frame().select(subject_id(pl.col("id"))).item()), rows
    )


def _at_the_end(events: pl.DataFrame, tasks: Sequence[str]) -> pl.DataFrame:
    time = pl.col(Event.time)
    last = (
        events.filter(time.is_not_null()).group_by("subject_id")
        .agg(prediction_time=time.max(), dead=(pl.col(Event.code) == DEAD).any(),
             lives=(pl.col(Event.code) != BIRTH).any())
    )  # fmt: skip
    alive = last.filter(~pl.col("dead"), "lives").select("subject_id", "prediction_time")
    return alive.join(pl.DataFrame({"task": list(tasks)}), how="cross").sort(
        "subject_id", "prediction_time", "task"
    )
