"""Data sets of scenes in files, for whoever trains on files."""

from pathlib import Path

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import write_image
from maskwise.data.synthetic.scenes import Scenes

SCENES = Scenes(size=(32, 32), count=(1, 2), classes=("disc", "square"))


def write_scenes(
    root: Path,
    *,
    format: str = "coco",
    categories: Categories = SCENES.categories,
    first: int = 0,
    **splits: int,
) -> Path:
    """So many scenes in each split."""
    for split, count in splits.items():
        items = []
        for i in range(first, first + count):
            scene = SCENES.scene(i)
            path = root.parent / "pictures" / f"{split}-{i:03d}.png"
            path.parent.mkdir(exist_ok=True)
            write_image(path, scene.pixels)
            items.append(Item(name=path.name, size=(32, 32), labelled=scene.targets, image=path, id=i + 1))
        FORMATS[format].write(root, categories, items, split=split)
    return root
