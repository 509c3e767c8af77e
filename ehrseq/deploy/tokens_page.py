"""The tokens of a subject as the model sees them, in words: when, what, how a value was read, what is beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import SchemaError
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import read_manifest
from ehrseq.deploy.trace import subject_index
from ehrseq.timeline.meds import CODES
from ehrseq.tokens.attributes import PREFIX
from ehrseq.tokens.store import UNKNOWN_BIRTH, TokenStore
from ehrseq.tokens.values import CLIP
from ehrseq.tokens.vocabulary import Vocabulary

_LOCAL = "%a %H:%M, %b"

_US_A_YEAR = 31_556_952e6  # microseconds
_SPANS = ((_US_A_YEAR, "y"), (86_400e6, "d"), (3_600e6, "h"), (60e6, "min"), (1e6, "s"))


@dataclass(frozen=True)
class TokensPage:
    """The tokens of a subject: one row a token, `count` in all."""

    subject: int
    count: int
    bins: int
    timezone: str | None
    tokens: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"subject_id": self.subject, "count": self.count, "bins": self.bins,
                "timezone": self.timezone, "tokens": self.tokens}  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line a token."""
        clocks = f"clocks of {self.timezone}" if self.timezone else "no local clock known"
        yield Text(f"Patient {self.subject}: {self.count:,} tokens, {clocks}", style="bold")
        table = Table(box=None, pad_edge=False, header_style="bold")
        times = ("clock",) if self.timezone else ()
        for name in ("token", "age", "after", *times, "input"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(f"code, value, bin of {self.bins}", overflow="fold")
        for item in self.tokens:
            age = "" if item["age_years"] is None else f"{item['age_years']:.2f} y"
            value = "" if item["value"] is None else f"{item['value']:+.2f}"
            code = Text(item["code"])
            if item["event_code"]:
                code.append(f"  for {item['event_code']}", style="italic")
            if item["bin"]:
                code.append(f"  {_bin(item)}", style="bold")
            if item["meaning"]:
                code.append(f"  {item['meaning']}", style="dim")
            if item["beside"]:
                code.append(f"\n  + {_beside(item['beside'])}")
            if item["vector"]:
                code.append(f"\n  + {_vector(item['vector'])}")
            clock = (item["clock"],) if self.timezone else ()
            table.add_row(str(item["token"]), age, _span(item["after_us"]), *clock, value, code)
        yield table
        if left := self.count - len(self.tokens):
            yield Text(f"… {left:,} more tokens (--rows {self.count} shows all)", style="dim")


def tokens_page(tokens: Path, subject: int | None, rows: int) -> TokensPage:
    """The first `rows` tokens of a subject (None: the first). Raises: TokenError, ConfigError."""
    store, vocabulary = TokenStore.open(tokens), Vocabulary.load(tokens)
    index = subject_index(store, tokens, subject)
    where = store.rows(index)
    shown = slice(where.start, min(where.stop, where.start + rows))
    birth = int(store.birth[index])
    time = store.time[shown].astype(np.int64)
    after = np.diff(time, prepend=time[:1])
    scale = vocabulary.scales.find(store.code[shown], store.unit[shown])
    codes = [vocabulary.codes[code] for code in store.code[shown]]
    meanings = _descriptions(tokens, codes)
    sources = _event_codes(tokens, store, index, shown)
    first = (
        np.diff(store.event[shown], prepend=-1) != 0
    )  # of its event: what follows are pieces, or more vectors
    clocks = _clocks(store, shown)
    beside = _entries(store, vocabulary, shown)
    vectors = _vectors(store, vocabulary, shown)
    found = []
    for at, code in enumerate(codes):
        value, number = float(store.value[shown][at]), int(store.bin[shown][at])
        read = _as_read(vocabulary, int(scale[at]), value, number) if number else {}
        found.append({
            "token": at,
            "age_years": None if birth == UNKNOWN_BIRTH else (int(time[at]) - birth) / _US_A_YEAR,
            "after_us": int(after[at]),
            "code": code,
            "meaning": meanings.get(code),
            "event_code": _otherwise(code, sources[at]) if first[at] else None,
            "clock": clocks[at],
            "beside": beside.get(at, []),
            "vector": vectors.get(at),
            "bin": number,
            "value": None if value != value else value,
            "unit": vocabulary.units[store.unit[shown][at]],
            "measured": None, "bin_from": None, "bin_to": None, **read,
        })  # fmt: skip
    return TokensPage(
        int(store.subject_id[index]), where.stop - where.start, vocabulary.bins, store.timezone, found
    )


def _clocks(store: TokenStore, shown: slice) -> list[str | None]:
    """Weekday, hour and month of the local clock, which is what the model is told of it."""
    if store.timezone is None:
        return [None] * (shown.stop - shown.start)
    local = store.time[shown].astype(np.int64) + store.zone[shown].astype(np.int64) * 900_000_000
    return pl.Series(local).cast(pl.Datetime("us")).dt.to_string(_LOCAL).to_list()


def _entries(store: TokenStore, vocabulary: Vocabulary, shown: slice) -> dict[int, list[dict[str, Any]]]:
    """Codes beside each token and their weights, by the token's place in `shown`."""
    found: dict[int, list[dict[str, Any]]] = {}
    first, last = np.searchsorted(store.bag_token, [shown.start, shown.stop])
    for at in range(int(first), int(last)):
        entry = {"code": vocabulary.codes[store.bag_code[at]], "weight": float(store.bag_weight[at])}
        found.setdefault(int(store.bag_token[at]) - shown.start, []).append(entry)
    return found


def _vectors(store: TokenStore, vocabulary: Vocabulary, shown: slice) -> dict[int, dict[str, Any]]:
    """Which vector each token has, and its root mean square as the model sees it."""
    found = {}
    first, last = np.searchsorted(store.dense_token, [shown.start, shown.stop])
    for at in range(int(first), int(last)):
        scale, row = vocabulary.spans[store.dense_array[at]], int(store.dense_row[at])
        vector = store.spans(scale.name).read([row])[0].astype(np.float64) / scale.rms
        size = float(np.sqrt(np.mean(np.square(vector))))
        found[int(store.dense_token[at]) - shown.start] = {
            "array": scale.name, "row": row, "numbers": scale.dim, "encoder": scale.encoder, "rms": size,
        }  # fmt: skip
    return found


def _event_codes(tokens: Path, store: TokenStore, index: int, shown: slice) -> list[str | None]:
    """The code that each token's event has in the timeline beside the tokens; None where it is not there."""
    timeline = tokens.parent / "timeline"
    try:
        made_from = {item.name: item.sha256 for item in read_manifest(tokens).inputs}.get("timeline")
        if sha256_file(timeline / "manifest.json") != made_from:
            return [None] * (shown.stop - shown.start)
        shard = pl.read_parquet(timeline / "data" / f"{store.shard[index]:04d}.parquet", columns=["code"])
    except (OSError, SchemaError):
        return [None] * (shown.stop - shown.start)
    codes: list[str | None] = shard["code"].gather(store.event[shown]).to_list()
    return codes


def _otherwise(code: str, source: str | None) -> str | None:
    """The event's own code, if the model sees another: a group, an ancestor, a further coding, or unknown."""
    text = code.startswith("text//") or (source is not None and code.startswith(f"{source}//TEXT//"))
    return None if source is None or code == source or text else source


def _as_read(vocabulary: Vocabulary, row: int, value: float, number: int) -> dict[str, float | None]:
    """What was measured, as far as the model can tell (None beyond its range), and the ends of the bin."""
    scales = vocabulary.scales
    edges = scales.edges[row]
    known = abs(value) < CLIP
    return {
        "measured": float(scales.median[row] + np.float64(value) * scales.scale[row]) if known else None,
        "bin_from": float(edges[number - 2]) if number > 1 else None,
        "bin_to": float(edges[number - 1]) if number <= len(edges) else None,
    }


def _descriptions(tokens: Path, codes: list[str]) -> dict[str, str]:
    """From the timeline beside the tokens, as a run has it; none otherwise."""
    file = tokens.parent / "timeline" / CODES
    if not file.is_file():
        return {}
    table = (
        pl.scan_parquet(file).filter(pl.col("code").is_in(codes)).select("code", "description").drop_nulls()
    )
    return dict(table.collect().iter_rows())


def _bin(item: dict[str, Any]) -> str:
    if not item["bin"]:
        return ""
    low, high = (None if item[end] is None else f"{item[end]:.4g}" for end in ("bin_from", "bin_to"))
    ends = f"{low} to {high}" if low and high else f"to {high}" if high else f"above {low}" if low else "all"
    measured = (
        "" if item["measured"] is None else f"{item['measured']:.4g} {item['unit']}, ".replace(" ,", ",")
    )
    return f"{measured}bin {item['bin']} ({ends})"


def _beside(entries: list[dict[str, Any]]) -> str:
    """What stands beside a code, in words.

    >>> text = [{"code": "text//chest", "weight": 0.75}, {"code": "text//-s", "weight": 0.25}]
    >>> _beside([{"code": "attribute//route//IV", "weight": 1.0}, {"code": "attribute//rate=", "weight": -0.4}, *text])
    'route IV, rate=-0.40; text: chest 0.75, -s 0.25'
    """
    attributes: list[str] = []
    pieces: list[str] = []
    for entry in entries:
        name, weight = entry["code"], entry["weight"]
        if name.startswith("text//"):
            pieces.append(f"{name.removeprefix('text//')} {weight:.2f}")
        elif name.endswith("="):
            attributes.append(f"{name.removeprefix(PREFIX)}{weight:+.2f}")
        else:
            attributes.append(" ".join(name.removeprefix(PREFIX).split("//")))
    return "; ".join(filter(None, [", ".join(attributes), "text: " + ", ".join(pieces) if pieces else ""]))


def _vector(vector: dict[str, Any]) -> str:
    return (
        f"vector {vector['row']} of {vector['array']} ({vector['encoder']}): {vector['numbers']} numbers, "
        f"root mean square {vector['rms']:.2f}"
    )


def _span(microseconds: int) -> str:
    """A duration in its largest unit; nothing for none.

    >>> _span(0), _span(90 * 60_000_000), _span(3 * 86_400_000_000)
    ('', '1.5 h', '3.0 d')
    """
    size, name = next(((size, name) for size, name in _SPANS if microseconds >= size), (1.0, ""))
    return f"{microseconds / size:.1f} {name}" if name else ""
