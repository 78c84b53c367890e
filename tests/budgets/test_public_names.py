"""What the package offers is written down here, so that no name comes or goes unnoticed."""

import ast
from pathlib import Path

import maskwise

PUBLIC = [
    "Categories",
    "ImageReadError",
    "Images",
    "Instances",
    "Masks",
    "Model",
    "Result",
    "Scenes",
    "Targets",
    "__version__",
    "load",
    "open_data",
    "read_image",
]


def test_the_public_names_are_these():
    assert dir(maskwise) == PUBLIC


def test_each_can_be_had():
    for name in PUBLIC:
        assert getattr(maskwise, name) is not None
    assert not hasattr(maskwise, "no_such_name")


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(maskwise.__file__).read_text())
    seen = {a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    assert sorted(seen) == PUBLIC
