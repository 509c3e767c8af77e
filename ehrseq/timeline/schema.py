"""Tables that the timeline hands on: events, and the resources that gave none."""

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema


class Event(Schema):
    r"""One fact about one subject: a MEDS 0.4 row with extra columns, in `data/<bucket>.parquet`.

    Sorted by subject_id and time, null first. Times are UTC wall clock. A prefix of a subject's events is what was
    known at that time: no column of an event holds anything that became known later than `time`.

    `attributes` say more about the same fact: route, frequency, specimen, reference range. One a line, in the order
    of the table (knowable.yaml), a word as `name//word` and a number as `name=number` with its unit behind a space:
    "route//IV\nrate=125 mL/h". Words are codes or short texts without line breaks, the same ones over and over;
    numbers are as many as there are measurements. One plain string, because MEDS readers take no nested columns:
    `pl.col("attributes").str.split("\n")` gives the list.
    """

    subject_id = Required(pl.Int64)
    time = Nullable(pl.Datetime("us"))  # when it was knowable; null = true for life
    code = Required(pl.String)  # "Observation//LOINC//2160-0"
    numeric_value = Nullable(pl.Float32)  # null = not a number
    text_value = Nullable(pl.String)  # null = no text; "<" beside a number says that the value is below it
    clinical_time = Nullable(pl.Datetime("us"))  # when it happened or began; null = same as time
    end_time = Nullable(pl.Datetime("us"))  # when it ended; null = at once, or not known yet at `time`
    unit = Nullable(pl.String)  # as the record gives it; null = none
    attributes = Nullable(pl.String)  # "route//IV\nrate=125 mL/h"; null = none
    encounter_id = Nullable(pl.String)  # id of the FHIR Encounter; null = outside any
    resource_type = Required(pl.String)
    resource_id = Required(pl.String)
    modality = Required(
        pl.String
    )  # "record", "note", or what an adapter brings: "image", "genome", "wearable"
    span_array = Nullable(
        pl.String
    )  # spans/<name>.bin with this event's dense vectors (core/spans.py); null = none
    span_start = Nullable(pl.Int64)  # its first row in that array; null = none
    span_length = Nullable(pl.Int32)  # number of rows; null = none


class Unused(Schema):
    """One FHIR resource that gave no event, in `rejects/<bucket>.parquet`.

    `outcome` is "rejected" (something is missing that every such resource should have) or "filtered" (a declared
    rule leaves it out). `file` and `row` are the source row that the resource was mapped from, null if unknown.
    """

    resource_type = Required(pl.String)
    resource_id = Nullable(pl.String)
    outcome = Required(pl.String)
    reason = Required(pl.String)
    file = Nullable(pl.String)
    row = Nullable(pl.Int64)


class Element(Schema):
    """What becomes of one element of a FHIR store: a row of what `coverage` gives."""

    resource_type = Required(pl.String)
    path = Required(pl.String)  # down to a primitive, lists left out: "code.coding.code"
    resources = Required(pl.Int64)  # how many have it
    goes_to = Required(
        pl.String
    )  # attribute, code, condition, reference, text, time, value; "" = to no event
    reason = Nullable(pl.String)  # why to no event; null = it does go to some, or nobody has said


class Code(Schema):
    """One code of the dataset: MEDS code metadata plus how many events have it, in `metadata/codes.parquet`.

    `parent_codes` are the other codings that the same concepts carried (a local code's LOINC, say), named as their
    own events would be.
    """

    code = Required(pl.String)
    description = Nullable(pl.String)  # null = no display in the record
    parent_codes = Nullable(pl.List(pl.String))  # null = none known
    events = Required(pl.Int64)
