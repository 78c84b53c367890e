"""What the package offers is written down here, so that no name comes or goes unnoticed."""

import ast
from pathlib import Path
from types import ModuleType

import maskwise

PUBLIC = [
    "Categories",
    "ImageReadError",
    "Images",
    "Instances",
    "Masks",
    "Model",
    "Result",
    "Run",
    "Scenes",
    "Targets",
    "__version__",
    "load",
    "open_data",
    "read_image",
    "recipe",
    "train_model",
]


def test_the_public_names_are_these():
    assert dir(maskwise) == maskwise.__all__ == PUBLIC


def test_each_can_be_had():
    for name in PUBLIC:
        assert getattr(maskwise, name) is not None
    assert not hasattr(maskwise, "no_such_name")


def test_a_star_brings_them_all_and_none_is_a_module():
    brought: dict[str, object] = {}
    exec("from maskwise import *", brought)
    assert [name for name in PUBLIC if name not in brought] == []
    assert not [name for name in PUBLIC if isinstance(brought[name], ModuleType)]


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(maskwise.__file__).read_text())
    seen = {a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    assert sorted(seen) == PUBLIC
