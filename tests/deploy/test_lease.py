"""One retraining at a time, whoever dies and whatever the clock says."""

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ehrseq.core.errors import BusyError
from ehrseq.deploy.lease import lease

HOLD = """
import sys, time
from pathlib import Path
from ehrseq.deploy.lease import lease
with lease(Path(sys.argv[1]), owner="the other", hours=1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_is_free_again_afterwards(tmp_path: Path):
    for _ in range(2):
        with lease(tmp_path / "l", owner="one", hours=1) as held:
            held.renew()
            held.check()
    assert not (tmp_path / "l").exists()


def test_a_second_one_is_told_who_has_it_and_gets_it_when_that_process_is_killed(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "l")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(BusyError, match=rf"the other \(process {other.pid}") as caught:
            with lease(tmp_path / "l", owner="me", hours=1):
                pass
        assert int(caught.value.exit_code) == 75
    finally:
        other.kill()
        other.wait()
    with lease(tmp_path / "l", owner="me", hours=1):
        assert json.loads((tmp_path / "l").read_text())["owner"] == "me"


def test_of_many_at_once_one_gets_it(tmp_path: Path):
    def attempt(_: int) -> bool:
        try:
            with lease(tmp_path / "l", owner="x", hours=1):
                time.sleep(0.3)
                return True
        except BusyError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


@pytest.mark.parametrize(
    ("host", "ends", "free"), [("elsewhere", -1, True), ("elsewhere", 60, False), (None, -1, True)]
)
def test_it_ends_by_the_clock(host: str | None, ends: float, free: bool, tmp_path: Path):
    told = {
        "owner": "other",
        "host": host or platform.node(),
        "pid": os.getpid(),
        "born": 0,
        "token": "t",
        "ends": time.time() + ends,
    }
    (tmp_path / "l").write_text(json.dumps(told))
    if free:
        with lease(tmp_path / "l", owner="me", hours=1):
            pass
        return
    with pytest.raises(BusyError, match="elsewhere"):
        with lease(tmp_path / "l", owner="me", hours=1):
            pass


def test_who_has_lost_it_may_not_go_on(tmp_path: Path):
    with lease(tmp_path / "l", owner="slow", hours=-1):  # over before it began: another takes it
        with lease(tmp_path / "l", owner="quick", hours=1) as quick:
            quick.check()
    with lease(tmp_path / "l", owner="slow", hours=-1) as slow:
        with lease(tmp_path / "l", owner="quick", hours=1):
            with pytest.raises(BusyError, match="now that of quick"):
                slow.check()
            with pytest.raises(BusyError):
                slow.renew()
