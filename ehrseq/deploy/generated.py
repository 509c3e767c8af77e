"""The generated hospital as a stage: made once for a number of patients and a seed."""

import shutil
from pathlib import Path

from ehrseq.core.dataset import Build
from ehrseq.core.progress import log


def hospital(out: Path, *, patients: int, seed: int) -> Path:
    """Generate the hospital's tables at `out`, unless they stand there already; returns `out`."""
    with Build(out, kind="hospital", config={"patients": patients, "seed": seed}, inputs=[]) as build:
        if not build.unchanged:
            from ehrseq.synthetic import generate

            made = generate(build.folder / "tables", patients=patients, seed=seed)
            for path in sorted((build.folder / "tables").iterdir()):
                shutil.move(path, build.folder / path.name)
            (build.folder / "tables").rmdir()
            for path in sorted(build.folder.rglob("*")):
                if path.is_file():
                    name = path.relative_to(build.folder).as_posix()
                    build.enter(name, rows=made.rows.get(name.split(".")[0], 0))
            build.made("patients", patients)
    log("hospital", status=build.result.status, patients=patients, seed=seed)
    return build.result.out
