"""The verb `tokenize`: a timeline becomes a token store, shard by shard."""

import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ehrseq.core.dataset import Build, Result, input_of, take_over
from ehrseq.core.errors import ConfigError, SchemaError, TokenError
from ehrseq.core.executor import run_tasks
from ehrseq.core.files import storage_errors, write_bytes
from ehrseq.core.manifest import Account, Input, read_manifest
from ehrseq.core.spans import FOLDER
from ehrseq.timeline.dates import check_timezone
from ehrseq.tokens.backoff import parents_of
from ehrseq.tokens.dense import check_encoders
from ehrseq.tokens.events import tokens_of
from ehrseq.tokens.shards import TimelineShard, read_events, read_splits, timeline_shards
from ehrseq.tokens.store import KIND, StoreWriter, save_part
from ehrseq.tokens.vocabulary import Notes, Vocabulary, VocabularyConfig, fit_vocabulary


@dataclass(frozen=True, slots=True)
class _Job:
    """One shard to one part of the store. The vocabulary's hash keeps a worker from using an older one."""

    timeline: Path
    shard: TimelineShard
    vocabulary: Path
    vocabulary_sha256: str
    part: Path
    timezone: str | None


@dataclass(frozen=True, slots=True)
class _Made:
    events: int
    subjects: int
    counts: Counter[str]


def tokenize(
    timeline: Path,
    out: Path,
    *,
    vocabulary: Path | None = None,
    extend: Path | None = None,
    min_patients: int = 5,
    bins: int = 10,
    notes: Notes = "pieces",
    text_pieces: int = 128,
    max_pieces: int = 8_000,
    timezone: str | None = None,
    workers: int = 1,
    force: bool = False,
) -> Result:
    """Write the token store of `timeline` to `out`, the same bytes for any number of workers.

    The vocabulary is fitted on the training subjects (see `VocabularyConfig` for `min_patients`, `bins`, `notes`,
    `text_pieces` and `max_pieces`), or is the one at `vocabulary`: a vocabulary.json, a token store or a model, as
    predictions need; then the five are not used. With `extend` it is grown from the one there: old names keep their
    ids, old scales their numbers, and only `max_pieces` is used, if it has no pieces yet. Every event is used and
    becomes one position (see `events.tokens_of`); how many were read exactly, by a prefix or as unknown stands in the
    manifest's notes. `timezone` is that of the patients' clocks, by default what the timeline says; without one there
    are no calendar features.

    Raises: TokenError if the timeline or the vocabulary is damaged, no code is common enough, or vectors are of another
    encoder; ConfigError for both `vocabulary` and `extend`, or an unknown zone.
    """
    if vocabulary is not None and extend is not None:
        raise ConfigError("Give --vocabulary (taken as it is) or --extend (grown), not both.")
    timeline, config = Path(timeline), VocabularyConfig(min_patients, bins, notes, text_pieces, max_pieces)
    zone = _timezone(timeline, timezone)
    inputs, settings = [_timeline_input(timeline)], asdict(config)
    given = Vocabulary.load(Path(vocabulary)) if vocabulary is not None else None
    base = Vocabulary.load(Path(extend)) if extend is not None else None
    if given:
        inputs, settings = [*inputs, Input("vocabulary", given.sha256)], {}
    if base:
        inputs, settings = [*inputs, Input("extended", base.sha256)], {"max_pieces": max_pieces}
    with Build(
        Path(out), kind=KIND, config={**settings, "timezone": zone}, inputs=inputs, force=force
    ) as build:
        if not build.unchanged:
            words = given or fit_vocabulary(timeline, config, workers=workers, base=base)
            _write(build, timeline, words, zone, workers)
    return build.result


def _timezone(timeline: Path, declared: str | None) -> str | None:
    """The zone that was given, else the one of the timeline's notes (that of its source), else none."""
    zone = declared
    if zone is None and (timeline / "manifest.json").is_file():
        zone = read_manifest(timeline).notes.get("timezone")
    if zone is not None:
        check_timezone(zone)
    return zone


def _timeline_input(timeline: Path) -> Input:
    try:
        return input_of("timeline", timeline)
    except SchemaError as error:
        raise TokenError(f"{error} Make a timeline with `ehrseq timeline`.") from error


def _write(build: Build, timeline: Path, vocabulary: Vocabulary, timezone: str | None, workers: int) -> None:
    _take_spans(build, timeline, check_encoders(timeline, vocabulary.spans))
    content, parts, file = vocabulary.to_bytes(), build.folder / "parts", build.path("vocabulary.json")
    write_bytes(file, content)
    jobs = [
        _Job(timeline, shard, file, vocabulary.sha256, parts / f"{shard.number:04d}", timezone)
        for shard in timeline_shards(timeline)
    ]
    made = run_tasks(_tokenize_shard, jobs, workers=workers, what="tokenize")
    with storage_errors(build.out), StoreWriter(build.folder) as writer:
        for job in jobs:
            writer.append(job.part)
            shutil.rmtree(job.part)
        entry = writer.finish(content, timezone)
    shutil.rmtree(parts, ignore_errors=True)
    _keep_books(build, entry, made, vocabulary)


def _take_spans(build: Build, timeline: Path, names: tuple[str, ...]) -> None:
    """Link the side arrays of the timeline into the store, so that training needs nothing else."""
    wanted = {f"{FOLDER}/{name}.{end}" for name in names for end in ("bin", "json")}
    shards = [shard for shard in read_manifest(timeline).shards if shard.path in wanted]
    if missing := wanted - {shard.path for shard in shards}:
        raise TokenError(f"{timeline}: {sorted(missing)[0]} is not in its manifest. Make the timeline again.")
    if shards and not take_over(shards, timeline, build.folder):
        raise TokenError(
            f"{timeline}/{FOLDER}: a side array is missing, or its sha256 differs from the manifest. "
            "Make the timeline again."
        )
    for shard in shards:
        build.enter(shard.path, rows=shard.rows)


def _keep_books(build: Build, entry: dict[str, Any], made: list[_Made], vocabulary: Vocabulary) -> None:
    events, subjects = sum(part.events for part in made), int(entry["subjects"])
    counts: Counter[str] = Counter()
    for part in made:
        counts.update(part.counts)
    build.account("events", Account(rows_in=events, used=events, made={"tokens": counts["tokens"]}))
    build.made("tokens", counts["tokens"])
    build.made("subjects", subjects)
    for name, field in entry["fields"].items():
        build.enter(f"arrays/{name}.bin", rows=field["shape"][0])
    build.enter("vocabulary.json", rows=len(vocabulary.codes))
    build.notes["store"] = entry
    build.notes["read"] = dict(sorted(counts.items()))
    build.notes["vocabulary"] = {
        "codes": len(vocabulary.codes),
        "units": len(vocabulary.units),
        "scales": len(vocabulary.scales),
        "pieces": max(len(vocabulary.piece_ids) - 1, 0),
        "spans": [scale.name for scale in vocabulary.spans],
    }


def _tokenize_shard(job: _Job) -> _Made:
    vocabulary = _vocabulary(job.vocabulary, job.vocabulary_sha256)
    events = read_events(job.shard)
    parents = parents_of(job.timeline)
    arrays, counts = tokens_of(
        events, vocabulary, read_splits(job.timeline), job.shard.number, parents,
        timeline=job.timeline, timezone=job.timezone,
    )  # fmt: skip
    with storage_errors(job.part):
        save_part(job.part, arrays)
    return _Made(events.height, len(arrays["subject_id"]), counts)


@lru_cache(maxsize=1)
def _vocabulary(path: Path, sha256: str) -> Vocabulary:  # the hash is part of the cache's key
    return Vocabulary.load(path)
