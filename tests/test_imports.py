"""Imports go one way, and heavy or optional libraries are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "dode"

# Lowest first; a module may import from its own layer and from those before it.
LAYERS = (
    ("names", "foreign", "reading", "seals", "schemas", "stopping", "files", "locks", "noise"),
    ("charts", "host", "distances", "guidance", "notes", "finite", "defaults", "outputs", "compiling"),
    ("schedules",),
    ("statistics",),
    ("grids",),
    ("rows",),
    # A tableau knows the papers of its solver, which the registry names.
    ("tableau", "fitted_for", "held", "tableaux", "notebooks", "citations", "solvers", "conditions", "models"),
    ("calling", "inpainting", "amplification", "cache"),
    ("denoisers",),
    ("fingerprint",),
    ("first_output",),
    ("sampling", "progress"),
    ("teacher", "fine"),
    ("searched_grids",),
    ("distillation",),
    ("loading", "images", "metrics", "report", "sharing"),
    ("integrations",),
    ("front",),
    ("serve",),
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
        "print(sorted({'diffusers', 'transformers', 'altair', 'scipy', 'accelerate', 'gradio', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What reads files and refuses what is wrong in them, or shows them: PyTorch takes seconds to import.
LIGHT = (
    *(
        "foreign",
        "reading",
        "schemas",
        "names",
        "files",
        "schedules",
        "grids",
        "rows",
        "statistics",
        "tableau",
        "fitted_for",
        "held",
        "tableaux",
        "solvers",
        "citations",
        "loading",
    ),
    *(
        "distillation/summary",
        "sharing/summary",
        "sharing/hub",
        "models/__init__",
        "models/traits",
        "models/weights",
        "models/folder",
        "models/index",
        "models/slots",
        "models/scheduler_configs",
    ),
)


def at_import(path: Path) -> set[str]:
    """The modules that importing a file imports, those for types alone left out."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"dode.{alias.name}" for alias in node.names} if node.module == "dode" else {node.module}
    return found


def test_files_are_read_and_refused_without_pytorch() -> None:
    modules = {("dode." + name.replace("/", ".")).removesuffix(".__init__") for name in LIGHT}
    for name in LIGHT:
        for path in sorted((SOURCE / name).glob("*.py")) or [SOURCE / f"{name}.py"]:
            for other in at_import(path):
                first = other.split(".")[0]
                assert first not in ("torch", "diffusers"), f"{path} imports {other}"
                light = any(other == module or other.startswith(f"{module}.") for module in modules)
                assert first != "dode" or light, f"{path} imports {other}, which is not said to be light"
                assert first != "pydantic" or name == "schemas", f"{path} imports pydantic"


def test_a_missing_library_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['diffusers'] = None; from dode.integrations.diffusers import DodeScheduler"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: dode.integrations.diffusers needs diffusers: pip install dode[diffusers]"
