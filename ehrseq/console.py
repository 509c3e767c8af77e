"""What the verbs print: tables for people, one JSON object for programs."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ehrseq.core.dataset import Result
from ehrseq.core.manifest import Account


def present(verb: str, outcome: Any, as_json: bool) -> int:
    """Print what a verb returned; returns the exit code. `outcome` is one of the dataclasses that verbs return."""
    code = int(getattr(outcome, "exit_code", 0))
    if as_json:
        print(json.dumps(summary(verb, outcome, code), default=str), flush=True)
        return code
    console = Console(highlight=False)
    if isinstance(outcome, Result):
        _result(console, verb, outcome)
    elif hasattr(outcome, "__rich_console__") or hasattr(outcome, "__rich__"):
        console.print(outcome)
    else:
        _mappings(console, outcome)
    return code


def summary(verb: str, outcome: Any, code: int = 0) -> dict[str, Any]:
    """The JSON object of DESIGN section 12."""
    head = {"verb": verb, "status": "done" if code == 0 else "failed", "exit_code": code}
    if isinstance(outcome, Result):
        return {**head, **result_summary(outcome)}
    if hasattr(outcome, "summary"):
        return {**head, **outcome.summary()}
    if isinstance(outcome, list):
        return {**head, "rows": [vars(item) for item in outcome]}
    from ehrseq.mapping.listing import as_dict

    return {**head, **as_dict(outcome)}


def result_summary(result: Result) -> dict[str, Any]:
    """A stage's outcome for programs: status, out, rows, made, cost, notes."""
    manifest, run = result.manifest, result.run
    return {
        "status": result.status,
        "out": str(result.out),
        "rows": manifest.rows,
        "made": manifest.made,
        **{key: run.get(key) for key in ("seconds", "cpu_seconds", "peak_rss_bytes")},
        "notes": manifest.notes,
    }


def _result(console: Console, verb: str, result: Result) -> None:
    manifest = result.manifest
    if manifest.sources:
        console.print(accounting_table(manifest.sources))
    if result.status == "unchanged":
        console.print(f"[bold]{result.out}[/]: nothing has changed; nothing to do.")
        return
    made = made_in_short(manifest.made)
    cost = f"{result.run['seconds']:.1f} s, {result.run['peak_rss_bytes'] / 2**30:.2f} GiB"
    console.print(f"[bold]{result.out}[/]  {verb}: {made or 'done'} ({cost})")
    if bulk := manifest.notes.get("bulk"):
        files = ", ".join(f"{count:,} {part}" for part, count in bulk["files"].items()) or "none"
        console.print(
            f"export of {bulk['transaction_time']} (since {bulk['since'] or 'ever'}): files: {files}"
        )
        if outcomes := bulk["outcomes"]:
            words = ", ".join(f"{what} {count:,}" for what, count in outcomes.items())
            console.print(
                f"[yellow]the server could not give all:[/] {words} (see outcomes/outcomes.parquet)"
            )
    if delivered := manifest.notes.get("delivered"):
        parts = [
            f"{name} {', '.join(f'{count:,} {what}' for what, count in counts.items() if count)}"
            for name, counts in delivered.items()
        ]
        console.print(f"rows of the delta: {'; '.join(parts)}")
    if changes := manifest.notes.get("changes"):
        from ehrseq.mapping.changes import in_words

        console.print(f"changed since the last delivery: {in_words(changes)} (see changes/changes.parquet)")
    if isinstance(knowable := manifest.notes.get("knowable"), dict) and any(knowable.values()):
        console.print(_guarantees(knowable))
    if unmapped := manifest.notes.get("unmapped"):
        words = ", ".join(
            f"{name} {item['values']} values in {item['rows']:,} rows" for name, item in unmapped.items()
        )
        console.print(f"[yellow]not in their ConceptMap:[/] {words} (see unmapped/unmapped.parquet)")
    if by_mapping := manifest.notes.get("rejected_by_mapping"):
        words = ", ".join(
            f"{name} {sum(rules.values()):,} ({', '.join(rules)})" for name, rules in by_mapping.items()
        )
        console.print(f"[yellow]rejected by mapping:[/] {words}")
    if manifest.rows.get("rejected"):
        console.print(f"[yellow]rejected rows with reasons:[/] {result.out}/rejects/*.parquet")


def _guarantees(knowable: Mapping[str, list[dict[str, Any]]]) -> Text:
    """How many events stand on a time of each guarantee, and where most are only assumed."""
    sources = [(kind, source) for kind, found in knowable.items() for source in found]
    every = sum(source["events"] for _, source in sources) or 1
    counts = {
        word: sum(source["events"] for _, source in sources if source["guarantee"] == word)
        for word in ("stated", "derived", "assumed")
    }
    words = ", ".join(f"{word} {count:,} ({count / every:.0%})" for word, count in counts.items() if count)
    weakest = sorted(
        (
            (source["events"], kind, source["time"])
            for kind, source in sources
            if source["guarantee"] == "assumed"
        ),
        reverse=True,
    )[:3]
    most = "; ".join(f"{kind} by {time} {count:,}" for count, kind, time in weakest)
    return Text(f"times of events: {words}" + (f"; most assumed: {most}" if most else ""))


def made_in_short(made: Mapping[str, int], most: int = 4) -> str:
    """The commonest things made, and how many of how many other kinds.

    >>> made_in_short({"a": 1, "b": 2_000, "c": 30, "d": 4, "e": 5})
    '2,000 b, 30 c, 5 e, 4 d, 1 of 1 other kind'
    """
    if len(made) <= most:
        return ", ".join(f"{count:,} {what}" for what, count in made.items())
    ranked = sorted(made.items(), key=lambda item: -item[1])
    rest = ranked[most:]
    others = f"{sum(count for _, count in rest):,} of {len(rest)} other kind{'s' if len(rest) > 1 else ''}"
    return ", ".join([*(f"{count:,} {what}" for what, count in ranked[:most]), others])


def accounting_table(books: Mapping[str, Account]) -> Table:
    """Rows in = used + rejected + filtered, one line a table; why, where rows were not used."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("table", no_wrap=True)
    for name in ("rows in", "used", "rejected", "filtered"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why not used")
    for name, account in books.items():
        rejected = Text(f"{account.rejected:,}", style="yellow" if account.rejected else "")
        why = sorted(account.reasons.items(), key=lambda item: -item[1])
        table.add_row(
            name, f"{account.rows_in:,}", f"{account.used:,}", rejected, f"{account.filtered:,}",
            Text("\n".join(f"{reason} {count:,}" for reason, count in why), style="dim"),
        )  # fmt: skip
    return table


def _mappings(console: Console, outcome: Any) -> None:
    from ehrseq.mapping.listing import Checked, Listing, Tested
    from ehrseq.mapping.preview import Shown

    match outcome:
        case Listing(rows=rows, broken=broken):
            table = Table(
                "source", "mapping", "table", "resource", box=None, pad_edge=False, header_style="bold"
            )
            for source, _, mapping, name, resource in rows:
                table.add_row(source, mapping, name, resource)
            console.print(table)
            for message in broken.values():
                console.print(Text(message, style="yellow"), soft_wrap=True)
        case Checked(problems=[]):
            console.print(
                f"{outcome.folder}: {outcome.mappings} mappings of {outcome.tables} tables are well formed "
                f"({', '.join(outcome.resources)})."
            )
        case Checked():
            for problem in outcome.problems:
                console.print(Text(str(problem)), soft_wrap=True)
            console.print(f"[bold red]{len(outcome.problems)} problems[/] in {outcome.folder}")
        case Tested():
            for case in outcome.failed:
                console.print(Text(f"{case.place}  {case.mapping}: {case.case}"), soft_wrap=True)
                console.print(Syntax(case.difference, "diff", background_color="default"))
            verdict = (
                f"{len(outcome.outcomes) - len(outcome.failed)} cases passed, {len(outcome.failed)} failed"
            )
            console.print(f"{outcome.folder}: {verdict}")
        case [*items] if all(isinstance(item, Shown) for item in items):
            for item in items:
                _shown(console, item.row, item.resource, item.reason)


def _shown(console: Console, row: Mapping[str, Any], resource: Mapping[str, Any] | None, reason: str) -> None:
    fields = Table(box=None, pad_edge=False, show_header=False)
    for name, value in row.items():
        if value is not None:
            fields.add_row(Text(name, style="dim"), Text(str(value)))
    if resource is None:
        right: Any = Text(f"no resource: {reason}", style="yellow")
    else:
        right = Syntax(json.dumps(resource, indent=1, ensure_ascii=False), "json", background_color="default")
    side = Table(box=None, pad_edge=False, show_header=False, expand=True)
    side.add_column(ratio=2)
    side.add_column(ratio=3)
    side.add_row(fields, right)
    console.print(side)
    console.rule(style="dim")
