"""A server that fails in every way: the client waits, goes on, begins anew or says what is wrong, and loses nothing."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bulk_import import beside, content, fill, imported, jwk, patient, stored
from bulk_server import (
    BulkServer,
    Handler,
    breaks_after,
    hang_up,
    outcome,
    retry_at,
    sends,
    status,
)
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import BusyError, ConfigError, ExitCode, SourceError
from ehrseq.sources.bulk.errors import BadExportError, ServerError
from ehrseq.sources.bulk.hosts import Hosts
from ehrseq.sources.bulk.waiting import Clock


@pytest.fixture
def server() -> Iterator[BulkServer]:
    with BulkServer() as running:
        fill(running)
        yield running
        assert running.complaints == []


PLACES = ["GET .*export", "GET /status", "GET /files"]
FAULTS = {
    "429 seconds": (status(429, Retry_After="120"), 126),
    "429 date": (retry_at(429, 120), 126),
    "429": (status(429), 0.75),
    "503 seconds": (status(503, Retry_After="30"), 31.5),
    "500": (status(500), 0.75),
    "200 page": (status(200, b"<html>"), 0.75),
    "502 page": (status(502, b"<html>"), 0.75),
    "500 transient": (status(500, outcome("transient")), 0.75),
    "hang up": (hang_up, 0.75),
}


@pytest.mark.parametrize(
    ("where", "fault"),
    [(PLACES[1], fault) for fault in FAULTS]
    + [(where, fault) for where in PLACES[::2] for fault in ("429 date", "503 seconds", "hang up")],
)
def test_it_waits_as_asked_and_goes_on(server: BulkServer, tmp_path: Path, where: str, fault: str):
    slept: list[float] = []
    server.fail(where, FAULTS[fault][0])
    clock = Clock(sleep=slept.append, jitter=lambda: 0.5)
    result = imported(server, tmp_path / "fhir", clock=clock, types=["Patient"])
    assert len(stored(result.out)) == 3
    assert slept == pytest.approx([FAULTS[fault][1]], abs=1.1 if "date" in fault else 1e-6)
    assert server.count("GET .*export") == 1 + (where == PLACES[0])
    assert server.jobs == {}


def test_pauses_grow_and_are_bounded(server: BulkServer, tmp_path: Path):
    slept: list[float] = []
    server.fail("GET /status", status(500), 9)
    imported(server, tmp_path / "fhir", clock=Clock(sleep=slept.append, jitter=lambda: 1.0))
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("where", PLACES)
def test_a_server_that_fails_for_an_hour_ends_the_run_and_the_same_command_goes_on(
    server: BulkServer, tmp_path: Path, where: str
):
    slept: list[float] = []
    server.fail(where, status(500), 10_000)
    with pytest.raises(
        ServerError, match=r"500, for 3,\d{3} s now; --patience is 3,600 s.*same command"
    ) as raised:
        imported(server, tmp_path / "fhir", clock=Clock(sleep=slept.append), types=["Patient"])
    assert raised.value.exit_code == ExitCode.TEMPORARY
    assert 3500 < sum(slept) <= 3600
    assert not (tmp_path / "fhir").exists()
    assert server.count("DELETE") == 0
    server.faults.clear()
    result = imported(server, tmp_path / "fhir", types=["Patient"])
    assert len(stored(result.out)) == 3
    assert server.exports == 1
    assert beside(result.out) == []


def test_a_wait_beyond_patience_is_not_waited(server: BulkServer, tmp_path: Path):
    server.fail("GET /status", status(503, Retry_After="86400"))
    slept: list[float] = []
    with pytest.raises(ServerError, match="asks to wait 86,400 s more; --patience is 3,600 s"):
        imported(server, tmp_path / "fhir", clock=Clock(sleep=slept.append))
    assert slept == []


def test_an_export_that_takes_too_long_is_gone_on_with(server: BulkServer, tmp_path: Path):
    server.polls_needed = 12
    with pytest.raises(
        ServerError, match=r"the server prepares it, 40%, for 7[34] s now.*--max-wait is 80 s"
    ):
        clock = Clock(sleep=lambda _: None, jitter=lambda: 0.5)
        imported(server, tmp_path / "fhir", max_wait=80, patience=1, clock=clock)
    imported(server, tmp_path / "fhir", max_wait=80)
    assert server.exports == 1


def test_a_server_that_is_not_there(tmp_path: Path):
    with BulkServer() as gone:
        pass
    with pytest.raises(ServerError, match=r"gives no answer .ConnectError."):
        imported(gone, tmp_path / "fhir", patience=10)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            status(400, outcome("invalid", "no\nsuch _type")),
            ConfigError,
            r"answered 400 \(invalid: no such _type\)",
        ),
        (status(403, outcome("forbidden")), ConfigError, "may not export this"),
        (status(404), ConfigError, "Check the URL"),
        (status(501, outcome("not-supported")), ServerError, "cannot export"),
        (
            status(500, outcome("processing", "broken")),
            ServerError,
            r"cannot export \(500\) \(processing: broken\)",
        ),
        (status(200, outcome("informational")), ConfigError, "answered 200 .*expected 202"),
        (status(202), SourceError, "without Content-Location"),
        (status(202, Content_Location="file:///etc/passwd"), ConfigError, "no https URL"),
        (
            status(202, Content_Location="https://elsewhere.test/1"),
            ConfigError,
            "elsewhere.test, which is not allowed",
        ),
        (status(202, Content_Location="http://elsewhere.test/1"), ConfigError, "not encrypted"),
    ],
)
def test_an_export_that_is_refused(server: BulkServer, tmp_path: Path, answer: Any, error: Any, message: str):
    server.fail("GET .*export", answer, 10_000)
    with pytest.raises(error, match=message):
        imported(server, tmp_path / "fhir")
    assert len(server.asked) == 1
    assert beside(tmp_path / "fhir") == []


def test_an_export_that_fails_is_dropped(server: BulkServer, tmp_path: Path):
    server.fail("GET /status", status(500, outcome("processing", "Mr. Secret")))
    with pytest.raises(ServerError, match=r"the export failed .500.*starts another") as raised:
        imported(server, tmp_path / "fhir")
    assert "Secret" not in str(raised.value)
    assert server.jobs == {}
    imported(server, tmp_path / "fhir")
    assert server.exports == 2


@settings(max_examples=10, deadline=None)
@given(
    breaks=st.lists(st.integers(0, 5000), max_size=4),
    ranges=st.booleans(),
    packed=st.booleans(),
    etags=st.booleans(),
)
def test_a_file_that_breaks_off_anywhere_arrives_whole(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], ranges: bool, packed: bool, etags: bool
):
    out = tmp_path_factory.mktemp("breaks") / "fhir"
    with BulkServer(ranges=ranges, packed=packed, etags=etags) as server:
        fill(server, 40)
        for place in breaks:
            server.fail("GET /files/job-0/0", breaks_after(place))
        imported(server, out, types=["Patient"])
        assert stored(out) == {key: record for key, record in server.present().items() if key[0] == "Patient"}
        assert server.complaints == []
        assert server.exports == 1


def test_what_has_come_is_not_fetched_again(server: BulkServer, tmp_path: Path):
    server.fail("GET /files", breaks_after(200))
    server.fail("GET /files", breaks_after(50))
    imported(server, tmp_path / "fhir", types=["Patient"])
    asked = [one.headers.get("range") for one in server.seen("GET /files")]
    assert asked == [None, "bytes=200-", "bytes=250-"]


def test_a_changed_file_is_not_pieced_together(server: BulkServer, tmp_path: Path):
    server.fail("GET /files", breaks_after(200))

    def changes(handler: Handler) -> bool:
        file = handler.bulk.jobs["job-0"].files[0]
        file.body = file.body.replace(b"1980", b"1981")
        return False

    server.fail("GET /files", changes)
    result = imported(server, tmp_path / "fhir", types=["Patient"])
    assert {record["birthDate"] for record in stored(result.out).values()} == {"1981-01-02"}


def test_a_server_that_goes_on_elsewhere_is_not_believed(server: BulkServer, tmp_path: Path):
    server.fail("GET /files", breaks_after(200))
    server.fail("GET /files", status(206, b"x" * 9, Content_Range="bytes 100-108/109"))
    server.fail("GET /files", breaks_after(200))
    server.fail("GET /files", status(206, b"x" * 9, Content_Range="bytes 200-208/209", ETag='"another"'))
    result = imported(server, tmp_path / "fhir", types=["Patient"])
    assert len(stored(result.out)) == 3
    assert [one.headers.get("range") for one in server.seen("GET /files")] == [None, "bytes=200-"] * 2 + [
        None
    ]


CHANGES = {
    "within a line": lambda body: body[:-30],
    "is no NDJSON": lambda body: b"<html>sorry</html>\n",
    "where the manifest says": lambda body: b"".join(body.splitlines(keepends=True)[:-1]),
    "in its compression": lambda body: gzip.compress(body)[:-9],
}


@pytest.mark.parametrize("wrong", CHANGES)
def test_a_file_that_is_not_whole_is_fetched_again_and_in_the_end_refused(
    server: BulkServer, tmp_path: Path, wrong: str
):
    server.counts = wrong == "where the manifest says"
    server.fail("GET /files", sends(CHANGES[wrong]), 2)
    imported(server, tmp_path / "1/fhir", types=["Patient"])
    assert len(stored(tmp_path / "1/fhir")) == 3
    server.fail("GET /files", sends(CHANGES[wrong]), 10_000)
    with pytest.raises(BadExportError, match=wrong) as raised:
        imported(server, tmp_path / "2/fhir", types=["Patient"])
    assert raised.value.exit_code == ExitCode.DATA_QUALITY
    assert server.jobs == {}
    assert beside(tmp_path / "2/fhir") == []


def test_a_last_line_needs_no_line_feed_and_a_store_may_send_gz_files(server: BulkServer, tmp_path: Path):
    server.fail("GET /files", sends(lambda body: body[:-1]))
    server.fail("GET /files", sends(gzip.compress))
    server.fail("GET /files", sends(lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:])))
    result = imported(server, tmp_path / "fhir")
    assert stored(result.out) == server.present()


def test_sizes_are_capped(server: BulkServer, tmp_path: Path):
    fill(server, 200)
    server.packed = True
    with pytest.raises(ConfigError, match="larger than --max-file-gb 1e-05"):  # its 10 kB when decompressed
        imported(server, tmp_path / "fhir", max_file_gb=1e-5, types=["Patient"])
    server.packed = False
    with pytest.raises(ConfigError, match="larger than --max-file-gb 1e-05"):
        imported(server, tmp_path / "fhir", max_file_gb=1e-5, types=["Patient"])
    imported(server, tmp_path / "fhir", types=["Patient"])
    assert server.exports == 1


@pytest.mark.parametrize("code", [403, 404, 410])
def test_links_that_expire_are_asked_for_afresh(server: BulkServer, tmp_path: Path, code: int):
    server.fail("GET /files/job-0/1", breaks_after(100))

    def expires(handler: Handler) -> bool:
        handler.bulk.expire_links()
        return status(code)(handler)

    server.fail("GET /files/job-0/1", expires)
    result = imported(server, tmp_path / "fhir")
    assert stored(result.out) == server.present()
    assert server.exports == 1
    assert server.seen("GET /files/job-0/1")[-1].headers["range"] == "bytes=100-"


def test_links_may_expire_as_often_as_something_comes(server: BulkServer, tmp_path: Path):
    for place in range(4):
        server.fail("GET /files", breaks_after(40 + place))
        server.fail("GET /files", lambda handler: handler.bulk.expire_links() or status(403)(handler))
    imported(server, tmp_path / "fhir", types=["Patient"])
    assert (server.exports, server.links) == (1, 4)
    assert server.seen("GET /files")[-1].headers["range"] == "bytes=166-"


def test_fresh_links_may_come_in_another_order(server: BulkServer, tmp_path: Path):
    server.lines_per_file, server.counts = (
        1,
        False,
    )  # three files of each type that differ by their paths alone

    def expires(handler: Handler) -> bool:
        handler.bulk.expire_links()
        handler.bulk.mixed = True
        return status(403)(handler)

    server.fail("GET /files/job-0/4", expires)
    result = imported(server, tmp_path / "fhir")
    assert stored(result.out) == server.present()
    assert server.exports == 1


def test_links_that_stay_refused_begin_a_new_export(
    server: BulkServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from ehrseq.core import progress

    progress.set_quiet(False)
    server.fail("GET /files/job-0", status(410), 10_000)
    result = imported(server, tmp_path / "fhir")
    assert stored(result.out) == server.present()
    assert (server.exports, server.jobs) == (2, {})
    assert '"begins": "anew", "why": "http://127.0.0.1' in capsys.readouterr().err
    server.fail("GET /files", status(403), 10_000)
    with pytest.raises(ServerError, match="So it went with 2 exports"):
        imported(server, tmp_path / "other")
    assert server.jobs == {}


def test_an_export_that_the_server_has_lost_begins_anew(server: BulkServer, tmp_path: Path):
    server.fail("GET /files/job-0/1", status(500), 10_000)
    with pytest.raises(ServerError):
        imported(server, tmp_path / "fhir")
    server.faults.clear()
    server.jobs.clear()
    server.put(**patient("late"))
    result = imported(server, tmp_path / "fhir")
    assert stored(result.out) == server.present()
    assert server.exports == 2


def test_another_request_gives_up_the_export_under_way(server: BulkServer, tmp_path: Path):
    server.fail("GET /files", status(500), 10_000)
    for number, options in enumerate([{}, {"types": ["Patient"]}, {"types": ["Patient"], "restart": True}]):
        with pytest.raises(ServerError):
            imported(server, tmp_path / "fhir", **options)
        assert set(server.jobs) == {f"job-{number}"}


@pytest.mark.parametrize("needs_token", [False, True])
def test_files_on_an_allowed_host_never_see_the_token(tmp_path: Path, needs_token: bool):
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "key").write_text(json.dumps(jwk(key, kid="k")))
    who = {"client_id": "ehrseq-test", "key": tmp_path / "key"}
    with BulkServer(storage=True, needs_token=needs_token, keys={"k": key.public_key()}) as server:
        fill(server)
        with pytest.raises(ConfigError, match=f"on host {server.files_host}, which is not allowed"):
            imported(server, tmp_path / "fhir", **who)
        assert not any(one.storage for one in server.asked)
        result = imported(server, tmp_path / "fhir", **who, allow_hosts=[server.files_host])
        assert stored(result.out) == server.present()
        assert sum(one.storage for one in server.asked) == 3
        assert server.complaints == []
        assert server.exports == 1


@pytest.mark.parametrize("where", ["export", "/status", "/files"])
def test_redirects_stay_on_allowed_hosts(tmp_path: Path, where: str):
    with BulkServer(storage=True) as server:
        fill(server)
        server.files_host = f"127.0.0.1:{server.port}"
        away = server.other_url
        server.fail(f"GET .*{where}", lambda handler: status(307, Location=away + handler.path)(handler))
        with pytest.raises(ConfigError, match=r"a redirect: http.*which is not allowed"):
            imported(server, tmp_path / "fhir", types=["Patient"])
        assert not any(one.storage for one in server.asked)
        server.fail(f"GET .*{where}", lambda handler: status(302, Location=handler.path)(handler))
        imported(server, tmp_path / "fhir", types=["Patient"])
        server.fail(f"GET .*{where}", lambda handler: status(301, Location=handler.path)(handler), 10_000)
        with pytest.raises(ServerError, match="redirects more than 5 times"):
            imported(server, tmp_path / "other", types=["Patient"])
        assert server.complaints == []


def test_a_file_may_be_redirected_to_an_allowed_host(tmp_path: Path):
    with BulkServer(storage=True) as server:
        fill(server)
        files_host, server.files_host = server.files_host, f"127.0.0.1:{server.port}"
        server.fail(
            "GET /files", lambda handler: status(302, Location=f"http://{files_host}{handler.path}")(handler)
        )
        imported(server, tmp_path / "fhir", types=["Patient"], allow_hosts=[files_host])
        assert [one.storage for one in server.seen("GET /files")] == [False, True]
        assert server.complaints == []


@pytest.mark.parametrize(
    "url",
    [
        "http://fhir.example/r4", "ftp://fhir.example/r4", "https://me:secret@fhir.example/r4", "https:///r4",
        "https://evil.example/r4", "https://fhir.example.evil.example/", "https://fhir.example:8443/", "/etc/passwd",
        "https://fhir.example@evil.example/", "https://evil.example\\@fhir.example/", "https://[::1", "file:///x",
        "https://files.example.evil.example/", "http://files.example/",
    ],
)  # fmt: skip
def test_hosts_that_are_refused(url: str):
    with pytest.raises(ConfigError) as raised:
        Hosts("https://fhir.example/r4", ("files.example",)).check(url, "x")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://fhir.example/x",
        "https://FHIR.example:443/",
        "https://files.example/",
        "https://files.example:8443/",
    ],
)
def test_hosts_that_are_allowed(url: str):
    Hosts("https://fhir.example/r4", ("Files.example",)).check(url, "x")


def test_one_run_at_a_time(server: BulkServer, tmp_path: Path):
    def meanwhile(handler: Handler) -> bool:
        with pytest.raises(BusyError):
            imported(server, tmp_path / "fhir")
        busy.append(True)
        return False

    busy: list[bool] = []
    server.fail("GET /status", meanwhile)
    imported(server, tmp_path / "fhir")
    assert busy == [True]


def test_a_server_that_does_not_listen_to_delete_is_no_error(server: BulkServer, tmp_path: Path):
    server.fail("DELETE", status(500), 10_000)
    before = imported(server, tmp_path / "1/fhir")
    server.faults.clear()
    server.fail("DELETE", status(404))
    assert content(imported(server, tmp_path / "2/fhir").out) == content(before.out)
