"""The page: a fixed list of files, read once. No path of a client ever reaches the disk."""

import hashlib
from importlib.resources import files
from typing import NamedTuple

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    body: bytes
    media_type: str
    tag: str
    """Changes with the content, so that browsers keep what is still right."""


def page() -> dict[str, File]:
    """What is served, by its path."""
    found: dict[str, File] = {}
    for entry in (files("maskwise.serve") / "page").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in TYPES:
            body = entry.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
            found[path] = File(body, TYPES[suffix], tag)
    return found
