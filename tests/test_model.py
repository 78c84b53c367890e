from dataclasses import replace

import numpy as np
import pytest
import tiny_method
import torch

import maskwise
from maskwise import checkpoint
from maskwise.categories import Categories
from maskwise.checkpoint import About
from maskwise.data.scenes import Scenes
from maskwise.methods import METHODS
from maskwise.model import load
from maskwise.train import train

SMALL = {"num_classes": 8, "backbone": "resnet18", "width": 32, "hidden": 64, "min_score": 0.0, "max_instances": 10}
SMALL |= {"per_level_test": 50, "proposals_test": 20, "weights": "somewhere/imagenet.safetensors"}
RESIZE = {"kind": "Resize", "short": 64, "long": None}
CATEGORIES = Categories(names=tuple("abcdefgh"), ids=(3, 1, 4, 15, 9, 2, 6, 5))


def about(method="ms_rcnn", **changes):
    changes = {"config": SMALL, "categories": CATEGORIES, "view": (RESIZE,), **changes}
    return About(method=method, **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small Mask Scoring R-CNN of random weights."""
    torch.manual_seed(0)
    entry = METHODS["ms_rcnn"]
    module = entry.build(entry.config(**SMALL | {"weights": None}))
    path = tmp_path_factory.mktemp("written") / "small.safetensors"
    checkpoint.write_model(path, module.state_dict(), about())
    return path


def test_a_file_is_loaded_and_finds_what_its_method_finds(written):
    model = load(written, device="cpu")
    pictures = [Scenes(size=size).scene(i).pixels for i, size in enumerate([(96, 128), (50, 40)])]
    found = model.instances(pictures)
    assert model.categories == CATEGORIES
    assert not model.module.training
    assert [tuple(f.masks.size) for f in found] == [(96, 128), (50, 40)]
    assert all(len(f) == 10 for f in found)
    assert model.instances([]) == []


def test_a_view_is_applied(written):
    model = load(written, device="cpu")
    prepared = model._prepared(Scenes(size=(96, 128)).scene(0).pixels)
    assert prepared.shape == (3, 64, 85)
    assert prepared.dtype == torch.float32


def test_half_precision_is_stored_and_float32_is_computed(written, tmp_path):
    weights, about = checkpoint.read_model(written)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    checkpoint.write_model(tmp_path / "half.safetensors", halves, about)
    model = maskwise.load(tmp_path / "half.safetensors", device="cpu")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert len(model.instances([np.zeros((64, 64, 3), np.uint8)])) == 1


def test_the_folder_of_a_run_is_a_model(tmp_path):
    best = train(tiny_method.tiny_run(epochs=1), tmp_path / "run", methods=tiny_method.METHODS)
    models = [load(p, device="cpu", methods=tiny_method.METHODS) for p in (tmp_path / "run", best)]
    pixels = Scenes(size=(32, 32)).scene(0).pixels
    first, second = (m.instances([pixels])[0] for m in models)
    assert torch.equal(first.masks.bits, second.masks.bits)
    assert models[0].categories.names == ("disc", "square")


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda d: d / "missing", "there is no such file or folder, and no published model"),
        (lambda d: d, "no model here: neither model.safetensors nor"),
    ],
)
def test_what_is_no_model_is_refused(made, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        load(made(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "mask_rcn"}, "unknown method mask_rcn; did you mean mask_rcnn"),
        ({"config": SMALL | {"widht": 3}}, "unknown field widht; did you mean width"),
        ({"method": "mask_rcnn"}, "unknown weights: mask.iou"),
        ({"config": SMALL | {"num_classes": 7}}, "weights of another shape"),
        ({"view": [{"kind": "Rezise"}]}, "unknown kind Rezise; did you mean Resize"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(change, complaint, written, tmp_path):
    weights, stored = checkpoint.read_model(written)
    path = tmp_path / "wrong.safetensors"
    checkpoint.write_model(path, weights, replace(stored, **change))
    with pytest.raises(ValueError, match=rf"wrong\.safetensors: .*{complaint}"):
        load(path, device="cpu")


def test_a_device_that_is_not_there_is_refused(written):
    with pytest.raises(ValueError, match="device 'warp' cannot be used"):
        load(written, device="warp")
