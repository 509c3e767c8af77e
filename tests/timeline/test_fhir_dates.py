"""FHIR date strings as instants."""

import datetime as dt
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError
from ehrseq.timeline.dates import check_timezone, earliest, has_clock, latest

MICROSECOND = dt.timedelta(microseconds=1)


def read(text: str | None, timezone: str = "UTC") -> tuple[dt.datetime | None, dt.datetime | None]:
    frame = pl.DataFrame({"t": [text]}, schema={"t": pl.String})
    return frame.select(a=earliest(pl.col("t"), timezone), b=latest(pl.col("t"), timezone)).row(0)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2020", "2020-01-01T00:00:00", "2020-12-31T23:59:59.999999"),
        ("2020-02", "2020-02-01T00:00:00", "2020-02-29T23:59:59.999999"),
        ("2020-02-29", "2020-02-29T00:00:00", "2020-02-29T23:59:59.999999"),
        ("2020-02-29T10:11:12Z", "2020-02-29T10:11:12", "2020-02-29T10:11:12"),
        ("2020-02-29T23:30:00.25-01:00", "2020-03-01T00:30:00.250", "2020-03-01T00:30:00.250"),
        ("2020-02-29T10:11:12", "2020-02-29T10:11:12", "2020-02-29T10:11:12"),
    ],
)
def test_bounds(text: str, first: str, last: str) -> None:
    assert read(text) == (dt.datetime.fromisoformat(first), dt.datetime.fromisoformat(last))


@pytest.mark.parametrize(
    "text", [None, "", "2021-02-29", "2020-13", "20", "02/03/2020", "2020-01-01T25:00:00Z", "x" * 25]
)
def test_what_is_no_date_is_null(text: str | None) -> None:
    assert read(text) == (None, None)


def test_partial_dates_are_meant_in_the_hospital_zone() -> None:
    assert read("2020-07-01", "America/New_York") == (
        dt.datetime(2020, 7, 1, 4),
        dt.datetime(2020, 7, 2, 4) - MICROSECOND,
    )
    assert read("2020-07-01T10:00:00Z", "America/New_York")[0] == dt.datetime(2020, 7, 1, 10)
    # midnight of 15 October 2017 did not exist in São Paulo; the day began at one o'clock
    assert read("2017-10-15", "America/Sao_Paulo")[0] == dt.datetime(2017, 10, 15, 3)
    # the hour that is there twice: known only after the second
    assert read("2020-11-01T01:30:00", "America/New_York")[1] == dt.datetime(2020, 11, 1, 6, 30)


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60).filter(lambda minutes: minutes % 15 == 0),
    st.sampled_from([4, 7, 10, 25]),
)
def test_agrees_with_python(moment: dt.datetime, offset: int, letters: int) -> None:
    zoned = moment.replace(microsecond=0, tzinfo=dt.timezone(dt.timedelta(minutes=offset)))
    text = zoned.isoformat()[:letters]
    first, last = read(text)
    assert first is not None
    assert last is not None
    if letters == 25:
        assert first == last == zoned.astimezone(dt.UTC).replace(tzinfo=None)
    else:
        local = zoned.replace(tzinfo=None)
        assert first <= local <= last
        assert (last + MICROSECOND).strftime("%H:%M:%S.%f") == "00:00:00.000000"


def test_clock_and_zone_names() -> None:
    frame = pl.DataFrame({"t": ["2020", "2020-01-01", "2020-01-01T00:00:00Z", None]})
    assert frame.select(has_clock(pl.col("t")))["t"].to_list() == [False, False, True, None]
    check_timezone("Europe/Berlin")
    assert ZoneInfo("Europe/Berlin")
    with pytest.raises(ConfigError, match="Mars/Olympus"):
        check_timezone("Mars/Olympus")
