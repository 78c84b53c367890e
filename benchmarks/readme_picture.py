"""Draw the pictures of README and docs: what the model in the box finds in the examples, and scenes in every mode."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import maskwise
from maskwise.data.synthetic.scenes import Scene, Scenes
from maskwise.draw import Picture, contact_sheet, overlay

CELL = 285
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SCENES = Scenes(size=(CELL, CELL), noise=1.5, clutter=0.4)


def drawn(scenes: Scenes, scene: Scene, *, labels: bool = True) -> Picture:
    return overlay(scene.pixels, scene.targets, scenes.categories, labels=labels)


def cells() -> Iterator[tuple[Picture, str]]:
    still = replace(SCENES, count=(8, 8), overlap=0.5, touching=0.2)
    scene = still.scene(6)
    yield scene.pixels, "a scene"
    yield drawn(still, scene), "its masks: visible parts, exact"
    shapes = ("ellipse", "blob")
    crowded = replace(SCENES, count=(45, 45), radius=(9, 17), classes=shapes, overlap=0.25, touching=0.35)
    yield drawn(crowded, crowded.scene(13), labels=False), "apart, touching, overlapping: dials"
    salient = replace(SCENES, mode="salient")
    yield drawn(salient, salient.scene(1)), "salient: one object"
    clip = replace(SCENES, mode="clip", count=(6, 6), overlap=0.5, frames=5)
    frames = clip.clip(8)
    for number in (0, 2, 4):
        yield drawn(clip, frames[number]), f"clip: frame {number + 1}, identities kept"
    people = replace(SCENES, mode="parts", count=(5, 5), overlap=0.3, radius=(26, 36))
    scene = people.scene(22)
    yield overlay(scene.pixels, scene.targets, people.categories, colours="part", labels=False), "parts and keypoints"


def nuclei() -> Iterator[tuple[Picture, str]]:
    """Cut to a square, each beside the masks of the model in the box."""
    model = maskwise.load("nuclei")
    for name in ("stained", "fluorescence"):
        pixels = maskwise.read_image(ROOT / "examples" / "nuclei" / f"{name}.png")[:256, :256]
        result = model.predict(np.ascontiguousarray(pixels))
        yield pixels, name
        yield result.plot(colours="quality", labels=False, fill=0.25, zoom=2), f"{len(result)} nuclei, by quality"


def write(name: str, several: Iterator[tuple[Picture, str]], *, columns: int) -> None:
    pictures, captions = zip(*several, strict=True)
    sheet = contact_sheet(pictures, captions, columns=columns, cell=CELL)
    full = Image.fromarray(sheet)
    palette = full.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
    file = PICTURES / name
    full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
    print(f"{file.name}: {sheet.shape[1]} x {sheet.shape[0]}, {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    write("nuclei.png", nuclei(), columns=4)
    write("scenes.png", cells(), columns=4)


if __name__ == "__main__":
    main()
