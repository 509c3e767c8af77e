"""The accelerator side imports with numpy, jax, flax, optax and orbax alone."""

import subprocess
import sys

_PROBE = """
import importlib, sys

BLOCKED = {"polars", "duckdb", "pydantic", "fhir", "pyarrow", "sklearn", "scipy", "pandas", "typer"}

THEIRS = ("jax", "orbax", "flax", "optax", "tensorstore", "etils")


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            # jax and orbax look for optional parts of these; only an import of ours is a fault
            frame = sys._getframe()
            while frame:
                if frame.f_globals.get("__name__", "").startswith(THEIRS):
                    raise ModuleNotFoundError(name, name=name)
                frame = frame.f_back
            raise SystemExit(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
import pathlib, pkgutil
import ehrseq.models, ehrseq.training
names = ["ehrseq.tokens.store", "ehrseq.tokens.packing", "ehrseq.tokens.loader"]
for package in (ehrseq.models, ehrseq.training):
    names += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout) > 15


def test_the_token_side_does_not_even_need_jax() -> None:
    code = "import sys, ehrseq.tokens.loader; print('jax' in sys.modules, 'polars' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]
