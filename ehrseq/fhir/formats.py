"""What the text of a FHIR primitive must look like, as polars expressions.

Source: HL7 FHIR R4B, section 2.24.0.1 (primitive types) and the regular expressions given there. Dates must
also be days of the calendar, which those expressions do not see.
"""

import polars as pl

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # there is no year 0000
_DAY = rf"{_YEAR}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_ID = r"[A-Za-z0-9\-.]{1,64}"
_BASE64 = r"(?:\s*[A-Za-z0-9+/]){4}"
_BASE64_END = r"(?:(?:\s*[A-Za-z0-9+/]){2}(?:\s*=){2}|(?:\s*[A-Za-z0-9+/]){3}\s*=)"

_PATTERNS: dict[str, tuple[str, str]] = {
    "id": (f"^{_ID}$", "must be 1 to 64 letters, digits, hyphens and dots"),
    "code": (r"^\S+(?:\s\S+)*$", "must be words with single spaces between them"),
    "uri": (r"^\S+$", "must not be empty or have spaces"),
    "url": (r"^\S+$", "must not be empty or have spaces"),
    "canonical": (r"^\S+$", "must not be empty or have spaces"),
    "oid": (r"^urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+$", "must be urn:oid: and an OID"),
    "uuid": (r"^urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "must be urn:uuid: and a UUID in lower case"),
    "date": (rf"^(?:{_DAY}|{_YEAR}(?:-(?:0[1-9]|1[0-2]))?)$", "must be YYYY, YYYY-MM or YYYY-MM-DD"),
    "dateTime": (
        rf"^(?:{_DAY}(?:T{_CLOCK}{_ZONE})?|{_YEAR}(?:-(?:0[1-9]|1[0-2]))?)$",
        "must be YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss with a time zone",
    ),
    "instant": (rf"^{_DAY}T{_CLOCK}{_ZONE}$", "must be YYYY-MM-DDThh:mm:ss with a time zone"),
    "time": (rf"^{_CLOCK}$", "must be hh:mm:ss"),
    "base64Binary": (rf"^(?:(?:{_BASE64})+{_BASE64_END}?|{_BASE64_END})\s*$", "must be base64"),
}  # fmt: skip
_CALENDAR = ("date", "dateTime", "instant")
_RANGES = {  # both ends belong to the range
    "integer": (-(2**31), 2**31 - 1),
    "unsignedInt": (0, 2**31 - 1),
    "positiveInt": (1, 2**31 - 1),
}
_REFERENCE_ELSEWHERE = r"#\S*|urn:(?:uuid|oid):\S+|https?://\S+"


def malformed(type_name: str, value: pl.Expr) -> tuple[pl.Expr, str] | None:
    """An expression that is true where `value` is no `type_name`, and what it must be; None if all values are.

    >>> wrong, message = malformed("date", pl.col("d"))
    >>> pl.DataFrame({"d": ["2024-02-29", "2023-02-29", "2023", None]}).select(wrong)["d"].to_list()
    [False, True, False, None]
    """
    if type_name in _RANGES:
        low, high = _RANGES[type_name]
        return ~value.is_between(low, high), f"must be between {low} and {high}"
    if type_name == "decimal":
        return ~value.is_finite(), "must be a finite number"
    if type_name == "boolean":
        return None
    if type_name not in _PATTERNS:
        return value.str.len_bytes() == 0, "must not be empty"
    pattern, message = _PATTERNS[type_name]
    wrong = ~value.str.contains(pattern)
    if type_name in _CALENDAR:
        day = value.str.head(10)
        wrong |= (day.str.len_bytes() == 10) & day.str.to_date("%Y-%m-%d", strict=False).is_null()
        message += ", and a day of the calendar"
    return wrong, message


def misdirected(targets: tuple[str, ...], reference: pl.Expr) -> tuple[pl.Expr, str]:
    """An expression that is true where a literal reference is none, or leads to a type it may not.

    >>> wrong, message = misdirected(("Patient",), pl.col("r"))
    >>> pl.DataFrame({"r": ["Patient/1", "Group/1", "Patient/", "#p"]}).select(wrong)["r"].to_list()
    [False, True, True, False]
    """
    anything = not targets or "Resource" in targets
    types = "[A-Z][A-Za-z]*" if anything else "|".join(targets)
    pattern = rf"^(?:(?:{types})/{_ID}(?:/_history/{_ID})?|{_REFERENCE_ELSEWHERE})$"
    named = "any type" if anything else ", ".join(targets)
    return ~reference.str.contains(
        pattern
    ), f"must be Type/id of {named}, or #id, urn:uuid:…, or an absolute URL"
