"""What one must read to know what a method does: the functions that run from building it to its predictions."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest
from small import batch, build

import maskwise
from maskwise.methods import METHODS

SOURCE = str(Path(maskwise.__file__).parent)
NETWORKS = {"spatial_embeddings": "/parts/erfnet.py"}
"""Of methods that have one of their own instead of a classifier's."""
MOST_FILES, MOST_LINES = 15, 1500


def entered(work: Callable[[], None]) -> set[CodeType]:
    """Functions of the package that `work` runs."""
    seen = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            seen.add(frame.f_code)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def lines_of(functions: set[CodeType]) -> dict[str, int]:
    """How many lines of each file the functions have; those of a function inside another count once."""
    lines = {(f.co_filename, f.co_firstlineno + i) for f in functions for i in range(len(inspect.getsourcelines(f)[0]))}
    files = [file for file, _ in lines]
    return {file.removeprefix(SOURCE): files.count(file) for file in sorted(set(files))}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_read_in_an_afternoon(name):
    images, targets = batch()

    def work() -> None:
        model = build(name)
        sum(model(images, targets).values()).backward()
        model.eval().predict(images)

    found = lines_of(entered(work))
    assert {f"/methods/{name}.py", NETWORKS.get(name, "/backbones.py")} <= found.keys()
    assert len(found) <= MOST_FILES, found
    assert sum(found.values()) <= MOST_LINES, found


def test_only_what_is_entered_counts():
    assert lines_of(entered(lambda: None)) == {}
    images, _ = batch()
    assert set(lines_of(entered(lambda: images.scale(0)))) == {"/structures.py"}
