"""Packages import only what is up-stream of them, and the accelerator side only numpy and JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ehrseq

ROOT = Path(ehrseq.__file__).parent
# each package may import those before it on its line of descent
UPSTREAM: dict[str, set[str]] = {
    "core": set(),
    "fhir": {"core"},
    "sources": {"core", "fhir"},
    "mapping": {"core", "sources", "fhir"},
    "timeline": {"core", "fhir"},
    "adapters": {"core", "fhir", "sources", "timeline"},
    "tokens": {"core", "timeline"},
    "tasks": {"core", "timeline", "tokens"},
    "models": {"core", "tokens"},
    "training": {"core", "tokens", "models"},
    "evaluation": {"core"},
    "synthetic": {"core"},
}
UPSTREAM["deploy"] = set(UPSTREAM)  # last of all


def imports(path: Path) -> set[str]:
    """Packages of ehrseq that a file imports, anywhere in it; type-checking imports excepted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("ehrseq.")}
    return found & UPSTREAM.keys()


@pytest.mark.parametrize("package", sorted(UPSTREAM))
def test_a_package_imports_only_what_is_up_stream(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = imports(path) - UPSTREAM[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_every_package_is_known_here():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(UPSTREAM)


BLOCKED = """
import sys, importlib
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Block())
for module in {modules}:
    importlib.import_module(module)
"""
# rich and PyYAML are no imports of ours there, but flax has them among its own requirements
HEAVY = (
    "polars",
    "duckdb",
    "pyarrow",
    "pydantic",
    "fhir",
    "typer",
    "sklearn",
    "matplotlib",
    "jinja2",
    "psutil",
    "tokenizers",
)


def run_blocked(modules: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(blocked=set(blocked), modules=modules)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_accelerator_side_needs_numpy_and_jax_alone():
    folders = [ROOT / "models", ROOT / "training"]
    modules = [
        ".".join(("ehrseq", *path.relative_to(ROOT).with_suffix("").parts))
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    ]
    modules += ["ehrseq.tokens.store", "ehrseq.tokens.loader", "ehrseq.models", "ehrseq.training"]
    done = run_blocked(modules, HEAVY)
    assert done.returncode == 0, done.stderr[-2000:]


def test_help_needs_neither_jax_nor_polars():
    done = run_blocked(
        ["ehrseq.cli"], ("polars", "duckdb", "pyarrow", "jax", "fhir", "sklearn", "matplotlib")
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_block_itself_works():
    assert run_blocked(["polars"], HEAVY).returncode != 0
