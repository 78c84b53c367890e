"""JSON files: read whole with one kind of error, or looked into."""

import json
import re
from pathlib import Path
from typing import Any

from maskwise.data.files import replacing

_PEEK = 1 << 14
_KEY = re.compile(rb'"(\w+)"\s*:')


def load(path: Path) -> object:
    """What the file holds."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


def save(path: Path, value: object) -> Path:
    """Written whole or not at all; numbers that JSON has not are an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text(value, separators=(",", ":")).encode())
    return path


def text(value: object, **options: Any) -> str:
    """JSON in UTF-8; in ASCII where it has a name that is no text, as those of files may be."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, **options)
    return plain


def whole(value: object) -> object:
    """A number as it is counted with: tables write 7.0 for 7."""
    return int(value) if type(value) is float and value.is_integer() else value


def first_keys(path: Path) -> frozenset[str]:
    """Names of fields at the beginning of the file, at any depth; none where it is no JSON object."""
    try:
        if path.suffix.lower() != ".json" or not path.is_file():
            return frozenset()
        with path.open("rb") as file:
            start = file.read(_PEEK).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return frozenset()
    return (
        frozenset(key.decode("ascii", "replace") for key in _KEY.findall(start)) if start[:1] == b"{" else frozenset()
    )
