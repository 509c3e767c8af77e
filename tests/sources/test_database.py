"""Databases as sources, with a real PostgreSQL, SQLite and DuckDB: the same store as from files, whatever happens."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest

import ehrseq
from ehrseq.core.errors import SourceError
from ehrseq.mapping.check import check
from ehrseq.mapping.first import new
from ehrseq.mapping.preview import preview
from ehrseq.sources import database
from ehrseq.sources.database import Database, DatabaseLostError, Partition, batches, shown

pgserver = pytest.importorskip("pgserver")

SOURCE = """
source: clinic
timezone: UTC
subject: pid
tables:
  hosp/patients: {columns: {pid: integer, sex: string, born: date, alive: boolean}}
  hosp/labs: {columns: {lab: integer, pid: integer, at: datetime, number: number, exact: number, text: string}}
  hosp/tests: {shared: true, optional: true, skip: a dictionary nobody reads, columns: {test: integer}}
"""
PATIENTS = """
version: 1
resource: Patient
from: hosp/patients
key: [pid]
template: {gender: "CASE sex WHEN 'F' THEN 'female' ELSE 'male' END", birthDate: {$datetime: born}, active: alive}
"""
LABS = """
version: 1
resource: Observation
from: hosp/labs
key: [lab]
ignore: {exact: the same with more digits}
template:
  status: "'final'"
  code: {text: text}
  subject: {$reference: {patients: pid}}
  effectiveDateTime: {$datetime: at}
  valueQuantity: {$quantity: {value: number}}
"""
ROWS = 30_000
LAB = (
    "SELECT g AS lab, g % 50 AS pid, TIMESTAMP '2020-01-01' + g * INTERVAL '1 minute' AS at, "
    "CAST(g / 4.0 AS double precision) AS number, CAST(g / 8.0 AS numeric(12, 4)) AS exact, "
    "'test ' || CAST(g % 7 AS varchar) AS text FROM generate_series(1, {rows}) AS t(g)"
)
PERSON = (
    "SELECT g AS pid, CASE WHEN g % 2 = 0 THEN 'F' ELSE 'M' END AS sex, DATE '1950-01-01' AS born, "
    "g % 3 = 0 AS alive FROM generate_series(0, 49) AS t(g)"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, text in {"source": SOURCE, "patients": PATIENTS, "labs": LABS}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with the clinic in it."""
    running = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    url = running.get_uri()
    execute(url, "CREATE SCHEMA hosp")
    execute(url, f"CREATE TABLE hosp.labs AS {LAB.format(rows=ROWS)}")
    execute(url, "ALTER TABLE hosp.labs ADD PRIMARY KEY (lab)")
    execute(url, f"CREATE TABLE hosp.patients AS {PERSON}")  # without a key
    execute(url, "ANALYZE")
    yield url
    running.cleanup()


def execute(url: str, sql: str) -> None:
    import adbc_driver_postgresql.dbapi as postgresql

    with postgresql.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clinic as CSV files."""
    out = tmp_path_factory.mktemp("csv")
    (out / "hosp").mkdir()
    with duckdb.connect() as made:
        for name, sql in (("labs", LAB.format(rows=ROWS)), ("patients", PERSON)):
            made.execute(
                f"COPY ({sql}) TO '{out}/hosp/{name}.csv' (HEADER, TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S')"
            )
    return out


def resources(store: Path) -> pl.DataFrame:
    frames = [pl.read_parquet(path) for path in sorted(store.glob("Observation/*.parquet"))]
    return pl.concat(frames).sort("id").drop("_file", "_row")


@pytest.fixture(scope="module")
def from_files(source: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return resources(ehrseq.map(source, folder, tmp_path_factory.mktemp("fhir") / "out").out)


def test_postgresql_gives_the_same_store_as_files(
    source: Path, server: str, from_files: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ROWS_TOGETHER", 7_000)
    result = ehrseq.map(source, server, tmp_path / "fhir")
    assert result.manifest.rows == {"in": ROWS + 50, "used": ROWS + 50, "rejected": 0, "filtered": 0}
    assert resources(result.out).equals(from_files)
    files = pl.read_parquet(sorted(result.out.glob("Observation/*.parquet")))["_file"].unique().sort()
    assert files.to_list()[:2] == ["hosp.labs[1-6000]", "hosp.labs[12001-18000]"]
    assert ehrseq.map(source, server, tmp_path / "fhir").status == "unchanged"
    two = ehrseq.map(source, server, tmp_path / "two", workers=2)
    assert [(s.path, s.sha256) for s in two.manifest.shards] == [
        (s.path, s.sha256) for s in result.manifest.shards
    ]


def test_first_mappings_of_a_postgresql(server: str, tmp_path: Path) -> None:
    """A table in a schema that is not the usual one has its schema in its name; tables of the server are no tables."""
    execute(server, "CREATE SCHEMA extra")
    execute(server, "CREATE TABLE extra.falls AS SELECT pid, pid AS fall FROM hosp.patients")
    execute(server, "CREATE TABLE weights AS SELECT pid, 70.5 AS weight, now() AS at FROM hosp.patients")
    first = new(tmp_path / "draft", server, ["hosp/patients", "hosp/labs", "extra/falls", "weights"])
    assert sorted(name for name, *_ in first.lines) == [
        "extra/falls",
        "hosp/labs",
        "hosp/patients",
        "weights",
    ]
    assert "@" not in first.data or ":" not in first.data.partition("@")[0].removeprefix("postgresql:")
    assert check(tmp_path / "draft")[1] == []
    made = ehrseq.map(tmp_path / "draft", server, tmp_path / "fhir").manifest
    assert made.made["Observation"] >= ROWS
    (shown_row, *_) = preview(tmp_path / "draft", server, "labs", rows=1)
    assert shown_row.resource is not None
    execute(server, "DROP SCHEMA extra CASCADE")
    execute(server, "DROP TABLE weights")


def test_a_changed_row_is_noticed_and_only_its_bucket_is_mapped(
    source: Path, server: str, tmp_path: Path
) -> None:
    ehrseq.map(source, server, tmp_path / "fhir")
    execute(server, "UPDATE hosp.labs SET number = 1000 WHERE lab = 77")
    try:
        result = ehrseq.map(source, server, tmp_path / "fhir")
    finally:
        execute(server, "UPDATE hosp.labs SET number = 77 / 4.0 WHERE lab = 77")
    assert result.manifest.notes["changes"]["resources"] == {"Observation": {"changed": 1}}


def test_a_table_without_a_key_is_read_by_blocks(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_ROWS_TOGETHER", 5_000)
    execute(server, f"CREATE TABLE keyless AS {LAB.format(rows=ROWS)}")
    execute(server, "ANALYZE keyless")
    with Database(server) as opened:
        parts = opened._partitions("public", "keyless")
        found = [row for part in parts for batch in batches(part) for row in batch.column(0).to_pylist()]
    assert len(parts) == 6
    assert "ctid" in parts[1].where
    assert sorted(found) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_database_files(
    kind: str,
    source: Path,
    folder: Path,
    from_files: pl.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "_ROWS_TOGETHER", 7_000)
    path = tmp_path / f"clinic.{kind}"
    plain = tmp_path / "source"
    plain.mkdir()
    for name, text in {"source": SOURCE, "patients": PATIENTS, "labs": LABS}.items():
        prefix = "" if kind == "sqlite" else "hosp/"
        (plain / f"{name}.yaml").write_text(text.replace("hosp/", prefix))
    if kind == "duckdb":
        with duckdb.connect(str(path)) as made:
            made.execute("CREATE SCHEMA hosp")
            for name, sql in (("labs", LAB.format(rows=ROWS)), ("patients", PERSON)):
                made.execute(f"CREATE TABLE hosp.{name} AS {sql}")
    else:
        made = sqlite3.connect(path)
        made.execute(
            "CREATE TABLE labs (lab INTEGER PRIMARY KEY, pid INTEGER, at TEXT, number REAL, exact REAL, text TEXT)"
        )
        made.execute("CREATE TABLE patients (pid INTEGER, sex TEXT, born TEXT, alive INTEGER)")
        labs = pl.read_csv(folder / "hosp/labs.csv")
        people = pl.read_csv(folder / "hosp/patients.csv").with_columns(pl.col("alive").cast(pl.Int64))
        made.executemany("INSERT INTO labs VALUES (?, ?, ?, ?, ?, ?)", labs.rows())
        made.executemany("INSERT INTO patients VALUES (?, ?, ?, ?)", people.rows())
        made.commit()
        made.close()
    before = path.read_bytes()
    result = ehrseq.map(plain, str(path), tmp_path / "fhir")
    assert resources(result.out).equals(from_files)
    assert path.read_bytes() == before
    assert ehrseq.map(plain, str(path), tmp_path / "fhir").status == "unchanged"


def test_a_value_that_does_not_fit_is_a_reject(source: Path, tmp_path: Path) -> None:
    """SQLite lets words stand in a column of numbers."""
    for name, text in {"source": SOURCE, "patients": PATIENTS, "labs": LABS}.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("hosp/", ""))
    made = sqlite3.connect(tmp_path / "clinic.db")
    made.execute("CREATE TABLE patients (pid, sex, born, alive)")
    made.execute("CREATE TABLE labs (lab, pid, at, number, exact, text)")
    made.execute("INSERT INTO patients VALUES (1, 'F', '1950-01-01', 1)")
    made.execute(
        "INSERT INTO labs VALUES (1, 1, '2020-01-01 00:00:00', 'high', 1, 'x'), (2, 1, NULL, 5, 1, 'x')"
    )
    made.commit()
    made.close()
    result = ehrseq.map(tmp_path, str(tmp_path / "clinic.db"), tmp_path / "fhir", max_reject_fraction=1)
    assert result.manifest.sources["labs"].reasons == {"type": 1}
    rejects = pl.read_parquet(sorted(result.out.glob("rejects/*.parquet")))
    assert rejects.select("file", "row", "element").rows() == [("main.labs", 1, "number")]


def killer(server: str, stop: threading.Event, times: list[int]) -> None:
    """Ends every connection that is copying, `times[0]` times."""
    ending = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND query LIKE 'COPY%' AND state = 'active'"
    )
    import adbc_driver_postgresql.dbapi as postgresql

    with postgresql.connect(server, autocommit=True) as connection:
        while times[0] and not stop.is_set():
            with connection.cursor() as cursor:
                cursor.execute(ending)
                times[0] -= int(cursor.fetchone()[0])
            time.sleep(0.002)


def test_a_lost_connection_goes_on_behind_the_last_row(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PAUSE", 0.01)
    execute(server, f"CREATE TABLE long AS {LAB.format(rows=400_000)}")
    execute(server, "ALTER TABLE long ADD PRIMARY KEY (lab)")
    execute(server, "ANALYZE long")
    with Database(server) as opened:
        (part,) = opened._partitions("public", "long")
        stop, times = threading.Event(), [2]
        thread = threading.Thread(target=killer, args=(server, stop, times))
        seen: list[int] = []
        for number, batch in enumerate(batches(part)):
            if number == 0:
                thread.start()
                time.sleep(0.1)
            seen += batch.column(0).to_pylist()
        stop.set()
        thread.join()
    assert times[0] < 2, "nothing was ended"
    assert seen == list(range(1, 400_001))


def test_all_partitions_are_of_one_instant(source: Path, server: str) -> None:
    with Database(server) as opened:
        (part,) = opened._partitions("hosp", "patients")
        execute(server, "INSERT INTO hosp.patients VALUES (99, 'F', DATE '1950-01-01', true)")
        try:
            found = sum(batch.num_rows for batch in batches(part))
        finally:
            execute(server, "DELETE FROM hosp.patients WHERE pid = 99")
    assert found == 50


def test_nothing_can_be_written(server: str) -> None:
    with Database(server) as opened, pytest.raises(SourceError, match=r"25006|refuses"):
        opened.ask("INSERT INTO hosp.patients VALUES (98, 'F', DATE '1950-01-01', true) RETURNING pid")


def test_a_server_that_is_not_there_is_a_temporary_trouble(source: Path, tmp_path: Path) -> None:
    url = "postgresql://reader:s3cret@127.0.0.1:1/none"
    with pytest.raises(DatabaseLostError, match=r"postgresql://reader@127.0.0.1:1/none") as error:
        ehrseq.map(source, url, tmp_path / "fhir")
    assert error.value.exit_code == 75
    assert "s3cret" not in str(error.value)


def test_a_missing_table_and_a_changed_column_are_named(source: Path, server: str, tmp_path: Path) -> None:
    execute(server, "ALTER TABLE hosp.patients RENAME COLUMN sex TO gender")
    try:
        with pytest.raises(SourceError, match=r'lacks column "sex".*has column "gender"'):
            ehrseq.map(source, server, tmp_path / "fhir")
    finally:
        execute(server, "ALTER TABLE hosp.patients RENAME COLUMN gender TO sex")
    execute(server, "ALTER TABLE hosp.patients RENAME TO people")
    try:
        with pytest.raises(SourceError, match=r"has no table hosp\.patients"):
            ehrseq.map(source, server, tmp_path / "fhir")
    finally:
        execute(server, "ALTER TABLE hosp.people RENAME TO patients")


def test_no_password_is_ever_shown(source: Path, server: str, tmp_path: Path) -> None:
    url = server.replace("postgres:@", "postgres:t0p-secret@")
    assert "t0p-secret" in url
    command = [
        sys.executable,
        "-m",
        "ehrseq.cli",
        "map",
        str(source),
        url,
        "--out",
        str(tmp_path / "fhir"),
        "--json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["rows"]["in"] == ROWS + 50
    written = [path.read_bytes() for path in (tmp_path / "fhir").rglob("*") if path.is_file()]
    assert not any(b"t0p-secret" in text for text in [ran.stdout.encode(), ran.stderr.encode(), *written])
    assert "t0p-secret" not in repr(Partition(url, "x", "x"))
    assert shown("postgresql:///db?host=/tmp&password=x") == "postgresql:///db?host=/tmp"


def test_a_delta_of_a_database_reads_what_is_new(server: str, tmp_path: Path) -> None:
    execute(server, "CREATE SCHEMA night")
    execute(server, f"CREATE TABLE night.patients AS {PERSON}")
    execute(server, f"CREATE TABLE night.labs AS {LAB.format(rows=500)}")
    execute(server, "ALTER TABLE night.labs ADD PRIMARY KEY (lab)")
    keyed = SOURCE.replace("hosp/labs: {", "hosp/labs: {primary_key: [lab], since: at, ")
    for name, text in {"source": keyed, "patients": PATIENTS, "labs": LABS}.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("hosp/", "night/"))
    out = tmp_path / "fhir"
    ehrseq.map(tmp_path, server, out, keep_rows=True)
    execute(
        server,
        "INSERT INTO night.labs SELECT g + 500, 7, TIMESTAMP '2020-02-01' + g * INTERVAL '1 minute', 1, 1, 'new' "
        "FROM generate_series(1, 3) AS t(g)",
    )
    result = ehrseq.map(tmp_path, server, out, delta=True)
    assert result.manifest.notes["delivered"]["night/labs"] == {"delivered": 4, "replaced": 1}
    assert result.manifest.notes["changes"] == {"resources": {"Observation": {"added": 3}}, "patients": 1}
    scratch = ehrseq.map(tmp_path, server, tmp_path / "scratch")
    assert resources(out).equals(resources(scratch.out))
