"""The shape of the house: which way imports point, how long files are. docs/architecture.md says why."""

import ast
import graphlib
from functools import cache
from pathlib import Path

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


KNOWN = {module(p) for p in FILES}


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Modules of our own that a file imports, and on which line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in KNOWN else node.module for a in node.names
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


def may_import(here: str, there: str) -> bool:
    if part(here) == "data":
        home = part(there) == "data" or part(there) in STRUCTURES
        return home or (here == "maskwise.data.command" and part(there) == "draw")
    return part(here) in ABOVE_DATA if part(there) == "data" else layer(there) <= layer(here)


def test_imports_point_one_way():
    assert not [
        f"{path.name}:{line}: {module(path)} imports {there}"
        for path in INNER
        for there, line in imports(path)
        if not may_import(module(path), there)
    ]


def test_no_module_imports_from_its_own_package():
    packages = {path: module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0] for path in INNER}
    assert not [
        f"{path.name}:{line}: imports {there}"
        for path, package in packages.items()
        for there, line in imports(path)
        if there == package
    ]


def test_there_is_no_import_cycle():
    graph = {module(p): {there for there, _ in imports(p)} - {module(p)} for p in FILES}
    graphlib.TopologicalSorter(graph).prepare()


def test_files_are_short_enough_to_read():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert not [(path, n) for path, n in lengths.items() if n > (450 if "methods" in path.parts else 600)]


def test_no_file_has_a_name_that_says_nothing():
    assert not {p.stem for p in FILES} & {"utils", "util", "misc", "common", "base", "helpers"}
