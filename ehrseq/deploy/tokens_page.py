"""The tokens of a subject as the model sees them, in words: when, what, and how a value was read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.deploy.trace import subject_index
from ehrseq.timeline.meds import CODES
from ehrseq.tokens.store import UNKNOWN_BIRTH, TokenStore
from ehrseq.tokens.values import CLIP
from ehrseq.tokens.vocabulary import Vocabulary

_US_A_YEAR = 31_556_952e6  # microseconds
_SPANS = ((_US_A_YEAR, "y"), (86_400e6, "d"), (3_600e6, "h"), (60e6, "min"), (1e6, "s"))


@dataclass(frozen=True)
class TokensPage:
    """The tokens of a subject: one row a token, `count` in all."""

    subject: int
    count: int
    bins: int
    tokens: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"subject_id": self.subject, "count": self.count, "bins": self.bins, "tokens": self.tokens}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line a token."""
        yield Text(f"Patient {self.subject}: {self.count:,} tokens", style="bold")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("token", "age", "after", "input"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(f"code, value, bin of {self.bins}", overflow="fold")
        for item in self.tokens:
            age = "" if item["age_years"] is None else f"{item['age_years']:.2f} y"
            value = "" if item["value"] is None else f"{item['value']:+.2f}"
            code = Text(item["code"])
            if item["bin"]:
                code.append(f"  {_bin(item)}", style="bold")
            if item["meaning"]:
                code.append(f"  {item['meaning']}", style="dim")
            table.add_row(str(item["token"]), age, _span(item["after_us"]), value, code)
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
            "bin": number,
            "value": None if value != value else value,
            "unit": vocabulary.units[store.unit[shown][at]],
            "measured": None, "bin_from": None, "bin_to": None, **read,
        })  # fmt: skip
    return TokensPage(int(store.subject_id[index]), where.stop - where.start, vocabulary.bins, found)


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


def _span(microseconds: int) -> str:
    """A duration in its largest unit; nothing for none.

    >>> _span(0), _span(90 * 60_000_000), _span(3 * 86_400_000_000)
    ('', '1.5 h', '3.0 d')
    """
    size, name = next(((size, name) for size, name in _SPANS if microseconds >= size), (1.0, ""))
    return f"{microseconds / size:.1f} {name}" if name else ""
