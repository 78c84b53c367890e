"""Reads files of weights that other programs wrote, and executes nothing. How a file begins tells what kind it is."""

import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maskwise import pickled

State: TypeAlias = Mapping[str, Tensor]
"""Weights by their names."""

_ZIP = b"PK\x03\x04"
_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""The number that files of PyTorch before 1.6 begin with."""

_WRAPPERS = ("model", "blobs", "state_dict")
"""What the weights are called where they are not alone."""


def read(path: Path) -> State:
    """The weights, on the CPU, by the names in the file. Nothing in the file is executed."""
    with path.open("rb") as file:
        start = file.read(len(_TORCH))
    if not start:
        raise ValueError(f"{path}: the file is empty")
    if path.suffix == ".safetensors":
        content: object = _safetensors(path)
    else:
        content = _torch(path) if start.startswith(_ZIP) or start == _TORCH else pickled.read(path)
    state = _tensors(path, _unwrapped(content))
    if not state:
        raise ValueError(f"{path}: no weights in it")
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _torch(path: Path) -> object:
    if tarfile.is_tarfile(path):  # which torch before 2.6 unpickles without restraint, whatever it is told
        raise ValueError(f"{path}: an archive of PyTorch before 0.1.10, which is not read")
    if zipfile.is_zipfile(path):
        _check_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: asks for {_asked(str(error))}; nothing of it was executed") from None
    except Exception as error:  # what else a broken file leads to is not documented
        raise ValueError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}") from None


def _check_stored(path: Path) -> None:
    """PyTorch compresses nothing, and so a small file cannot fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, RuntimeError, ValueError) as error:  # damaged, of an unknown version, oddly named
        raise ValueError(f"{path}: cannot be read: {error}") from None
    large = sum(entry.file_size for entry in entries) > path.stat().st_size
    if large or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path}: its parts are compressed, or claim more bytes than the file has; not read")


def _asked(message: str) -> str:
    """Without the advice to trust the file."""
    name = re.search(r"(?:GLOBAL|[Uu]nsupported class|[Uu]nsupported operand|type) ([\w.]+)", message)
    return name[1] if name else message.partition("\n")[0]


def _unwrapped(content: object) -> object:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and wrapper in content:
            return content[wrapper]
    return content


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    """What is no tensor has no business here."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected weights by their names, found {type(content).__name__}")
    state = {}
    for name, value in content.items():
        tensor = _tensor(value)
        if not isinstance(name, str) or tensor is None:
            raise ValueError(f"{path}: expected weights by their names, found {name!r}: {type(value).__name__}")
        if tensor.layout != torch.strided or tensor.is_meta:
            what = "of the device 'meta'" if tensor.is_meta else "sparse"
            raise ValueError(f"{path}: expected plain numbers, {name} is {what}")
        if tensor.nbytes > path.stat().st_size:
            raise ValueError(f"{path}: {name} claims {tensor.nbytes} bytes, of {path.stat().st_size} in the file")
        state[name.removeprefix("module.")] = tensor
    return state


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, pickled.Array) and value.value is not None:
        return torch.from_numpy(value.value)  # no copy: a file may have an array under many names
    return value if isinstance(value, Tensor) else None
