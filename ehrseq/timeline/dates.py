"""FHIR's date strings as instants: the first and the last microsecond that a text may mean.

A text may be partial ("2180", "2180-05", "2180-05-06"). What happened then is shown at the start of that period;
what became *known* then is only safe to show at its end. Times with an offset are honoured; texts without one (all
partial dates) are meant in the hospital's own zone, which the caller names. Results are UTC, without a zone.
Source: https://hl7.org/fhir/R4B/datatypes.html#dateTime (no seconds fraction beyond microseconds is kept).

>>> table = pl.DataFrame({"text": ["2180-05-06T22:23:00-05:00", "2180-05", None, "not a date"]})
>>> table.select(earliest(pl.col("text"))).to_series().to_list()
[datetime.datetime(2180, 5, 7, 3, 23), datetime.datetime(2180, 5, 1, 0, 0), None, None]
>>> table.select(latest(pl.col("text"))).to_series().to_list()[1]
datetime.datetime(2180, 5, 31, 23, 59, 59, 999999)
"""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from ehrseq.core.errors import ConfigError

_OFFSET_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%#z"
_LOCAL_FORMAT = "%Y-%m-%dT%H:%M:%S%.f"
_PARTIAL = (
    (10, "", "1d"),
    (7, "-01", "1mo"),
    (4, "-01-01", "1y"),
)  # length, what completes it, how long it lasts


def earliest(text: pl.Expr, timezone: str = "UTC") -> pl.Expr:
    """First instant that a FHIR date, dateTime or instant may mean. Null: absent or not a FHIR date.

    `text` String; returns datetime[us], UTC.
    """
    partial = [_local(_midnight(text, length, rest), timezone, "earliest") for length, rest, _ in _PARTIAL]
    return pl.coalesce(_clock(text, timezone), *partial)


def latest(text: pl.Expr, timezone: str = "UTC") -> pl.Expr:
    """Last instant that a FHIR date, dateTime or instant may mean; the same as `earliest` if it has a time of day."""
    partial = [
        _local(_midnight(text, length, rest).dt.offset_by(lasts), timezone, "latest")
        - pl.duration(microseconds=1)
        for length, rest, lasts in _PARTIAL
    ]
    return pl.coalesce(_clock(text, timezone), *partial)


def edges(texts: pl.Series, timezone: str = "UTC") -> tuple[pl.Series, pl.Series]:
    """`earliest` and `latest` of a column; one attempt where every text has a time of day and an offset.

    >>> [edge.to_list() for edge in edges(pl.Series(["2180-05-06T22:23:00Z"]))]
    [[datetime.datetime(2180, 5, 6, 22, 23)], [datetime.datetime(2180, 5, 6, 22, 23)]]
    """
    exact = _with_offset(texts).dt.replace_time_zone(None)
    if exact.null_count() == texts.null_count():
        return exact, exact
    text = pl.col(texts.name)
    both = texts.to_frame().select(earliest=earliest(text, timezone), latest=latest(text, timezone))
    return both["earliest"], both["latest"]


def has_clock(text: pl.Expr) -> pl.Expr:
    """Whether the text has a time of day. Null where the text is null."""
    return text.str.len_bytes() > 10


def check_timezone(name: str) -> None:
    """Raises: ConfigError if `name` is not an IANA zone such as `America/New_York`."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f'timezone "{name}" is not known. Expected an IANA name such as "Europe/Berlin".'
        ) from error


def _clock(text: pl.Expr, timezone: str) -> pl.Expr:
    with_offset = _with_offset(text)
    # masked by length: a text with an offset has at least 20 letters, and never costs a second attempt
    bare = pl.when(text.str.contains(r"T[^Z+\-]*$")).then(text)
    without = bare.str.to_datetime(_LOCAL_FORMAT, strict=False, time_unit="us")
    return pl.coalesce(with_offset.dt.replace_time_zone(None), _local(without, timezone, "latest"))


def _with_offset[T: (pl.Expr, pl.Series)](text: T) -> T:
    return text.str.to_datetime(_OFFSET_FORMAT, strict=False, time_unit="us", time_zone="UTC")


def _midnight(text: pl.Expr, length: int, rest: str) -> pl.Expr:
    dated = pl.when(text.str.len_bytes() == length).then(text + rest if rest else text)
    return dated.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))


def _local(naive: pl.Expr, timezone: str, ambiguous: str) -> pl.Expr:
    """Read wall clock time in `timezone`; a wall time that daylight saving skips is read an hour later."""
    if timezone == "UTC":
        return naive

    def zoned(time: pl.Expr) -> pl.Expr:
        read = time.dt.replace_time_zone(timezone, ambiguous=ambiguous, non_existent="null")  # type: ignore[arg-type]
        return read.dt.convert_time_zone("UTC").dt.replace_time_zone(None)

    return pl.coalesce(zoned(naive), zoned(naive.dt.offset_by("1h")))
