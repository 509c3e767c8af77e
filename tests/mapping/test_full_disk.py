"""A disk that really is full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospital import write_mappings, write_tables

import ehrseq
from ehrseq.core.errors import StorageError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_temporary_and_leaves_nothing_half(tmp_path: Path, small_disk: Path):
    labs = "lab,pid,visit,test,at,filed,number,text,unit\n"
    labs += "".join(
        f"{n},1,5,7,2020-01-01 09:{n % 60:02d}:00,,{n * 7919 % 10007},,u{n * 31 % 977}\n"
        for n in range(120_000)
    )
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data", labs=labs)
    with pytest.raises(StorageError) as error:
        ehrseq.map(source, data, small_disk / "fhir")
    assert error.value.exit_code == 75
    assert str(small_disk) in str(error.value)
    assert not (small_disk / "fhir").exists()
    write_tables(data)  # a smaller delivery fits: what the failed run left is not in its way
    assert ehrseq.map(source, data, small_disk / "fhir").status == "made"
    assert [path.name for path in small_disk.iterdir()] == ["fhir"]
