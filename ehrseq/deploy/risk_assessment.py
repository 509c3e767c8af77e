"""Predictions as FHIR R4B: RiskAssessment, the Provenance of each, and the Device that made them; PUT transactions.

Ids are functions of model version, task, patient and moment, so a bundle that is sent again changes nothing. Everything
is `preliminary`: nobody has confirmed it. An abstention is an assessment without a probability that says why.

Source: FHIR R4B, riskassessment.html, provenance.html, http.html#transaction.
"""

from collections.abc import Iterator
from datetime import datetime

import polars as pl

from ehrseq.deploy.version import ModelVersion
from ehrseq.fhir.elements import is_resource
from ehrseq.fhir.ids import resource_id
from ehrseq.fhir.json_text import json_text

TASK_SYSTEM, VERSION_SYSTEM, SUBJECT_SYSTEM = (
    "urn:ehrseq:task",
    "urn:ehrseq:model-version",
    "urn:ehrseq:subject",
)
LOW_RATIO, HIGH_RATIO = 0.5, 2.0  # of a probability to the task's prevalence in training: below, above
_RISK_SYSTEM = "http://terminology.hl7.org/CodeSystem/risk-probability"
_AGENT_SYSTEM = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_LEGAL_ID = r"^[A-Za-z0-9\-.]{1,64}$"
_PER_BUNDLE = 100  # assessments in a transaction


def device(version: ModelVersion) -> pl.DataFrame:
    """The model version as a Device, one row."""
    return pl.DataFrame(
        [
            {
                "id": device_id(version),
                "identifier": [{"system": VERSION_SYSTEM, "value": version.sha256}],
                "status": "active",
                "deviceName": [{"name": f"ehrseq {version.name}", "type": "model-name"}],
                "type": {"text": "risk prediction model"},
                "version": [{"value": version.version}],
                "note": [{"text": "Not a medical device. No clinical decision may rest on it."}],
            }
        ]
    )


def device_id(version: ModelVersion) -> str:
    """Id of the version's Device."""
    key = pl.DataFrame({"label": [version.label]})
    return str(key.select(resource_id("ehrseq", [pl.col("label")])).item())


def assessments(
    version: ModelVersion, scored: pl.DataFrame, abstained: pl.DataFrame, patients: pl.DataFrame,
    encounters: pl.DataFrame, basis: pl.DataFrame,
) -> pl.DataFrame:  # fmt: skip
    """RiskAssessments of predictions and abstentions, one row each, in the shape of the resource.

    `patients`: subject_id, patient. `encounters`: subject_id, prediction_time, encounter. `basis`: subject_id,
    prediction_time, task, rank, share, resource_type, resource_id.
    """
    key = ["subject_id", "prediction_time", "task"]
    both = pl.concat(
        [scored.select(*key, "probability", "low", "high"), abstained.select(*key, "message")], how="diagonal"
    )
    both = both.join(patients, on="subject_id", how="left").join(
        encounters, on=["subject_id", "prediction_time"], how="left"
    )
    both = both.join(_basis(basis), on=key, how="left").sort(key)
    prevalence = pl.col("task").replace_strict(
        {task: max(rate, 1e-6) for task, rate in version.prevalence.items()}, return_dtype=pl.Float64
    )
    moment = pl.col("prediction_time").dt.epoch("us")
    return both.select(
        id=resource_id("ra", [pl.lit(version.label), pl.col("task"), pl.col("subject_id"), moment]),
        status=pl.lit("preliminary"),
        method=_method(version),
        code=_coded(TASK_SYSTEM, pl.col("task")),
        subject=_subject(),
        encounter=pl.when(pl.col("encounter").str.contains(_LEGAL_ID)).then(
            _reference("Encounter", pl.col("encounter"))
        ),
        occurrenceDateTime=pl.col("prediction_time").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        performer=_reference("Device", pl.lit(device_id(version))),
        basis=pl.col("basis"),
        prediction=pl.concat_list(_prediction(prevalence)),
    )


def provenances(
    version: ModelVersion, made: pl.DataFrame, *, recorded: datetime, tokens_sha256: str
) -> pl.DataFrame:
    """One Provenance for each RiskAssessment in `made`. `recorded` is UTC."""
    sources = [
        ("model version", version.sha256),
        ("tokens", tokens_sha256),
    ]
    what = [
        pl.struct(
            role=pl.lit("source"),
            what=pl.struct(
                identifier=pl.struct(system=pl.lit("urn:ehrseq:sha256"), value=pl.lit(value)),
                display=pl.lit(name),
            ),
        )
        for name, value in sources
    ]
    agent = pl.struct(
        type=_coded(_AGENT_SYSTEM, pl.lit("assembler")), who=_reference("Device", pl.lit(device_id(version)))
    )
    return made.select(
        id=pl.col("id").str.replace("^ra", "pv"),
        target=pl.concat_list(_reference("RiskAssessment", pl.col("id"))),
        recorded=pl.lit(recorded.strftime("%Y-%m-%dT%H:%M:%SZ")),
        activity=pl.struct(text=pl.lit("prediction by a model; not reviewed by a person")),
        agent=pl.concat_list(agent),
        entity=pl.concat_list(what),
    )


def transactions(device: pl.DataFrame, made: pl.DataFrame, provenance: pl.DataFrame) -> Iterator[str]:
    """Bundles of PUTs: the Device in each, then assessments with their Provenance."""
    first = _entries(device, "Device")[0]
    risks, origins = _entries(made, "RiskAssessment"), _entries(provenance, "Provenance")
    for start in range(0, len(risks), _PER_BUNDLE):
        pair = pl.concat([risks[start : start + _PER_BUNDLE], origins[start : start + _PER_BUNDLE]])
        entries = ",".join([first, *pair])
        yield f'{{"resourceType":"Bundle","type":"transaction","entry":[{entries}]}}'


def _entries(frame: pl.DataFrame, kind: str) -> pl.Series:
    text = pl.DataFrame({"id": frame["id"], "text": json_text(frame, kind)})
    put = pl.concat_str(
        pl.lit('{"resource":'),
        "text",
        pl.lit(f',"request":{{"method":"PUT","url":"{kind}/'),
        "id",
        pl.lit('"}}'),
    )
    return text.select(put).to_series()


def _basis(basis: pl.DataFrame) -> pl.DataFrame:
    """References to the resources that contributed most, once each, in order of their largest share."""
    key = ["subject_id", "prediction_time", "task"]
    legal = {name: is_resource(name) for name in basis["resource_type"].unique()}
    there = pl.col("resource_type").replace_strict(legal, default=False, return_dtype=pl.Boolean)
    kept = basis.filter(there & pl.col("resource_id").str.contains(_LEGAL_ID)).sort(*key, "rank")
    once = kept.unique([*key, "resource_type", "resource_id"], keep="first", maintain_order=True)
    reference = pl.struct(reference=pl.concat_str("resource_type", pl.lit("/"), "resource_id"))
    return once.group_by(key, maintain_order=True).agg(basis=reference)


def _prediction(prevalence: pl.Expr) -> pl.Expr:
    probability, given = pl.col("probability"), pl.col("probability").is_not_null()
    ratio = probability / prevalence
    word = (
        pl.when(ratio < LOW_RATIO).then(pl.lit("low")).when(ratio > HIGH_RATIO).then(pl.lit("high"))
        .otherwise(pl.lit("moderate"))
    )  # fmt: skip
    interval = pl.format(
        "Calibrated probability {} (95 % interval of the calibration {} to {}); {} times the training prevalence.",
        probability.round(4), pl.col("low").round(4), pl.col("high").round(4), ratio.round(2),
    )  # fmt: skip
    why = pl.format("No prediction: {}.", pl.col("message"))
    return pl.struct(
        outcome=_coded(TASK_SYSTEM, pl.col("task")),
        probabilityDecimal=probability.round(6),
        qualitativeRisk=pl.when(given).then(_coded(_RISK_SYSTEM, word)),
        relativeRisk=ratio.round(4),
        rationale=pl.when(given).then(interval).otherwise(why),
    )


def _method(version: ModelVersion) -> pl.Expr:
    words = f"ehrseq {version.trained.config.model.family}, {version.label}, manifest sha256 {version.sha256[:16]}"
    coding = pl.struct(
        system=pl.lit(VERSION_SYSTEM), code=pl.lit(version.sha256), display=pl.lit(version.label)
    )
    return pl.struct(coding=pl.concat_list(coding), text=pl.lit(words))


def _subject() -> pl.Expr:
    """The Patient; where the timeline names none, our own subject id."""
    named = pl.col("patient").str.contains(_LEGAL_ID).fill_null(False)
    identifier = pl.struct(system=pl.lit(SUBJECT_SYSTEM), value=pl.col("subject_id").cast(pl.String))
    return pl.struct(
        reference=pl.when(named).then(pl.concat_str(pl.lit("Patient/"), "patient")),
        identifier=pl.when(~named).then(identifier),
    )


def _reference(kind: str, id_: pl.Expr) -> pl.Expr:
    return pl.struct(reference=pl.concat_str(pl.lit(f"{kind}/"), id_))


def _coded(system: str, code: pl.Expr) -> pl.Expr:
    return pl.struct(coding=pl.concat_list(pl.struct(system=pl.lit(system), code=code)), text=code)
