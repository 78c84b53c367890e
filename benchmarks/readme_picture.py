"""Draw docs/pictures/scenes.png, the picture of the README: scenes in every mode, with their exact masks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from maskwise.data.scenes import Scene, Scenes
from maskwise.draw import Picture, contact_sheet, overlay

CELL = 285
FILE = Path(__file__).parents[1] / "docs" / "pictures" / "scenes.png"
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


def main() -> None:
    pictures, captions = zip(*cells(), strict=True)
    sheet = contact_sheet(pictures, captions, columns=4, cell=CELL)
    full = Image.fromarray(sheet)
    palette = full.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(FILE, optimize=True)
    print(f"{FILE.name}: {sheet.shape[1]} x {sheet.shape[0]}, {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
