"""The folder of a model, in the layout of model hubs: `config.json`, `model.safetensors`, `README.md`.

The weights file says in its header what it holds and is a model by itself. `config.json` says the same for people and
programs that read no safetensors; its options may be edited, and are what counts. Nothing in either is executed.
There is no `preprocessor_config.json`: the view is in `config.json`, and networks normalise what they are given
themselves, so that programs which obey such a file would do it twice.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskwise.checkpoint import HEADER, About, read_model, write_bytes, write_model

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

_TRAINED = ("weights/best.safetensors", "weights/last.safetensors")
"""Of the folder of a training run."""


def weights_file(path: Path) -> Path:
    """The file with the weights: `path` itself, or what lies in that folder."""
    if not path.is_dir():
        return path
    for name in (WEIGHTS, *_TRAINED):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path}: no model here: neither {WEIGHTS} nor, as a run has it, {_TRAINED[0]}")


def is_foreign(path: Path) -> bool:
    """Whether it is a file that another program wrote."""
    if path.is_dir():
        return False
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # reading it says what is wrong


def read(path: Path) -> tuple[dict[str, Tensor], About]:
    """Weights and what they are, of a file or a folder."""
    file = weights_file(path)
    weights, about = read_model(file)
    config = file.with_name(CONFIG)
    if file.name == WEIGHTS and config.is_file():
        about = _configured(config, about)
    return weights, about


def write(folder: Path, weights: Mapping[str, Tensor], about: About, *, half: bool = False) -> Path:
    """The same model as it is, or with weights of 16 bits. The weights come last: a folder with them is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: _halved(value) for name, value in weights.items()} if half else weights
    names = dict(enumerate(about.categories.names))
    config = {
        "library_name": "maskwise",
        "model_type": about.method,
        "id2label": names,
        "label2id": {name: label for label, name in names.items()},
        "torch_dtype": "float16" if half else "float32",
        "maskwise": about.to_json(),
    }
    write_bytes(folder / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    if not (folder / CARD).exists():  # which may have been written by hand
        write_bytes(folder / CARD, card(about, sum(v.numel() for v in weights.values())).encode())
    write_model(folder / WEIGHTS, kept, about)
    return folder


def _halved(value: Tensor) -> Tensor:
    """Of biases and norms nothing is saved, and their numbers may be out of range."""
    small = value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
    return small if bool(small.isfinite().all()) else value


def _configured(path: Path, about: About) -> About:
    try:
        stored = About.from_json(json.loads(path.read_bytes())["maskwise"])
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if (stored.method, stored.categories) != (about.method, about.categories):
        raise ValueError(f"{path}: another method or other categories than those of the weights beside it")
    return stored


def card(about: About, numbers: int) -> str:
    """What is known of the model, for people; the header is what hubs read."""
    notes = dict(about.notes)
    licence = notes.pop("licence", None)
    header = ["---", "library_name: maskwise", "pipeline_tag: image-segmentation", "tags: [instance-segmentation]"]
    header += [f"license: {json.dumps(licence)}"] if licence else []
    names = about.categories.names
    facts = {
        "method": about.method,
        "backbone": about.config.get("backbone", "none"),
        "numbers in the weights": f"{numbers:,}",
        "classes": ", ".join(names[:20]) + (f" ... ({len(names)} in all)" if len(names) > 20 else ""),
    }
    rows = [f"| {_cell(k)} | {_cell(v)} |" for k, v in (facts | notes).items()]
    lines = [*header, "---", "", f"# {about.method}", "", "Instance segmentation with maskwise:", ""]
    lines += ["```python", "import maskwise", "", 'model = maskwise.load("path/to/this/folder")']
    lines += ['model.predict("picture.jpg").save("overlay.png")', "```", "", "| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
