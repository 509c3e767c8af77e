"""One subject bucket of a FHIR store → one shard of events, its rejects, and what there is to say about both."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from ehrseq.core.files import write_json
from ehrseq.core.manifest import Account
from ehrseq.core.parquet import write_parquet
from ehrseq.fhir.ids import subject_id
from ehrseq.fhir.merged import RETIRED, SURVIVOR, surviving, survivors
from ehrseq.timeline.arrow import write_meds_parquet
from ehrseq.timeline.code_list import bucket_codes
from ehrseq.timeline.concepts import PARENTS, Concepts
from ehrseq.timeline.definition import view_of
from ehrseq.timeline.events import (
    DESCRIPTION,
    MAPPING,
    NOT_YET,
    ORDER,
    RANK,
    RETRACTED,
    SOURCE,
    UNREADABLE,
    Made,
    make_events,
    with_instants,
)
from ehrseq.timeline.knowable import Kind, Knowledge, knowledge_of
from ehrseq.timeline.reads import elements_read
from ehrseq.timeline.schema import Event, Unused
from ehrseq.timeline.store import SHARED, FhirStore, scan
from ehrseq.timeline.views import plan_view, several_values

REJECTED, FILTERED = "rejected", "filtered"
NO_VIEW, NO_KIND, LEFT_OUT = "no view reads this type", "only joined to others", "left out by its views"
MERGED = "merged into another patient"
_LINKS = view_of(
    {
        "resource": "Patient",
        "select": [
            {"column": [{"name": RETIRED, "path": "id"}]},
            {
                "forEach": "link.where(type = 'replaced-by')",
                "column": [{"name": SURVIVOR, "path": "other.getReferenceKey(Patient)"}],
            },
        ],
    }
)
_PEOPLE = {"subject": pl.String(), Event.subject_id: pl.Int64()}
SORTED_BY = (Event.subject_id, Event.time)


@dataclass(frozen=True)
class BucketTask:
    """What a worker needs to know. `out` is the folder of the dataset being built."""

    fhir: Path
    out: Path
    bucket: str
    types: tuple[str, ...]
    views: Path | None
    rules: str  # knowable.rules_hash
    timezone: str
    declared: str  # rules of mappings for when their facts are knowable, as JSON; see knowable.overridden


@dataclass
class BucketReport:
    """What one bucket gave: kept as `parts/<bucket>.json`, so that an unchanged bucket need not be made again."""

    bucket: str
    rows: int = 0
    subjects: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)  # by kind
    sources: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # by kind, then number of the source of time
    withheld: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # by kind, then reason: no event was made
    unread: dict[str, list[str]] = field(
        default_factory=dict
    )  # elements that no view looked at, by resource type
    joined: dict[str, list[str]] = field(default_factory=dict)  # ids of resources joined to events, by type
    systems: list[str] = field(default_factory=list)
    merged: int = 0
    before_birth: int = 0
    after_death: int = 0

    @classmethod
    def read(cls, path: Path) -> "BucketReport":
        """Read what `make_bucket` has written."""
        content: dict[str, Any] = json.loads(path.read_text())
        accounts = {name: Account(**account) for name, account in content.pop("accounts").items()}
        return cls(**content, accounts=accounts)


def make_bucket(task: BucketTask) -> BucketReport:
    """Make one shard: `data/`, `rejects/` and `parts/` files of the bucket. Runs in a worker."""
    knowledge = knowledge_of(task.views, task.rules, task.declared)
    maker = _Maker(task, knowledge, BucketReport(task.bucket), Concepts(knowledge.systems, set()))
    # types that are only joined to others come last: by then it is known which of them were
    for resource in sorted(task.types, key=lambda name: (not knowledge.kinds_of(name), name)):
        maker.resources(resource)
    events = _sorted(maker.events)
    report = maker.report
    report.rows, report.subjects = events.height, events[Event.subject_id].n_unique()
    report.systems = sorted(maker.concepts.met)
    report.before_birth, report.after_death = _outside_life(events)
    if events.height:
        write_meds_parquet(
            events.select(Event.polars_schema().names()), task.out / f"data/{task.bucket}.parquet"
        )
    unused = pl.concat([Unused.empty(), *maker.unused])
    if unused.height:
        write_parquet(unused, task.out / f"rejects/{task.bucket}.parquet")
    write_parquet(bucket_codes(events, maker.parents), task.out / f"parts/{task.bucket}.parquet")
    write_json(task.out / f"parts/{task.bucket}.json", asdict(report))
    return report


@dataclass
class _Maker:
    task: BucketTask
    knowledge: Knowledge
    report: BucketReport
    concepts: Concepts
    events: list[pl.DataFrame] = field(default_factory=list)
    unused: list[pl.DataFrame] = field(default_factory=list)
    parents: list[pl.DataFrame] = field(default_factory=lambda: [pl.DataFrame(schema=PARENTS)])
    looked_up: dict[str, pl.DataFrame] = field(default_factory=dict)
    people: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_PEOPLE))
    merged: pl.DataFrame = field(init=False)
    store: FhirStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = FhirStore.open(self.task.fhir)
        self.merged = merged_patients(self.task.fhir, self.task.bucket)
        self.report.merged = self.merged.height

    def resources(self, resource: str) -> None:
        """Make the events of all resources of one type, and account for each."""
        paths = self.knowledge.reads(resource)
        frame = scan(self.task.fhir, resource, [self.task.bucket], paths)
        kinds = self.knowledge.kinds_of(resource)
        names = frame.collect_schema().names()
        source = [column for column in ("_file", "_row") if column in names]
        listed = frame.select("id", *source).collect()
        # what a view would look at has been looked at, even if no resource of the bucket has it
        reads = {path.partition(".")[0] for path in paths} - set(names)
        made: list[Made] = []
        rows: dict[str, pl.DataFrame] = {}
        for kind in kinds:
            if kind.view not in rows:
                rows[kind.view], read = self.rows(kind.view, frame)
                reads |= read
            if kind.overrides and MAPPING not in rows[kind.view].columns:
                made_by = frame.select(resource_id="id", _mapping=MAPPING).collect()
                rows[kind.view] = rows[kind.view].join(
                    made_by, on="resource_id", how="left", maintain_order="left"
                )
            made.append(self.made(kind, rows[kind.view]))
        for name in set(self.knowledge.views_of(resource)) - set(rows):
            reads |= plan_view(self.knowledge.views[name], frame).reads
        unread = sorted(self.store.elements(resource, names) - reads)
        if unread:
            self.report.unread[resource] = unread
        self.account(resource, listed, made)

    def rows(self, view: str, frame: pl.LazyFrame) -> tuple[pl.DataFrame, frozenset[str]]:
        """Rows of a view with `subject_id` and `resource_type`, and the elements it has read."""
        definition = self.knowledge.views[view]
        plan = plan_view(definition, frame)
        try:
            rows = plan.frame.collect()
        except ComputeError as error:
            raise several_values(definition, error) from error
        if self.merged.height and definition.resource == "Patient":  # who survives has facts of their own
            rows = rows.filter(~pl.col("subject").is_in(self.merged[RETIRED].implode()))
        self.meet(rows["subject"].drop_nulls().unique())
        rows = rows.join(self.people, on="subject", how="left", maintain_order="left")
        rows = with_instants(rows, self.knowledge.dates_of(view), self.task.timezone)
        return rows.with_columns(resource_type=pl.lit(definition.resource)), plan.reads

    def meet(self, patients: pl.Series) -> None:
        """Note the `subject_id` of patients that no view has named before: for who was merged, the survivor's."""
        new = patients.filter(~patients.is_in(self.people["subject"].implode()))
        if len(new):
            whose = surviving(new, self.merged) if self.merged.height else new
            met = pl.DataFrame({"subject": new, "whose": whose}).select(
                "subject", subject_id=subject_id(pl.col("whose"))
            )
            self.people = pl.concat([self.people, met])

    def made(self, kind: Kind, rows: pl.DataFrame) -> Made:
        joined = {view: self.lookup(view) for view, _ in kind.join}
        order = self.knowledge.order(kind)
        made = make_events(
            kind, rows, joined, order=order, concepts=self.concepts, timezone=self.task.timezone
        )
        if made.events.height:
            self.events.append(made.events)
            self.parents.append(made.parents)
            self.report.events[kind.name] = made.events.height
            counted = made.events[SOURCE].drop_nulls().value_counts().sort(SOURCE)
            self.report.sources[kind.name] = {str(source): count for source, count in counted.iter_rows()}
        withheld = (
            made.missed.filter(pl.col("reason").is_in([UNREADABLE, NOT_YET, RETRACTED]))
            .group_by("reason")
            .len()
        )
        if withheld.height:
            self.report.withheld[kind.name] = dict(withheld.sort("reason").iter_rows())
        for view, key in kind.join:
            self.note_joined(view, rows[key])
        return made

    def lookup(self, view: str) -> pl.DataFrame:
        """Rows of a view that others join, from this bucket and the shared resources, unique by resource_id."""
        if view not in self.looked_up:
            definition = self.knowledge.views[view]
            reads = self.knowledge.reads(definition.resource)
            frame = scan(self.task.fhir, definition.resource, [self.task.bucket, SHARED], reads)
            found = plan_view(definition, frame).frame.collect()
            found = found.unique("resource_id", keep="first", maintain_order=True)
            self.looked_up[view] = with_instants(found, self.knowledge.dates_of(view), self.task.timezone)
        return self.looked_up[view]

    def note_joined(self, view: str, keys: pl.Series) -> None:
        resource = self.knowledge.views[view].resource
        if not self.knowledge.kinds_of(resource):
            used = self.lookup(view)["resource_id"].filter(
                self.lookup(view)["resource_id"].is_in(keys.implode())
            )
            self.report.joined[resource] = sorted({*self.report.joined.get(resource, []), *used.to_list()})

    def account(self, resource: str, listed: pl.DataFrame, made: list[Made]) -> None:
        """Say of each resource whether it gave an event; write down the others with their reason."""
        used = pl.concat([pl.DataFrame(schema={"id": pl.String()}), *(
            part.events.select(id=Event.resource_id) for part in made if part.events.height
        )]).unique()  # fmt: skip
        left = listed.join(used, on="id", how="anti", maintain_order="left")
        if resource in self.report.joined:
            left = left.filter(~pl.col("id").is_in(self.report.joined[resource]))
        account = Account(rows_in=listed.height, used=listed.height - left.height)
        if events := sum(part.events.height for part in made):
            account.made["events"] = events
        if left.height:
            unused = _explained(resource, left, made, bool(self.knowledge.views_of(resource)))
            if resource == "Patient":
                one = pl.col("resource_id").is_in(self.merged[RETIRED].implode())
                unused = unused.with_columns(reason=pl.when(one).then(pl.lit(MERGED)).otherwise("reason"))
            self.unused.append(unused)
            counted = Counter(dict(unused.group_by("outcome").len().iter_rows()))
            account.rejected, account.filtered = counted[REJECTED], counted[FILTERED]
            account.reasons = dict(sorted(unused.group_by("reason").len().iter_rows()))
        self.report.accounts[resource] = account


def merged_patients(fhir: Path, bucket: str) -> pl.DataFrame:
    """Patients of a bucket who were replaced by another of it: `retired` and `survivor` ids, chains followed.

    Raises: DataQualityError if they are merged in a circle.
    """
    frame = scan(fhir, "Patient", [bucket], elements_read([_LINKS])["Patient"])
    there = frame.select("id").collect()["id"]
    links = plan_view(_LINKS, frame).frame.collect()
    known = links.filter(pl.col(SURVIVOR).is_in(there.implode()) & (pl.col(SURVIVOR) != pl.col(RETIRED)))
    return survivors(known.select(RETIRED, SURVIVOR))


def _explained(resource: str, left: pl.DataFrame, made: list[Made], viewed: bool) -> pl.DataFrame:
    """Rows of `Unused` for resources without an event. The first kind of the table that saw one gives the reason."""
    default = LEFT_OUT if made else NO_KIND if viewed else NO_VIEW
    reasons = [part.missed for part in made if part.missed.height]
    why = pl.DataFrame(schema={"resource_id": pl.String(), "reason": pl.String()})
    why = pl.concat([why, *reasons]).unique("resource_id", keep="first", maintain_order=True)
    told = left.join(why, left_on="id", right_on="resource_id", how="left", maintain_order="left")
    declared = pl.col("reason").is_null() | pl.col("reason").is_in([NOT_YET, RETRACTED])
    return told.select(
        resource_type=pl.lit(resource),
        resource_id=pl.col("id"),
        outcome=pl.when(declared).then(pl.lit(FILTERED)).otherwise(pl.lit(REJECTED)),
        reason=pl.col("reason").fill_null(default),
        file=(pl.col("_file") if "_file" in left.columns else pl.lit(None)).cast(pl.String),
        row=(pl.col("_row") if "_row" in left.columns else pl.lit(None)).cast(pl.Int64),
    )


def _sorted(events: list[pl.DataFrame]) -> pl.DataFrame:
    """All events in their final order, which no later event can change."""
    schema = {**Event.polars_schema(), RANK: pl.UInt16(), ORDER: pl.UInt16(), DESCRIPTION: pl.String()}
    wanted = [part.select(*schema) for part in events]
    whole = pl.concat([pl.DataFrame(schema=schema), *wanted])
    return whole.sort(
        *SORTED_BY, RANK, Event.resource_id, ORDER, Event.code, nulls_last=False, maintain_order=True
    )


def _outside_life(events: pl.DataFrame) -> tuple[int, int]:
    """How many events stand before their subject's birth, and after death."""
    code, time = pl.col(Event.code), pl.col(Event.time)
    born = time.filter(code == "MEDS_BIRTH").min().over(Event.subject_id)
    died = time.filter(code == "MEDS_DEATH").max().over(Event.subject_id)
    counts = events.lazy().select((time < born).sum(), after=(time > died).sum()).collect().row(0)
    return int(counts[0] or 0), int(counts[1] or 0)
