import os
import random
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache, wraps

import pytest
import torch
import typed
from hypothesis import settings

# The same examples each time, so that whoever changes something knows that a failure is theirs; and, to look for new
# ones, HYPOTHESIS_PROFILE=search with many more.
settings.register_profile("same", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
torch.set_num_threads(1)
typed.install()


@pytest.fixture(scope="session", autouse=True)
def _scenes_are_drawn_once() -> Iterator[None]:
    """They take longer to draw than to copy."""
    from maskwise.data.synthetic.scenes import Scene, Scenes  # not before types are checked

    draw = Scenes.scene

    @lru_cache(maxsize=1000)
    def drawn(kind: Scenes, index: int) -> Scene:
        chance = random.getstate()  # which beartype draws from: the first time shall be as the others
        try:
            return draw(kind, index)
        finally:
            random.setstate(chance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scenes, "scene", wraps(draw)(lambda kind, index: deepcopy(drawn(kind, index))))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write the numbers of tests/golden anew")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One process writes the file, however many `addopts` asks for."""
    if config.getoption("--accept"):
        config.option.numprocesses = 0
