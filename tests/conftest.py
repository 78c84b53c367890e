import pytest
import torch
from hypothesis import settings

settings.register_profile("quiet", deadline=None, max_examples=40)
settings.load_profile("quiet")
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write the numbers of tests/golden anew")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One process writes the file, however many `addopts` asks for."""
    if config.getoption("--accept"):
        config.option.numprocesses = 0
