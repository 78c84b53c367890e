"""docs/adding-a-method.md, done to a copy of the repository as it is written."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text()
BLOCKS = re.findall(r"```(python|bash)\n(.+?)```", PAGE, re.DOTALL)
QUICK = {"benchmarks/methods.py": ["--seconds", "1"]}
"""What makes a command of the page shorter here."""


def put(block: str, root: Path) -> None:
    """Into the file that the first line names: all of it, or after the line that begins a list."""
    head, _, body = block.partition("\n")
    place, _, name = head.removeprefix("# ").partition(", in ")
    if not name:
        (root / place).write_text(body)
        return
    imports = "".join(line for line in body.splitlines(keepends=True) if line.startswith("from "))
    entry = body.removeprefix(imports)
    text = (root / place).read_text()
    (opening,) = re.findall(rf"^{name}\b.*{{\n", text, re.MULTILINE)
    first = re.search(r"^from maskwise", text, re.MULTILINE).start()
    text = text[:first] + imports + text[first:]
    (root / place).write_text(text.replace(opening, opening + entry, 1))


def commands(block: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [[*line, *next((more for name, more in QUICK.items() if name in line), [])] for line in lines]


@pytest.fixture
def copy(tmp_path):
    """Of everything but the weights of embedded models."""
    for name in ("src", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_page_names_files_and_lists_that_exist():
    heads = [block.partition("\n")[0] for kind, block in BLOCKS if kind == "python"]
    for head in heads[1:]:
        place, _, name = head.removeprefix("# ").partition(", in ")
        assert re.search(rf"^{name}\b", (ROOT / place).read_text(), re.MULTILINE), head


@pytest.mark.long
def test_from_an_empty_file_to_a_row_in_the_table(copy):
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTEST_ADDOPTS": "-n 0 -p no:cacheprovider"}
    programs = {"pytest": ["-m", "pytest"], "maskwise": ["-m", "maskwise"], "python": []}
    for kind, block in BLOCKS:
        if kind == "python":
            put(block, copy)
            continue
        for program, *rest in commands(block):
            command = [sys.executable, *programs[program], *rest]
            ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{shlex.join(rest)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    assert "| pieces |" in (copy / "docs" / "results.md").read_text()
    assert json.loads((copy / "benchmarks" / "results" / "methods.json").read_bytes())["scenes"]["pieces"]["steps"] >= 1
