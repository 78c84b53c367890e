"""What one must read to know what a method does: the functions that run from building it to its predictions."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

from small import batch, build

import maskwise

SOURCE = str(Path(maskwise.__file__).parent)


def cost(name: str) -> dict[str, int]:
    """Lines of each file whose functions run when the method learns from two small scenes and predicts on them."""
    images, targets = batch()

    def work() -> None:
        model = build(name)
        sum(model(images, targets).values()).backward()
        model.eval().predict(images)

    return lines_of(entered(work))


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
