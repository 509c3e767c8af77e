"""`kill -9` of the real command while a file comes: the next goes on where it was, with the same export."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bulk_import import beside, content, fill, imported, stored
from bulk_server import BulkServer, Handler, stalls_half_way, status

from ehrseq.sources.bulk.errors import ServerError
from ehrseq.sources.bulk.state import State


@pytest.fixture
def server() -> Iterator[BulkServer]:
    with BulkServer() as running:
        fill(running, 300)
        yield running
        assert running.complaints == []


def command(server: BulkServer, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ehrseq.cli",
        "import",
        "bulk",
        server.url,
        "--out",
        str(out),
        "--json",
        *more,
    ]


def interrupted(server: BulkServer, out: Path, number: signal.Signals) -> subprocess.Popen[bytes]:
    """The command, killed while it holds half of a file and waits for the rest."""
    child = subprocess.Popen(command(server, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.half_way.wait(60)
    parts = out.with_name(".fhir.bulk") / "files"
    deadline = time.monotonic() + 30
    while not _halves(parts) or len(list(parts.glob("*.ndjson"))) < 2:
        assert time.monotonic() < deadline, list(parts.iterdir())
        time.sleep(0.02)
    os.kill(child.pid, number)
    if number == signal.SIGTERM:
        server.gate.set()
    child.wait(60)
    server.gate.set()
    return child


def _halves(parts: Path) -> list[Path]:
    return [path for path in parts.glob("*.part") if path.stat().st_size > 10_000]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_a_file_comes(server: BulkServer, tmp_path: Path, number: signal.Signals):
    server.fail("GET /files/job-0/0", stalls_half_way)
    child = interrupted(server, tmp_path / "fhir", number)
    assert child.returncode == (-9 if number == signal.SIGKILL else 75)
    assert not (tmp_path / "fhir").exists()
    assert (tmp_path / ".fhir.bulk").stat().st_mode & 0o077 == 0
    fetched = {one.path for one in server.seen("GET /files")}
    before = len(server.asked)
    done = subprocess.run(command(server, tmp_path / "fhir"), capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["status"], told["rows"]["used"]) == ("made", 601)
    assert stored(tmp_path / "fhir") == server.present()
    assert server.exports == 1
    again = [one for one in server.asked[before:] if "/files/" in one.path]
    assert [one.path for one in again] == ["/files/job-0/0?sig=secret-0"]
    assert again[0].path in fetched
    assert int(again[0].headers["range"].removeprefix("bytes=").removesuffix("-")) > 10_000
    assert beside(tmp_path / "fhir") == []
    assert content(imported(server, tmp_path / "other/fhir").out) == content(tmp_path / "fhir")


@pytest.mark.parametrize("where", ["GET /status", "GET /files/job-0/2", "DELETE /status"])
def test_killed_at_any_request(server: BulkServer, tmp_path: Path, where: str):
    children: list[subprocess.Popen[bytes]] = []

    def kills(handler: Handler) -> bool:
        os.kill(children[0].pid, signal.SIGKILL)
        children[0].wait(60)
        return False

    server.fail(where, kills)
    quiet = subprocess.DEVNULL
    children.append(subprocess.Popen(command(server, tmp_path / "fhir"), stdout=quiet, stderr=quiet))
    assert children[0].wait(60) == -signal.SIGKILL
    whole = list((tmp_path / ".fhir.bulk/files").glob("*.ndjson"))
    before = len(server.asked)
    imported(server, tmp_path / "fhir")
    assert stored(tmp_path / "fhir") == server.present()
    assert server.exports == 1
    assert sum("/files/" in one.path for one in server.asked[before:]) == 3 - len(whole)
    assert len(whole) == 3 or where != "DELETE /status"
    assert beside(tmp_path / "fhir") == []


def test_killed_before_a_whole_file_has_its_name(
    server: BulkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object) -> None:
        raise ServerError("killed")

    with monkeypatch.context() as patched, pytest.raises(ServerError, match="killed"):
        patched.setattr("ehrseq.sources.bulk.transfer._put", killed)
        imported(server, tmp_path / "fhir", types=["Patient"])
    imported(server, tmp_path / "fhir", types=["Patient"])
    assert [one.headers.get("range", "")[:6] for one in server.seen("GET /files")] == ["", "bytes="]
    assert len(stored(tmp_path / "fhir")) == 300


def test_killed_when_the_store_is_in_place(
    server: BulkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException): ...

    clear_state = State.clear

    def clear(state: State) -> None:
        if (tmp_path / "fhir").exists():
            raise Killed
        clear_state(state)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(State, "clear", clear)
        imported(server, tmp_path / "fhir")
    assert beside(tmp_path / "fhir") == [".fhir.bulk"]
    before = content(tmp_path / "fhir")
    server.records.pop(("Organization", "ward"))
    assert imported(server, tmp_path / "fhir").status == "unchanged"
    assert content(tmp_path / "fhir") == before
    assert beside(tmp_path / "fhir") == []


def test_the_command_says_what_a_scheduler_needs(server: BulkServer, tmp_path: Path):
    server.fail("GET /status", status(500), 10_000)
    patience = command(server, tmp_path / "fhir", "--patience", "0.1")
    done = subprocess.run(patience, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 75
    assert "run the same command again" in done.stderr


def test_a_library_that_is_not_installed_is_named(tmp_path: Path):
    hide = (
        "import sys; sys.modules['httpx'] = None; sys.argv[0] = 'ehrseq'; from ehrseq.cli import main; main()"
    )
    argv = ["import", "bulk", "https://fhir.example/r4", "--out", str(tmp_path / "fhir")]
    done = subprocess.run([sys.executable, "-c", hide, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs httpx, which is not installed. `pip install ehrseq[bulk]`" in done.stderr
