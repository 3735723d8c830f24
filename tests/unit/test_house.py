"""The house: who may import whom, how large things may be, and what may not be loaded early."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tierline"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# Each room may import from rooms of lower rank only, and from itself; equal ranks do not know each other.
RANKS = {
    "errors": 0, "sourced": 0, "cache": 0, "units": 1, "trace": 1, "live": 1,
    "formats": 2, "models": 3, "machines": 3,
    "probe": 4, "cost": 4, "place": 4, "plan": 5, "sim": 6, "run": 6, "scenario": 6,
    "compare": 7, "calibrate": 7, "search": 7, "testing": 7,
    "report": 8, "audit": 9, "api": 9, "web": 9, "serve": 10, "cli": 11, "__main__": 12,
}  # fmt: skip
MAY_IMPORT_TORCH = {"probe", "run", "testing"}
HEAVY = {"torch", "transformers"}


def imports(text: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def breaches(room: str, text: str) -> list[str]:
    """Return the imports of a module in `room` that the house does not allow."""
    found = []
    for name in imports(text):
        parts = name.split(".")
        if parts[0] in HEAVY and room not in MAY_IMPORT_TORCH:
            found.append(name)
        if parts[0] == "tierline" and len(parts) > 1:
            other = parts[1]
            if other != room and RANKS.get(other, 99) >= RANKS[room]:
                found.append(name)
    return found


MODULES = sorted(p for p in SOURCE.rglob("*.py") if room_of(p) != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    assert breaches(room_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("sim", "from tierline.run.session import Session"),
        ("run", "import tierline.sim.kernel"),
        ("models", "from tierline.plan.plan import Plan"),
        ("plan", "import torch"),
        ("cost", "def f():\n    from transformers import AutoModel"),
    ],
)
def test_a_wrong_import_would_be_found(room: str, line: str) -> None:
    assert breaches(room, line)


def test_what_is_imported_is_declared_and_explained() -> None:
    """A library that comes with another one today may not tomorrow."""
    root = SOURCE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for e in project["optional-dependencies"].values() for r in e)]
    declared = {re.split(r"[<>=~!\[]", requirement)[0] for requirement in wanted}
    texts = (path.read_text(encoding="utf-8") for path in MODULES)
    imported = {name.partition(".")[0] for text in texts for name in imports(text)}
    called = packages_distributions()  # markdown_it comes from markdown-it-py
    others = imported - sys.stdlib_module_names - {"tierline"}
    assert [name for name in others if name not in declared and not declared & {*called.get(name, ())}] == []
    explained = (root / "docs" / "decisions" / "001-dependencies.md").read_text(encoding="utf-8")
    assert [name for name in sorted(declared) if not re.search(rf"\b{name}\b", explained)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # A verb's options are its signature, one documented parameter a line: they are read as a table.
            first = node.body[0].lineno if room_of(path) == "cli" else node.lineno
            lines = (node.end_lineno or 0) - first + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "smolvlm2-256m", "--on", "nexys-video"], ["machines"], ["models"]],
    ids=lambda a: a[0],
)
def test_light_verbs_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tierline.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'plotly', 'gguf', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
