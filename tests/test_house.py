"""The map of the house, proved from the code: imports look down, inner ``__init__`` files are empty."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attar"
LAYERS = {
    "core": 0, "ops": 1, "store": 2, "synthesis": 3, "training": 3, "data": 3, "models": 3, "methods": 4, "stages": 5,
    "recipes": 6, "plan": 6, "report": 6, "exchange": 6, "pipeline": 7, "share": 7, "compare": 8, "begin": 8,
    "launch": 8, "verbs": 8, "from_python": 9, "cli": 9, "__main__": 10,
}  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports from, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "attar":
            modules |= {f"attar.{alias.name}" for alias in node.names if alias.name in LAYERS}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module.split(".")[1] for module in modules if module.startswith("attar.") and module.count(".")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_look_down(path: Path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the package's front door names what lies behind it, and imports nothing
    for other in imported_rooms(path):
        assert other == room or LAYERS[other] < LAYERS[room], f"{path}: {room} must not import {other}"


def test_rooms_are_all_on_the_map():
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms == set(LAYERS)


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_inner_init_files_are_empty(path: Path):
    assert path.read_text() == ""


def test_importing_attar_loads_nothing_heavy():
    heavy = "torch torchvision timm numpy pydantic pyarrow matplotlib sklearn datasets"
    code = f"import sys, attar, attar.cli; print([name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_run_of_the_digits_starts_without_libraries_that_it_does_not_use():
    heavy = "torchvision timm sklearn scipy matplotlib datasets ray"
    code = f"""
import sys
from attar import pipeline
from attar.core.log import Log
from attar.data.named import read
from attar.models.build import build
build("convnet3", 10, 8, seed=0)
read("digits", "", Log(quiet=True))
print([name for name in {heavy.split()} if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    ["list recipes", "list methods", "list datasets", "list protocols", "show cda/imagenet-1k-ipc50 --seed 1",
     "run digits --method kcentre --help", "run digits --recover.ipc 0", "run digits", "compare --help",
     "compare digits --methods dm --budgets 1", "watch . --once"],
)  # fmt: skip
def test_verbs_that_compute_nothing_load_no_network_library(arguments: str):
    code = f"""
import sys
from attar.cli import main
try:
    main({arguments.split()})
except SystemExit as end:
    print(end.code)
print([name for name in "torch torchvision timm sklearn matplotlib datasets scipy".split() if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
