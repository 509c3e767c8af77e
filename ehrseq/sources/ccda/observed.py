"""Values and reference ranges of observations."""

import re

from lxml import etree

from ehrseq.sources.ccda.values import Columns, bounds, coding, fhir_time, interval, plain_text, type_of

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_WHOLE = re.compile(r"[+-]?\d{1,9}")


def observed(element: etree._Element, timezone: str) -> Columns:
    """Columns of an observation: its value, how it was judged, what is normal, where and how it was observed."""
    mark = element.find("interpretationCode")
    method, site = coding(element.find("methodCode")), coding(element.find("targetSiteCode"))
    return {
        **value_columns(element.find("value"), timezone), **_range(element),
        "interpretation": coding(mark)[0], "interpretation_system": coding(mark)[1],
        "method": method[0], "method_system": method[1], "method_display": method[2],
        "site": site[0], "site_system": site[1], "site_display": site[2],
    }  # fmt: skip


def value_columns(value: etree._Element | None, timezone: str) -> Columns:
    """`value_type` and what belongs to it. A number that is none is text (ST), with its unit behind it."""
    if value is None:
        return {}
    absent: Columns = {"absent": value.get("nullFlavor")}
    match type_of(value):
        case "PQ" | "INT" | "REAL" as kind:
            return {**absent, **_number(value.get("value"), value.get("unit"), kind)}
        case "CD" | "CE" | "CO" | "CV" | "CS":
            code, system, display = coding(value)
            text = plain_text(value.find("originalText"))
            return {**absent, "value_type": "CD", "value_code": code, "value_system": system,
                    "value_display": display, "value_text": text}  # fmt: skip
        case "IVL_PQ" | "IVL_INT" | "IVL_REAL":
            return {**absent, **_interval(value)}
        case "TS":
            return {**absent, "value_type": "TS", "value": fhir_time(value.get("value"), timezone)}
        case "IVL_TS":
            when = interval(value, timezone)
            low = when.get("low") or when.get("time")
            return {**absent, "value_type": "IVL_TS", "value_from": low, "value_to": when.get("high")}
        case "BL":
            return {**absent, "value_type": "BL", "value": value.get("value")}
        case "RTO" | "RTO_PQ_PQ":
            over, under = value.find("numerator"), value.find("denominator")
            if over is not None and under is not None:
                return {**absent, "value_type": "RTO", "value": over.get("value"), "unit": over.get("unit"),
                        "per": under.get("value"), "per_unit": under.get("unit")}  # fmt: skip
    text = value.get("value") or plain_text(value)
    return {**absent, "value_type": "ST" if text else None, "value": text}


def _number(text: str | None, unit: str | None, kind: str) -> Columns:
    text = text.strip() if text else None
    if text is None:
        return {}
    if _NUMBER.fullmatch(text):
        whole = kind == "INT" and _WHOLE.fullmatch(text)
        return {"value_type": "INT" if whole else "PQ", "value": text, "unit": unit}
    return {"value_type": "ST", "value": " ".join(filter(None, (text, unit)))}


def _interval(value: etree._Element) -> Columns:
    """Two bounds are a range, one is a number with a comparator."""
    found = bounds(value, "value_low", "value_high", "unit")
    low, high = found.get("value_low"), found.get("value_high")
    if low and high:
        return {**found, "value_type": "IVL_PQ"}
    tag, sign = ("low", ">") if low else ("high", "<")
    bound = value.find(tag)
    if bound is None:
        return _number(value.get("value"), value.get("unit"), "PQ")
    sign += "=" if bound.get("inclusive", "true") != "false" else ""
    return {**_number(bound.get("value"), bound.get("unit"), "PQ"), "comparator": sign}


def _range(element: etree._Element) -> Columns:
    """What is normal: of several reference ranges the one that says so, or else the first."""
    ranges = list(element.iterfind("referenceRange/observationRange"))
    if not ranges:
        return {}
    normal = next((x for x in ranges if coding(x.find("interpretationCode"))[0] == "N"), ranges[0])
    value = normal.find("value")
    columns: Columns = {"normal": plain_text(normal.find("text"))}
    if value is not None and type_of(value) in ("IVL_PQ", "IVL_INT", "IVL_REAL"):
        columns |= bounds(value, "normal_low", "normal_high", "normal_unit")
    elif value is not None:
        columns["normal"] = plain_text(value) or columns["normal"]
    return columns
