"""Databases that are difficult: odd values, views, logs beside the file, impatient servers, odd passwords."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, SOURCE, TABLES, write_mappings

import ehrseq
from ehrseq.core.errors import ExitCode, SourceError
from ehrseq.sources import database
from ehrseq.sources.database import Database, DatabaseLostError, batches, shown

pgserver = pytest.importorskip("pgserver")
pg = pytest.importorskip("adbc_driver_postgresql.dbapi")
TYPES = {
    "patients": "pid int primary key, sex text, born date",
    "visits": "visit int primary key, pid int, began timestamp, ended timestamp",
    "labs": "lab int primary key, pid int, visit int, test int, at timestamp, filed timestamp, number numeric, "
    "text text, unit text",
    "tests": "test int, name text",
}
MANY = 20_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield running.get_uri()
    running.cleanup()


def execute(url: str, *statements: str) -> list[tuple]:
    with closing(pg.connect(url, autocommit=True)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if statement.startswith("SELECT") else []


def inserts(tables: dict[str, str]) -> list[str]:
    found = []
    for name, types in TYPES.items():
        found.append(f"create table {name} ({types})")
        for line in tables[name].splitlines()[1:]:
            values = ", ".join(f"'{value}'" if value else "null" for value in line.split(","))
            found.append(f"insert into {name} values ({values})")
    return found


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A PostgreSQL database with the tables of the tiny hospital."""
    name = f"t{abs(hash(request.node.name))}"
    execute(server, f"create database {name}")
    made = server.replace("/postgres?", f"/{name}?")
    execute(made, *inserts(TABLES))
    return made


def resources(out: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for path in sorted(out.glob("[A-Z]*/*.parquet")):
        rows = pl.read_parquet(path).drop("_file", "_row").to_dicts()
        found.setdefault(path.parent.name, []).extend(rows)
    return {name: sorted(rows, key=lambda row: row["id"]) for name, rows in found.items()}


def test_a_value_that_does_not_fit_is_a_reject(tmp_path: Path, url: str):
    source = write_mappings(tmp_path / "source")
    execute(
        url,
        "update labs set number = 'NaN' where lab = 1",
        "update visits set began = 'infinity' where visit = 6",
    )
    ehrseq.map(source, url, tmp_path / "fhir", max_reject_fraction=1)
    found = pl.read_parquet(sorted((tmp_path / "fhir/rejects").glob("*.parquet"))).filter(
        pl.col("rule") == "type"
    )
    assert set(found.select("table", "row", "element").rows()) == {
        ("labs", 1, "number"),
        ("visits", 2, "began"),
    }


def test_a_decimal_comma_of_files_is_not_one_of_numbers(tmp_path: Path, url: str):
    changed = SOURCE.replace("tables:", 'decimal: ","\nthousands: "."\ntables:', 1)
    source = write_mappings(tmp_path / "source", source=changed)
    ehrseq.map(source, url, tmp_path / "fhir", max_reject_fraction=1)
    values = [row["valueQuantity"] for row in resources(tmp_path / "fhir")["Observation"]]
    assert 1.5 in [value["value"] for value in values if value]


def many(url: str) -> None:
    execute(
        url,
        "create table big (n int, t text)",
        f"insert into big select g, repeat('x', 3000) from generate_series(1, {MANY}) g",
    )


def big(opened: Database) -> database.Partition:
    return opened._partitions("public", "big")[0]


def kill(url: str, keep: str) -> None:
    """End every backend of the database that reads rows; `keep`: or all of them."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND pid <> pg_backend_pid() {keep}",
    )


def test_a_database_that_stays_away_is_a_temporary_failure(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_PAUSE", 0.01)
    many(url)
    with Database(url) as opened, pytest.raises(DatabaseLostError) as failed:
        for _ in batches(big(opened)):
            kill(url, "")  # and the snapshot with it
    assert failed.value.exit_code == ExitCode.TEMPORARY


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://bob:hemlich@127.0.0.1:1/db",
        "postgresql://bob:he/m@lich@127.0.0.1:1/db",
        "postgresql://bob@127.0.0.1:1/db?password=hemlich&connect_timeout=1",
    ],
)
def test_a_password_is_never_told(tmp_path: Path, place: str):
    for part in ("hemlich", "m@lich", "lich@"):
        assert part not in shown(place)
    source = write_mappings(tmp_path / "source")
    done = subprocess.run(
        [sys.executable, "-m", "ehrseq.cli", "map", str(source), place, "--out", str(tmp_path / "fhir")],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == ExitCode.TEMPORARY, done.stderr
    assert "lich" not in done.stdout + done.stderr
    assert "127.0.0.1" in done.stderr


def test_statistics_decide_nothing(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    """Where a row stands in the source is the same before the server has counted its rows and after."""
    monkeypatch.setattr(database, "_ROWS_TOGETHER", 2)
    source = write_mappings(tmp_path / "source")
    before = ehrseq.map(source, url, tmp_path / "before")
    execute(url, "ANALYZE")
    after = ehrseq.map(source, url, tmp_path / "after")
    assert [shard.sha256 for shard in before.manifest.shards] == [
        shard.sha256 for shard in after.manifest.shards
    ]


def test_what_is_committed_but_not_yet_in_the_file_is_noticed(tmp_path: Path):
    source, place = write_mappings(tmp_path / "source"), tmp_path / "a?b%20#.sqlite"
    with closing(sqlite3.connect(place)) as lite:
        lite.execute("pragma journal_mode = wal")
        for statement in inserts(TABLES):
            lite.execute(statement)
        lite.commit()
        lite.execute("pragma wal_checkpoint(truncate)")
        ehrseq.map(source, place, tmp_path / "fhir")
        lite.execute("update labs set number = 9 where lab = 1")
        lite.commit()
        assert ehrseq.map(source, place, tmp_path / "fhir").status == "made"


def test_a_view_is_not_gone_on_with(url: str, monkeypatch: pytest.MonkeyPatch):
    """Its rows have no order, so nobody can say which were read before the connection dropped."""
    monkeypatch.setattr(database, "_PAUSE", 0.01)
    many(url)
    execute(url, "create view seen as select * from big")
    with Database(url) as opened, pytest.raises(DatabaseLostError):
        for _ in batches(opened._partitions("public", "seen")[0]):
            kill(url, "AND state = 'active'")


def test_a_server_that_ends_idle_transactions(url: str):
    execute(
        url,
        f"alter database {url.split('/')[3].split('?')[0]} set idle_in_transaction_session_timeout = '50ms'",
    )
    with Database(url) as opened:
        (part,) = opened._partitions("public", "labs")
        time.sleep(0.3)
        assert sum(batch.num_rows for batch in batches(part)) == 5


def test_a_database_that_does_not_exist_needs_a_person(server: str):
    with pytest.raises(SourceError, match="refuses"):
        Database(server.replace("/postgres?", "/nowhere?"))


def test_sqlite_has_no_schemas(tmp_path: Path):
    source = write_mappings(
        tmp_path / "source",
        source=SOURCE.replace("  tests:", "  hosp/tests:"),
        labs=LABS.replace("{tests: test}", "{hosp/tests: test}"),
    )
    with closing(sqlite3.connect(tmp_path / "h.sqlite")) as lite:
        for statement in inserts(TABLES):
            lite.execute(statement)
        lite.commit()
    assert ehrseq.map(source, tmp_path / "h.sqlite", tmp_path / "fhir").status == "made"
