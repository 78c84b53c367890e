"""Starting must be quick: the best of a few tries, in a process of its own."""

import subprocess
import sys
import time

import pytest


def seconds(*command: str) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def test_import_takes_less_than_three_tenths_of_a_second_and_no_torch():
    assert seconds("-c", "import maskwise") - seconds("-c", "pass") < 0.3
    subprocess.run([sys.executable, "-c", "import maskwise, sys; assert 'torch' not in sys.modules"], check=True)


def test_help_takes_less_than_half_a_second():
    assert seconds("-m", "maskwise.cli", "--help") < 0.5


@pytest.mark.parametrize("name", ["maskwise.evaluate.command", "maskwise.data.images", "maskwise.categories"])
def test_reading_and_judging_files_needs_no_torch(name):
    subprocess.run([sys.executable, "-c", f"import {name}, sys; assert 'torch' not in sys.modules"], check=True)
