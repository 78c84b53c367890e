"""Instance segmentation that knows how good its masks are.

The public names are loaded when they are first used, so that `import maskwise` is quick and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING

from maskwise.version import __version__ as __version__

__all__ = [
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

if TYPE_CHECKING:
    from maskwise.categories import Categories as Categories
    from maskwise.data.images import ImageReadError as ImageReadError
    from maskwise.data.images import read_image as read_image
    from maskwise.data.open import open_data as open_data
    from maskwise.data.synthetic.scenes import Scenes as Scenes
    from maskwise.masks import Masks as Masks
    from maskwise.model import Model as Model
    from maskwise.model import load as load
    from maskwise.model import train_model as train_model
    from maskwise.predict import Result as Result
    from maskwise.recipes.chosen import chosen as recipe
    from maskwise.recipes.run import Run as Run
    from maskwise.structures import Images as Images
    from maskwise.structures import Instances as Instances
    from maskwise.structures import Targets as Targets

_HOME = {
    "Categories": "maskwise.categories",
    "ImageReadError": "maskwise.data.images",
    "Images": "maskwise.structures",
    "Instances": "maskwise.structures",
    "Masks": "maskwise.masks",
    "Model": "maskwise.model",
    "Result": "maskwise.predict",
    "Run": "maskwise.recipes.run",
    "Scenes": "maskwise.data.synthetic.scenes",
    "Targets": "maskwise.structures",
    "load": "maskwise.model",
    "open_data": "maskwise.data.open",
    "read_image": "maskwise.data.images",
    "recipe": "maskwise.recipes.chosen",
    "train_model": "maskwise.model",
}
_CALLED_THERE = {"recipe": "chosen"}
"""Names that say enough only beside that of their module."""


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'maskwise' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), _CALLED_THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
