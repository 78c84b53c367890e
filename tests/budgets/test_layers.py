"""The shape of the house: which way imports point, how long files are. docs/architecture.md says why."""

import ast
import graphlib
from pathlib import Path

import pytest

import maskwise

SOURCE = Path(maskwise.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
INNER = [p for p in FILES if p != SOURCE / "__init__.py"]  # the package itself names what is public, from anywhere

# A module may import from layers at or before its own; `data` beside them knows only the structures.
STRUCTURES = {"version", "terminal", "categories", "rle", "outlines", "interpolation", "boxes", "masks", "structures"}
STRUCTURES |= {"pickled", "tensor_files"}
LAYERS = [
    STRUCTURES,
    {"parts", "backbones"},
    {"methods"},
    {"recipes"},
    {"train", "checkpoint", "distributed", "logbook", "optimization", "out_of_memory", "progress", "reproducible"}
    | {"model", "models", "predict", "predictions", "review", "evaluate", "export", "weights", "report", "draw"},
    {"serve", "commands", "cli", "__main__"},
]
ABOVE_DATA = LAYERS[3] | LAYERS[4] | LAYERS[5]


def module(path: Path) -> str:
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> list[tuple[str, int]]:
    """Modules of our own that a file imports, and on which line."""
    known = {module(p) for p in FILES}
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            ]
        else:
            continue
        found += [(n, node.lineno) for n in names if n and n.split(".")[0] == "maskwise"]
    return found


def part(name: str) -> str:
    """The top-level part of the package that a module belongs to."""
    return name.split(".")[1] if "." in name else ""


def layer(name: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part(name) in parts)


@pytest.mark.parametrize("path", INNER, ids=module)
def test_imports_point_one_way(path):
    here = module(path)
    for there, line in imports(path):
        where = f"{path.name}:{line}: {here} imports {there}"
        if part(here) == "data":
            if part(here) != part(there) and not (here == "maskwise.data.command" and part(there) == "draw"):
                assert part(there) in STRUCTURES, where
        elif part(there) == "data":
            assert part(here) in ABOVE_DATA, where
        else:
            assert layer(there) <= layer(here), where


@pytest.mark.parametrize("path", INNER, ids=module)
def test_no_module_imports_from_its_own_package(path):
    package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
    assert package not in [there for there, _ in imports(path)]


def test_there_is_no_import_cycle():
    graph = {module(p): {there for there, _ in imports(p)} - {module(p)} for p in FILES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES, ids=module)
def test_files_are_short_enough_to_read(path):
    limit = 450 if "methods" in path.parts else 600
    assert len(path.read_text().splitlines()) <= limit


def test_no_file_has_a_name_that_says_nothing():
    assert not {p.stem for p in FILES} & {"utils", "util", "misc", "common", "base", "helpers"}
