"""`maskwise export-model MODEL OUT`: a model as a folder that others can load, and that model hubs show."""

import json as json_format
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.text import Text

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.terminal import Terminal, grid

if TYPE_CHECKING:
    from maskwise.model import Model


def main(argv: list[str]) -> int:
    return answer(export_model, argv, "export-model")


def export_model(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    half: Flag = False,
    exist_ok: Flag = False,
    json: Flag = False,
) -> int:
    """Write a model as a folder: config.json, model.safetensors, README.md.

    What `maskwise.load(OUT)` gives is the same model, to the bit unless --half rounds it. Not in the folder: the state
    of training (optimiser, averages, position), its data, and its history.

    Args:
        model: name, file or folder of a model, or the folder of a run
        out: folder to write to
        half: matrices in 16 bits, about half the size; computed with as 32 bits
        exist_ok: write into a folder that holds something already
        json: one JSON object on standard output
    """
    from maskwise.model import load
    from maskwise.models.download import digest
    from maskwise.models.folder import CARD, WEIGHTS
    from maskwise.models.published import find

    if out.exists() and not exist_ok and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; choose another place, or allow it with --exist-ok")
    loaded, card = load(model, device="cpu"), find(model) / CARD
    out.mkdir(parents=True, exist_ok=True)
    if card.is_file() and not (out / CARD).exists():
        shutil.copyfile(card, out / CARD)
    loaded.save(out, half=half)
    facts = _facts(loaded, half=half) | {"bytes": (out / WEIGHTS).stat().st_size, "sha256": digest(out / WEIGHTS)}
    if json:
        print_json({"out": str(out), **facts})
    else:
        console = Terminal(width=None if sys.stdout.isatty() else 1000)
        console.print(Text.assemble("wrote ", (str(out), "bold"), ": config.json, model.safetensors, README.md"))
        console.print(grid([{"": name, " ": _shown(value)} for name, value in facts.items()]))
    return 0


def _facts(model: "Model", *, half: bool) -> dict[str, object]:
    weights = model.module.state_dict()
    return {
        "method": model.about.method,
        "categories": list(model.categories.names),
        "view": [dict(step) for step in model.about.view],
        "tensors": len(weights),
        "parameters": sum(value.numel() for value in model.module.parameters()),
        "stored_as": "float16" if half else "float32",
    }


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json_format.dumps(value, ensure_ascii=False)
