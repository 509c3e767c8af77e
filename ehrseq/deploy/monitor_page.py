"""What monitoring found, as one quiet HTML page that works offline."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ehrseq.deploy.drift import Finding
from ehrseq.deploy.version import ModelVersion

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;margin:2rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.4rem} h2{font-size:1.1rem;margin-top:2rem} code{font-size:.85em;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%} td,th{padding:.35rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd} td.n{text-align:right;font-variant-numeric:tabular-nums}
.bad td:first-child{font-weight:700} .bad{background:#f3f3f3} .sum{font-size:1.05rem} svg{display:block;max-width:100%}
@media(max-width:40rem){td.n{display:none} th.n{display:none}}
"""
_TITLES = {
    "unknown": "Codes that the model does not know", "renamed": "Renamed codes", "missing": "Missing codes",
    "appeared": "New codes", "unit": "Units", "scale": "Values that moved", "admission": "Admissions",
    "mix": "Mix of codes", "abstained": "Refused predictions",
    "scores": "Predictions", "calibration": "Predictions against outcomes",
}  # fmt: skip


def page(version: ModelVersion, told: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The page: what is beyond its limit first, then every check by kind."""
    beyond = [one for one in findings if one.exceeded]
    verdict = "All checks are within their limits."
    if beyond:
        verdict = f"{len(beyond)} of {len(findings)} checks are beyond their limit."
    parts = [
        f"<h1>{escape(version.label)}, {escape(told['start'])} to {escape(told['end'])} (UTC)</h1>",
        f"<p class=sum><b>{verdict}</b> Compared with what the model was trained on. Not a medical device.</p>",
    ]
    if beyond:
        parts += [
            "<h2>What to look at</h2><ul>",
            *(f"<li>{_text(one.sentence)}</li>" for one in beyond),
            "</ul>",
        ]
    for check, title in _TITLES.items():
        mine = [one for one in findings if one.check == check]
        if mine:
            parts += [f"<h2>{title}</h2>", _table(mine)]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{escape(version.label)}: monitor</title>"
    body = "".join(parts)
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _table(findings: Sequence[Finding]) -> str:
    head = "<tr><th></th><th>finding</th><th class=n>measured</th><th class=n>limit</th></tr>"
    return f"<table>{head}{''.join(map(_row, findings))}</table>"


def _row(one: Finding) -> str:
    mark = ("<tr class=bad>", "beyond") if one.exceeded else ("<tr>", "within")
    numbers = f"<td class=n>{one.measured:.3g}</td><td class=n>{one.limit:.3g}</td>"
    return f"{mark[0]}<td>{mark[1]}</td><td>{_text(one.sentence)}</td>{numbers}</tr>"


def _text(sentence: str) -> str:
    """A sentence with what stands between backticks as code."""
    parts = escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
