"""What all verbs of the command line have in common: their usual options, and how one is run and ends.

Libraries are imported inside the verbs, so that `--help` answers at once.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ehrseq.core.errors import EhrseqError, ExitCode
from ehrseq.core.progress import set_quiet

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, last line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write. Replaced in one step, or not at all.")
]
Workers = Annotated[int, typer.Option(help="Processes. The result does not depend on it.")]
Force = Annotated[bool, typer.Option("--force", help="Do the work again even if nothing changed.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


def do(verb: str, as_json: bool, quiet: bool, work: Callable[[], Any]) -> None:
    """Run a verb, print what it returned, exit with its code."""
    set_quiet(quiet)
    try:
        outcome = work()
    except EhrseqError as error:
        fail(verb, as_json, str(error), int(error.exit_code))
    except KeyboardInterrupt:
        fail(verb, as_json, "Interrupted. Nothing is half written; run the same command again.", 130)
    except MemoryError:
        fail(verb, as_json, "Memory ran out. Use fewer --workers.", int(ExitCode.TEMPORARY))
    except Exception as error:  # a fault of ours: never print values, they may be a patient's
        if os.environ.get("EHRSEQ_DEBUG"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        fail(
            verb,
            as_json,
            f"A fault of ehrseq ({type(error).__name__} at {Path(place.filename).name}:{place.lineno}). Please report "
            "it. EHRSEQ_DEBUG=1 shows the traceback, which may quote data.",
            1,
        )
    from ehrseq import console

    code = console.present(verb, outcome, as_json)
    if code:
        sys.exit(code)


def fail(verb: str, as_json: bool, message: str, code: int) -> NoReturn:
    """Say what went wrong, and end with its code."""
    sys.stderr.write(f"error: {message}\n")
    if as_json:
        print(json.dumps({"verb": verb, "status": "failed", "exit_code": code, "error": message}), flush=True)
    sys.exit(code)
