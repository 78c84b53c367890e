import os

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write the numbers of tests/golden anew")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One process writes the file, however many `addopts` asks for."""
    if config.getoption("--accept"):
        config.option.numprocesses = 0
