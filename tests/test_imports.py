"""Imports go one way, and heavy or optional libraries are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "dode"

# Lowest first; a module may import from its own layer and from those before it.
LAYERS = (
    ("names", "stopping", "files", "locks", "noise", "host", "metrics", "guidance"),
    ("schedules",),
    ("statistics",),
    ("grids",),
    ("rows",),
    ("tableau", "conditions", "models"),
    ("solvers", "calling", "inpainting", "cache"),
    ("denoisers",),
    ("fingerprint",),
    ("first_output",),
    ("sampling", "progress"),
    ("teacher", "fine"),
    ("distillation",),
    ("loading", "images", "report"),
    ("cli", "__main__", "__init__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The modules of dode that a file imports, by their first name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names = [f"dode.{alias.name}" for alias in node.names] if node.module == "dode" else [node.module]
            found |= set(names)
    return {name.split(".")[1] for name in found if name.startswith("dode.")} & set(LEVEL)


def test_imports_go_one_way() -> None:
    for path in SOURCE.rglob("*.py"):
        module = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        assert module in LEVEL, f"{path} belongs to no layer"
        for other in imported(path):
            assert LEVEL[other] <= LEVEL[module], f"{path} imports dode.{other}, which is above it"


def test_no_solver_knows_that_distillation_exists() -> None:
    for path in (SOURCE / "solvers").glob("*.py"):
        assert not imported(path) & {"distillation", "teacher", "sampling"}


def test_importing_and_loading_needs_no_optional_library() -> None:
    code = (
        "import sys, dode; dode.load('fashion'); "
        "print(sorted({'diffusers', 'transformers', 'matplotlib', 'scipy', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
