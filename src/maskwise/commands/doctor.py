"""`maskwise doctor`: whether this installation works, and what it consists of."""

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.models.download import Remote, home
from maskwise.models.published import PUBLISHED
from maskwise.serve import command as serve
from maskwise.terminal import Terminal
from maskwise.version import __version__

if TYPE_CHECKING:
    import numpy as np

NEEDED = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "safetensors", "hotcoco")
EXTRAS = {"video": ("av",), "serve": serve.NEEDED, "tracking": ("tensorboard",)}

_MARKS = {"fine": ("✓", "green"), "note": ("·", "dim"), "broken": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    state: Literal["fine", "note", "broken"]
    words: str


def main(argv: list[str]) -> int:
    """Exit code: 0; 1 where something does not work."""
    return answer(doctor, argv, "doctor")


def doctor(*, device: str = "auto", json: Flag = False) -> int:
    """Check this installation; exit code 1 where something does not work.

    Args:
        device: auto, cpu, cuda, cuda:1, mps
        json: one JSON object on standard output
    """
    findings = [
        Finding("maskwise", "fine", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        _tried("packages", _packages),
        Finding("extras", "note", _extras()),
        _tried("device", lambda: _device(device)),
        _tried("decoder", _decoder),
        _tried("cache", lambda: _writable(home())),
        _tried("here", lambda: _writable(Path())),
        *(_tried(f"model {name}", lambda name=name: _model(name, device)) for name in _embedded()),
    ]
    broken = [finding for finding in findings if finding.state == "broken"]
    if json:
        print_json({"works": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, Terminal(width=None if sys.stdout.isatty() else 1000))
    return 1 if broken else 0


def _show(findings: list[Finding], console: Terminal) -> None:
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.state]
        about = (f"{finding.about:<{width}}  ", "bold")
        console.print(Text.assemble((f"{mark} ", style), about, finding.words), soft_wrap=True)


def _tried(about: str, check: Callable[[], str]) -> Finding:
    """Whatever goes wrong in a check is what the check was for."""
    try:
        return Finding(about, "fine", check())
    except Exception as error:
        return Finding(about, "broken", f"{type(error).__name__}: {error}")


def _packages() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NEEDED)


def _extras() -> str:
    return ", ".join(f"{extra} {'' if _has(names) else 'not '}installed" for extra, names in EXTRAS.items())


def _has(names: tuple[str, ...]) -> bool:
    try:
        return all(importlib.metadata.version(name) for name in names)
    except importlib.metadata.PackageNotFoundError:
        return False


def _device(name: str) -> str:
    """Also computes something there, of which the CPU knows the result."""
    import torch

    from maskwise.distributed import World, device

    on = device(World(), name)
    pixels = torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8)
    weight = torch.linspace(-1, 1, 27).reshape(1, 3, 3, 3)
    here, there = (torch.conv2d(pixels.to(d), weight.to(d)).cpu() for d in (torch.device("cpu"), on))
    torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-2)
    named = torch.cuda.get_device_name(on) if on.type == "cuda" else platform.processor() or platform.machine()
    return f"{on} ({named}), {torch.get_num_threads()} threads"


def _decoder() -> str:
    import numpy as np
    from PIL import Image, features

    from maskwise.data.images import read_image

    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 200
    kinds = ["PNG", "JPEG", "TIFF", *(kind for kind in ("WEBP", "AVIF") if features.check(kind.lower()))]
    for kind in kinds:
        data = BytesIO()
        Image.fromarray(pixels).save(data, kind)
        if np.abs(read_image(data.getvalue()).astype(int)[:, ::7] - pixels[:, ::7]).max() > 40:
            raise ValueError(f"{kind} comes out as another picture")
    return f"reads {', '.join(kinds)} and more"


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"maskwise")
        os.fsync(file.fileno())
    return f"{folder.resolve()} can be written to"


def _embedded() -> list[str]:
    return [name for name, model in PUBLISHED.items() if not isinstance(model.at, Remote)]


def _model(name: str, device: str) -> str:
    """On a picture that any model of cells should find something in: bright discs on dark ground."""
    from maskwise.model import load

    model = load(name, device=device)
    found = len(model.predict(_discs(), min_score=0.2))
    if not found:
        raise ValueError("finds nothing in a picture of eleven bright discs")
    return f"{model.about.method}, {len(model.categories)} classes, finds {found} objects in a test picture of 11"


def _discs() -> "np.ndarray":
    import numpy as np

    y, x = np.mgrid[:256, :256]
    rng = np.random.default_rng(7)
    light = np.full((256, 256), 12.0)
    for i in range(11):
        cy, cx, radius = 36 + 62 * (i // 4), 36 + 62 * (i % 4), rng.uniform(11, 17)
        inside = np.clip(radius - np.hypot((y - cy) * rng.uniform(0.9, 1.2), x - cx), 0, 3) / 3
        light = np.maximum(light, inside * rng.uniform(120, 200))
    grainy = np.clip(light + rng.normal(0, 4, light.shape), 0, 255)
    return np.repeat(grainy.astype(np.uint8)[..., None], 3, axis=2)
