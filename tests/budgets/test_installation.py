"""What comes with the package, and what it does unasked: nothing is compiled, pinned, or fetched."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import maskwise

ROOT = Path(__file__).parents[2]
SOURCE = Path(maskwise.__file__).parent
TABLES = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = TABLES["project"]
HARD = [Requirement(r) for r in PROJECT["dependencies"]]
EXTRAS = [Requirement(r) for name in ("serve", "video") for r in PROJECT["optional-dependencies"][name]]
COPYLEFT = re.compile(r"\bA?GPL|Affero|GNU General Public", re.IGNORECASE)


def test_nothing_has_to_be_compiled():
    """Plain files and a builder without hooks make a wheel that is called py3-none-any."""
    assert TABLES["build-system"]["build-backend"] == "hatchling.build"
    assert "hooks" not in TABLES["tool"]["hatch"].get("build", {})
    assert "hooks" not in TABLES["tool"]["hatch"]["build"]["targets"]["wheel"]
    suffixes = {path.suffix for path in SOURCE.rglob("*") if path.is_file()}
    assert not suffixes & {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".pyx", ".pxd", ".rs", ".so", ".pyd", ".dylib"}


@pytest.mark.parametrize("needed", HARD + EXTRAS, ids=lambda r: r.name)
def test_versions_have_a_lower_end_and_at_most_the_next_major_above(needed):
    operators = [s.operator for s in needed.specifier]
    assert operators.count(">=") == 1
    assert set(operators) <= {">=", "<"}
    least, *most = (s.version.split(".") for s in sorted(needed.specifier, key=lambda s: s.operator, reverse=True))
    assert all(len(above) == 1 and int(above[0]) > int(least[0]) for above in most)


def installed(needed: list[Requirement]) -> dict[str, str]:
    """What our dependencies bring along, directly or not, and what each says of its licence."""
    waiting, found = [(r.name, r.extras) for r in needed], {}
    while waiting:
        name, extras = waiting.pop()
        try:
            about = distribution(name)
        except PackageNotFoundError as error:
            raise AssertionError(f"{name} is needed, but not installed: its licence is not known") from error
        if name in found:
            continue
        found[name] = licence(about.metadata)
        for text in about.requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append((inner.name, inner.extras))
    return found


def licence(metadata) -> str:
    """The first line of a text; scipy's holds the licences of what its wheel carries, with their exceptions."""
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License")]
    return "; ".join([metadata.get("License-Expression", ""), metadata.get("License", "").split("\n")[0], *classifiers])


def test_no_dependency_is_under_gpl_or_agpl():
    found = installed(HARD + EXTRAS)
    assert found.keys() >= {"torch", "numpy", "fastapi"}
    assert not {name: said for name, said in found.items() if COPYLEFT.search(said)}
    assert all(COPYLEFT.search(name) for name in ("AGPL-3.0", "GPLv3+", "GNU Affero General Public License v3"))


WATCHED = """
import importlib, json, pkgutil, socket, sys
import torch

seen = []
watched = {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
watched |= {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
def refuse(event, arguments):
    if event in watched:
        seen.append(event)
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
for absent in ("triton", "flash_attn", "xformers", "mmcv", "detectron2", "tensorboard"):
    sys.modules[absent] = None
import maskwise
for module in pkgutil.walk_packages(maskwise.__path__, "maskwise."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from small import build
from maskwise.checkpoint import About, write_model
from maskwise.recipes.stored import to_json
from maskwise.data.synthetic.scenes import Scenes
from pathlib import Path
made, scenes = build("ms_rcnn"), Scenes(size=(64, 96))
about = About(method="ms_rcnn", config=to_json(made.cfg), categories=scenes.categories)
write_model(Path("model.safetensors"), made.state_dict(), about)
found = maskwise.load("model.safetensors").predict(scenes.scene(0).pixels, min_score=0.0)
found.save("out", save=("overlay", "coco", "csv"))
unasked = list(seen)
try:
    socket.create_connection(("127.0.0.1", 9))
except RuntimeError:
    print(json.dumps({"found": len(found), "unasked": unasked, "asked": seen}))
"""


@pytest.mark.slow
def test_importing_all_of_it_and_predicting_calls_nobody_and_starts_nothing(tmp_path):
    """Python tells of each connection and each process before it is made; here each is refused, and written down."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["found"] > 0
    assert told["unasked"] == []
    assert told["asked"] == ["socket.getaddrinfo"], "the watch works"
