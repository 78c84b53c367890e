"""What conversion does with pictures: none is lost, and large ones become tiles, from every format to every format."""

import json
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.convert import convert, refuse_to_cut
from maskwise.data.cutting import Tiling
from maskwise.data.dataset import Item, Labelled
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import image_size, read_image, write_image
from maskwise.data.open import open_data
from maskwise.data.split import kin
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("car", "person"), ids=(26, 24))
SIZE = (21, 34)
TILING = Tiling(side=16, overlap=4, min_visible=0)
LARGE, SMALL = "town/large.png", "town/small.png"


def objects(size: tuple[int, int], *, crowd: bool = False) -> Targets:
    """Three, of which the first lies in all tiles, and the second, which may be a crowd, in two."""
    ids = np.zeros(size, int)
    ids[size[0] // 2 - 1 : size[0] // 2 + 2] = 1
    ids[:3, 2:12], ids[-4:, -7:-1] = 2, 3
    masks = Masks.from_label_map(ids)[0]
    return Targets.from_masks(masks, torch.tensor([0, 1, 0]), crowd=torch.tensor([False, crowd, False]))


@pytest.fixture
def source(tmp_path, picture):
    """One picture larger than a tile and one that is as large, in any format."""

    def write(format: str, *, crowd: bool = False, split: str = "train"):
        items = [
            Item(
                name=name, size=size, labelled=objects(size, crowd=crowd), image=picture(tmp_path / f"in/{name}", size)
            )
            for name, size in {LARGE: SIZE, SMALL: (16, 12)}.items()
        ]
        FORMATS[format].write(tmp_path / format, CATEGORIES, items, split=split)
        return open_data(tmp_path / format, format=format, split=None if format == "labelme" else split)

    return write


def place(name: str) -> tuple[int, int] | None:
    """Row and column of a tile, as its name says them."""
    _, y, x = name.rsplit("_", 2) if name.count("_y") else ("", "", "")
    return (int(y[1:]), int(x[1:])) if y else None


def check_tiles(out, format: str, targets: Targets, pixels: np.ndarray) -> None:
    """That the tiles below `out` show the pixels, and together all of each object."""
    data = open_data(out, format=format, split=None if format == "labelme" else "train")
    size, found = targets.masks.size, {}
    tiles = {record: at for record in data if (at := place(record.path.stem.removesuffix("_leftImg8bit")))}
    assert len(tiles) == 6
    assert [kin(record.name) == kin(next(iter(tiles)).name) for record in data] == [record in tiles for record in data]
    for record, (y, x) in tiles.items():
        shown, read = read_image(record.path), record.labelled()
        assert not read.problems
        assert np.array_equal(shown, pixels[y : y + 16, x : x + 16])
        for mask, label in zip(read.targets.masks.dense().numpy(), read.targets.labels.tolist(), strict=True):
            whole = found.setdefault(data.categories.name(label), np.zeros(size, bool))
            whole[y : y + 16, x : x + 16] |= mask
    for name, label in (("car", 0), ("person", 1)):
        expected = targets.masks[targets.labels == label].dense().any(0).numpy()
        assert np.array_equal(found[name], expected)


@pytest.mark.parametrize("format", FORMATS)
def test_tiles_are_cut_from_every_format(source, tmp_path, format):
    done = convert(source(format), tmp_path / "out", "coco", tiling=TILING)
    assert (done.pictures, done.instances, done.tiles) == (2, 6, 7)
    check_tiles(tmp_path / "out", "coco", objects(SIZE), read_image(tmp_path / "in" / LARGE))


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"coco"}))
def test_tiles_are_written_to_every_format(source, tmp_path, format):
    done = convert(source("coco"), tmp_path / "out", format, tiling=TILING)
    assert (done.tiles, done.problems) == (7, ())
    check_tiles(tmp_path / "out", format, objects(SIZE), read_image(tmp_path / "in" / LARGE))


def test_a_picture_no_larger_than_a_tile_is_itself(source, tmp_path):
    convert(source("coco"), tmp_path / "out", "coco", tiling=TILING, link=True)
    small = tmp_path / "out" / SMALL
    assert small.is_symlink()
    assert small.read_bytes() == (tmp_path / "in" / SMALL).read_bytes()
    names = [record.name for record in open_data(tmp_path / "out")]
    assert names == [*(f"town/large_y{y:02}_x{x:02}.png" for y in (0, 5) for x in (0, 9, 18)), SMALL]


def test_crowds_are_cut_as_crowds(source, tmp_path):
    convert(source("coco", crowd=True), tmp_path / "out", "label_map", tiling=TILING)
    data = open_data(tmp_path / "out")
    crowds = {record.path.stem: (read := record.labelled().targets)[read.crowd] for record in data}
    areas = {name: few.masks.area().tolist() for name, few in crowds.items() if len(few)}
    assert areas == {"large_y00_x00": [30], "large_y00_x09": [9], "small": [30]}
    assert {data.categories.name(label) for few in crowds.values() for label in few.labels.tolist()} == {"person"}


def test_small_pieces_are_marked_where_the_format_can_and_counted(source, tmp_path):
    tiling = Tiling(side=16, overlap=4, min_visible=0.5)
    data = source("coco")
    done = convert(data, tmp_path / "coco_tiles", "coco", tiling=tiling)
    crowds = sum(int(record.labelled().targets.crowd.sum()) for record in open_data(tmp_path / "coco_tiles"))
    assert done.losses["remainders marked as crowds"] == crowds == 1
    assert convert(data, tmp_path / "yolo", "yolo", tiling=tiling).losses["crowd regions left out"] == crowds


def test_tiles_without_objects_are_kept_or_left_out(tmp_path, picture):
    masks = Masks.from_label_map(np.pad(np.ones((2, 2), int), ((0, 18), (0, 38))))[0]
    targets = Targets.from_masks(masks, torch.tensor([0]))
    items = [
        Item(name="a.png", size=(20, 40), labelled=targets, image=picture(tmp_path / "a.png", (20, 40))),
        Item(name="b.png", size=(5, 5), labelled=Targets.none((5, 5)), image=picture(tmp_path / "b.png", (5, 5))),
    ]
    FORMATS["coco"].write(tmp_path / "in", CATEGORIES, items)
    data = open_data(tmp_path / "in")
    assert convert(data, tmp_path / "all", "coco", tiling=Tiling(side=20, overlap=0)).tiles == 3
    done = convert(data, tmp_path / "some", "coco", tiling=Tiling(side=20, overlap=0, skip_empty=True))
    assert (done.tiles, done.losses) == (1, {"tiles without objects": 2})
    assert [record.name for record in open_data(tmp_path / "some")] == ["a_y00_x00.png"]


def test_a_picture_that_is_missing_or_damaged_leaves_its_annotations(source, tmp_path):
    data = source("coco")
    large = data[0].path
    large.write_bytes(large.read_bytes()[:-400])
    done = convert(data, tmp_path / "damaged", "coco", tiling=TILING)
    assert (done.losses["pictures"], done.tiles) == (1, 7)
    assert [(p.file, p.rule) for p in done.problems] == [(LARGE, "unreadable-image")]
    large.unlink()
    assert convert(data, tmp_path / "missing", "coco", tiling=TILING).losses["pictures"] == 1
    for out in ("damaged", "missing"):
        assert sum(len(record.labelled().targets) for record in open_data(tmp_path / out)) == 12
        assert [path.name for path in (tmp_path / out / "town").iterdir()] == ["small.png"]


def test_a_picture_of_another_size_is_left_out_and_counted(source, tmp_path, picture):
    data = source("coco")
    picture(data[0].path, SIZE[::-1])
    done = convert(data, tmp_path / "out", "coco", tiling=TILING)
    assert done.losses["pictures of another size than their annotations"] == 1
    assert [p.rule for p in done.problems] == ["size-swapped"]
    assert [record.name for record in open_data(tmp_path / "out")] == [SMALL]


@pytest.mark.parametrize("splits", [("train", "train"), ("train", "val")])
def test_two_pictures_are_not_written_to_one_tile(tmp_path, picture, splits):
    """Whether they are of one split, of two that are known together, or of two one after the other."""
    items: dict[str, list[Item]] = {}
    for split, name in zip(splits, ("a.png", "a.jpg"), strict=True):
        item = Item(name=name, size=SIZE, labelled=objects(SIZE), image=picture(tmp_path / name, SIZE))
        items.setdefault(split, []).append(item)
    for split, several in items.items():
        FORMATS["coco"].write(tmp_path / "in", CATEGORIES, several, split=split)
    data = [open_data(tmp_path / "in", split=split) for split in items]
    with pytest.raises(ValueError, match=r"tiles of .*a\.png and of .*a\.jpg would have the same names"):
        refuse_to_cut(data, TILING, max_pixels=1000)
    *earlier, last = data
    for one in earlier:
        convert(one, tmp_path / "out", "coco", tiling=TILING)
    with pytest.raises(ValueError, match=r"same names|a_y00_x00\.png is there already and shows something else"):
        convert(last, tmp_path / "out", "coco", tiling=TILING)


def test_a_picture_that_is_called_as_a_tile_is_named_with_the_other(tmp_path, picture):
    sizes = {"a.png": SIZE, "a_y00_x00.png": (5, 5)}
    items = [
        Item(name=name, size=size, labelled=Targets.none(size), image=picture(tmp_path / name, size))
        for name, size in sizes.items()
    ]
    FORMATS["coco"].write(tmp_path / "in", CATEGORIES, items)
    with pytest.raises(ValueError, match=r"a_y00_x00\.png is called as a tile of .*a\.png would be"):
        convert(open_data(tmp_path / "in"), tmp_path / "out", "coco", tiling=TILING)
    assert not (tmp_path / "out").exists()


def test_tiles_are_written_again_where_they_are_the_same(source, tmp_path):
    data = source("coco")
    for _ in range(2):
        assert convert(data, tmp_path / "out", "coco", tiling=TILING).tiles == 7
    with pytest.raises(ValueError, match="is there already and shows something else"):
        convert(data, tmp_path / "out", "coco", tiling=Tiling(side=20, overlap=0))
    with pytest.raises(ValueError, match="max-pixels: expected 1 or more, got 0"):
        convert(data, tmp_path / "new", "coco", max_pixels=0)


@pytest.mark.parametrize("format", ["coco", "label_map"])
def test_a_mosaic_is_read_where_that_is_allowed_and_refused_before_anything_is_written(source, tmp_path, format):
    data = source(format)
    with pytest.raises(ValueError, match=r"large\.png: 34 x 21 = 714 pixels; max-pixels is 713"):
        convert(data, tmp_path / "out", "coco", tiling=TILING, max_pixels=713)
    assert not (tmp_path / "out").exists()
    assert convert(data, tmp_path / "out", "coco", tiling=TILING, max_pixels=714).tiles == 7


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_of_pixels_reaches_the_readers_of_all_formats(source, tmp_path, format):
    done = convert(source(format), tmp_path / "out", "coco", max_pixels=713)
    assert done.losses["pictures"] == 1
    assert done.tiles is None
    assert any("too many pixels" in problem.message for problem in done.problems)
    assert image_size(tmp_path / "in" / LARGE) == SIZE, "the limit is that of one call"


def test_more_pictures_take_no_more_memory(tmp_path):
    """Pixels of the picture before are gone when the next one is decoded. What Pillow holds is not counted."""
    side = 2000
    for name in "abc":
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.bmp")
    labelled = partial(Labelled, Targets.none((side, side)), ())
    items = [
        Item(name=f"{n}.bmp", size=(side, side), labelled=labelled().targets, image=tmp_path / f"{n}.bmp")
        for n in "abc"
    ]
    FORMATS["coco"].write(tmp_path / "in", CATEGORIES, items)
    data = open_data(tmp_path / "in")
    tracemalloc.start()
    try:
        convert(data, tmp_path / "out", "coco", tiling=Tiling(side=1000, overlap=0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    picture, tile = side * side * 3, 1000 * 1000 * 3
    assert peak < picture + 4 * tile


def test_what_stops_in_the_middle_leaves_no_index(source, tmp_path, monkeypatch):
    data = source("coco")

    def fail(path, pixels):
        if "x09" in path.name:
            raise OSError(28, "No space left on device", str(path))
        write_image(path, pixels)

    monkeypatch.setattr("maskwise.data.formats.pictures.write_image", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(data, tmp_path / "out", "coco", tiling=TILING)
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.fixture
def roboflow(tmp_path):
    """An annotation file of a split in a folder of its own, with 0001.png in one colour."""

    def write(split: str, colour: int):
        (tmp_path / "rf" / split).mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "rf" / split / "0001.png", np.full((6, 8, 3), colour, np.uint8))
        images = [{"id": 1, "file_name": "0001.png", "height": 6, "width": 8}]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
        path = tmp_path / "rf" / split / "_annotations.coco.json"
        path.write_text(json.dumps(content))
        return open_data(path)

    return write


@pytest.mark.parametrize("link", [False, True])
def test_a_picture_of_another_split_is_not_replaced(roboflow, tmp_path, link):
    out = tmp_path / "out"
    convert(roboflow("train", 10), out, "coco", link=link)
    message = r"out/0001\.png is a picture of .*out/train\.json, and .*rf/valid/0001\.png is another"
    with pytest.raises(ValueError, match=message):
        convert(roboflow("valid", 20), out, "coco", link=link)
    assert read_image(out / "0001.png").max() == 10
    assert not (out / "valid.json").exists()


def test_a_split_is_written_over_itself_and_beside_equal_pictures(roboflow, tmp_path):
    out = tmp_path / "out"
    for colour in (10, 20):
        convert(roboflow("train", colour), out, "coco")
    convert(roboflow("valid", 20), out, "coco")
    assert read_image(out / "0001.png").max() == 20
    assert {path.name for path in out.iterdir()} == {"0001.png", "train.json", "valid.json"}


def test_a_picture_that_a_file_of_another_layout_lists_is_not_replaced(roboflow, tmp_path):
    out = tmp_path / "out"
    convert(roboflow("train", 10), out, "coco")
    (out / "annotations").mkdir()
    (out / "train.json").rename(out / "annotations/instances_train2017.json")
    (out / "notes.json").write_text('{"categories": 3}')
    with pytest.raises(ValueError, match=r"is a picture of .*instances_train2017\.json"):
        convert(roboflow("train", 20), out, "coco")
    assert read_image(out / "0001.png").max() == 10


@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_nothing_is_written_into_the_data_set_that_is_read(tmp_path, picture, format):
    root = tmp_path / "d"
    item = Item(name="images/a.png", size=SIZE, labelled=objects(SIZE), image=picture(tmp_path / "a.png", SIZE))
    FORMATS["coco"].write(root, CATEGORIES, [item])
    before = picture(root / "train/a.png", (3, 3)).read_bytes()
    for source in (root, root / "train.json"):
        with pytest.raises(ValueError, match="write over the data set that is read"):
            convert(open_data(source), root, format)
    assert (root / "train/a.png").read_bytes() == before


def test_links_become_copies_and_copies_links_when_that_is_asked_for(roboflow, tmp_path):
    data, target = roboflow("train", 10), tmp_path / "out/0001.png"
    for link in (True, True, False, False, True):
        convert(data, tmp_path / "out", "coco", link=link)
        assert target.is_symlink() == link
        assert target.read_bytes() == data[0].path.read_bytes()
        assert not data[0].path.is_symlink()
