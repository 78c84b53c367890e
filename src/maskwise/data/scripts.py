"""New processes run the script that starts them, unless they need nothing of it.

They are told which file the main module is, and run it, for what is defined there. A script may do its work without
asking whether it is the main module; then each of them would do it, too.
"""

import pickle
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType


def left_alone(work: object) -> AbstractContextManager[None]:
    """While processes are started for this work, which is sent to them."""
    return nullcontext() if _is_of_main(work) else _without_main()


def _is_of_main(work: object) -> bool:
    """Whether it has classes or functions of the script, which are found there by their names."""
    try:
        return b"__main__" in pickle.dumps(work)
    except Exception:  # what only processes can send each other; else starting them says what is wrong with it
        return True


@contextmanager
def _without_main() -> Iterator[None]:
    """Meanwhile there is no main module that has a file."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
