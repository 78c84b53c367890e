import json
import pickle
from dataclasses import replace

import bright
import numpy as np
import pytest
import tiny_method
import torch
import torchvision
import yaml
from pictures import write_scenes

import maskwise
from maskwise import checkpoint, cli
from maskwise.categories import Categories
from maskwise.checkpoint import About
from maskwise.data.dataset import Item
from maskwise.data.formats import coco
from maskwise.data.images import write_image
from maskwise.data.open import open_data
from maskwise.data.synthetic.scenes import Scenes
from maskwise.data.transforms import Enlarge
from maskwise.methods import METHODS
from maskwise.model import digest, load
from maskwise.models import published
from maskwise.predictions.finder import Limited, Placed
from maskwise.recipes.chosen import saved
from maskwise.recipes.run import Optim
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


def test_the_most_instances_of_a_picture_can_be_raised(written):
    model = load(written, device="cpu")
    more = model.up_to(15)
    pixels = [Scenes(size=(96, 128)).scene(0).pixels]
    first, second = model.instances(pixels)[0], more.instances(pixels)[0]
    assert (model.most_instances, more.most_instances) == (10, 15)
    assert (len(first), len(second)) == (10, 15)
    assert (more.about.config["proposals_test"], more.about.config["per_level_test"]) == (30, 75)
    assert isinstance(model, Limited)


def test_methods_that_report_all_have_no_most(written):
    model = load(written, device="cpu")
    endless = replace(model, about=replace(model.about, method="deepmask", config={"max_instances": 500}))
    grouping = replace(model, about=replace(model.about, method="discriminative", config={}))
    assert endless.most_instances is grouping.most_instances is None
    assert grouping.up_to(5) is grouping


def test_the_last_other_limit_is_kept_and_has_the_same_weights(written):
    model = load(written, device="cpu")
    more = model.up_to(15)
    assert model.up_to(15) is more
    assert model.up_to(16) is not more
    assert model.up_to(15) is not more
    own, theirs = model.module.state_dict(), more.module.state_dict()
    assert own.keys() == theirs.keys()
    assert all(own[name].data_ptr() == theirs[name].data_ptr() for name in own)


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


# Folders


def test_a_model_is_saved_and_loaded_to_the_bit(written, tmp_path):
    model = load(written, device="cpu")
    again = load(model.save(tmp_path / "saved"), device="cpu")
    assert again.about == model.about
    assert again.view == model.view
    state = model.module.state_dict()
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in again.module.state_dict().items())
    pixels = Scenes(size=(96, 128)).scene(0).pixels
    first, second = (m.predict(pixels, min_score=0.0) for m in (model, again))
    assert bright.same(first.instances, second.instances)
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_the_folder_is_what_model_hubs_expect(written, tmp_path):
    model = load(written, device="cpu")
    folder = model.save(tmp_path, half=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["2"] == "c"
    assert config["label2id"]["c"] == 2
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "maskwise"
    assert (folder / "model.safetensors").stat().st_size < 0.6 * written.stat().st_size
    assert load(folder / "model.safetensors", device="cpu").categories == CATEGORIES
    assert load(folder, device="cpu").name == str(folder)


def test_a_card_that_was_written_by_hand_stays(written, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    load(written, device="cpu").save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def edited(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["maskwise"] |= changes
    path.write_text(json.dumps(config))


def test_options_in_the_configuration_may_be_edited(written, tmp_path):
    folder = load(written, device="cpu").save(tmp_path)
    edited(folder, config=SMALL | {"max_instances": 3})
    pixels = Scenes(size=(96, 128)).scene(0).pixels
    assert len(load(folder, device="cpu").instances([pixels])[0]) == 3


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"maskwise": 3}', b'{"maskwise": {"format": 99}}'])
def test_a_broken_configuration_is_refused(content, written, tmp_path):
    folder = load(written, device="cpu").save(tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: "):
        load(folder, device="cpu")


def test_a_configuration_of_another_model_is_refused(written, tmp_path):
    folder = load(written, device="cpu").save(tmp_path)
    edited(folder, method="mask_rcnn")
    with pytest.raises(ValueError, match="another method or other categories"):
        load(folder, device="cpu")


def test_how_large_a_picture_is_seen(written):
    model = load(written, device="cpu")
    assert isinstance(model, Placed)
    assert model.viewed_size((96, 128)) == (64, 85)
    assert model.viewed_size((96, 128)) == tuple(model._prepared(np.zeros((96, 128, 3), np.uint8)).shape[1:])
    enlarged = replace(model, view=(Enlarge(short=60),))
    assert enlarged.viewed_size((30, 90)) == (60, 180)
    assert enlarged.viewed_size((30, 200)) == (36, 240)
    assert enlarged.viewed_size((30, 2000)) == (30, 2000)
    assert enlarged.viewed_size((80, 100)) == (80, 100)


def test_a_model_on_another_device_leaves_the_first_where_it_is(written):
    model = load(written, device="cpu")
    moved = model.to(torch.device("meta"))
    assert moved.device.type == "meta"
    assert {p.device.type for p in model.module.parameters()} == {"cpu"}


def test_a_name_that_is_published_is_found(written, tmp_path, monkeypatch):
    folder = load(written, device="cpu").save(tmp_path / "package" / "cells")
    monkeypatch.setitem(published.PUBLISHED, "cells", published.Published(title="", licence="", at=folder))
    assert maskwise.load("cells", device="cpu").name == "cells"


# Judged and trained


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A trained model of a method that trains in a second, and data on the disk."""
    monkeypatch.setitem(METHODS, "tiny", tiny_method.METHODS["tiny"])
    best = train(tiny_method.tiny_run(epochs=1), tmp_path / "run")
    scenes = Scenes(size=(32, 32), count=(1, 2), classes=("disc", "square"))
    for split, start in (("train", 0), ("val", 10)):
        several = [scenes.scene(start + i) for i in range(3)]
        for i, scene in enumerate(several):
            write_image(tmp_path / f"{split}{i}.png", scene.pixels)
        items = [
            Item(name=f"{split}/{i}.png", size=(32, 32), labelled=s.targets, image=tmp_path / f"{split}{i}.png")
            for i, s in enumerate(several)
        ]
        coco.write(tmp_path / "data", scenes.categories, items, split=split)
    return load(best, device="cpu")


def test_a_model_is_judged_as_by_the_command(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the command writes its page
    found = tiny.val(tmp_path / "data", split="val")
    assert found.masks.images == 3
    run = tmp_path / "run" / "weights" / "best.safetensors"
    assert (
        cli.main(
            ["val", "--model", str(run), "--data", str(tmp_path / "data"), "--split", "val", "--workers", "0", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["masks"] == found.to_json()["masks"]


def test_what_is_shown_has_a_threshold_and_what_is_judged_has_not(written, tmp_path):
    data = write_scenes(tmp_path / "data", categories=Categories(names=("a", "b")), val=2)
    model = load(written, device="cpu")
    assert [len(found) for found in model.predict([record.path for record in open_data(data)])] == [0, 0]
    assert model.val(data).quality.numbers["detections"] > 0


def test_an_option_of_val_that_there_is_not_is_refused_with_what_was_meant(written):
    model = load(written, device="cpu")
    with pytest.raises(TypeError, match="val: unknown option 'max_det'; did you mean 'max_dets'"):
        model.val("data", max_det=3)
    with pytest.raises(TypeError, match="val: unknown option 'splt'; did you mean 'split'"):
        model.val("data", splt="val")


def test_models_are_told_apart_and_can_be_kept_in_sets(written):
    one, other = load(written, device="cpu"), load(written, device="cpu")
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2


def test_training_goes_on_from_the_weights(tiny, tmp_path):
    still = tiny_method.tiny_run(epochs=1, optim=Optim(lr=0.0, lr_batch=None, weight_decay=0.0))
    after = tiny.train(still, tmp_path / "again")
    assert "mask AP" in (tmp_path / "again" / "report.html").read_text(encoding="utf-8")
    before = dict(tiny.module.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in after.module.named_parameters())
    assert tiny.train(tiny_method.tiny_run(epochs=1), tmp_path / "more").module is not tiny.module


def test_training_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "tiny", tiny_method.METHODS["tiny"])
    run = tiny_method.tiny_run(epochs=1)
    model = maskwise.train_model(run, tmp_path / "run")
    best = load(tmp_path / "run")
    assert isinstance(model, maskwise.Model)
    assert digest(model.module.state_dict()) == digest(best.module.state_dict())
    assert saved(tmp_path / "run" / "run.json", methods=METHODS).method == "tiny"
    with pytest.raises(ValueError, match="is not empty"):
        maskwise.train_model(run, tmp_path / "run")
    with pytest.raises(ValueError, match="a Run says itself what it learns from; got data='x'"):
        maskwise.train_model(run, tmp_path / "other", data="x")
    with pytest.raises(ValueError, match="unknown recipe tiny_ms_rcn; did you mean tiny_ms_rcnn"):
        maskwise.train_model("tiny_ms_rcn", tmp_path / "other")


def test_a_recipe_is_had_from_the_package():
    assert isinstance(maskwise.recipe("tiny_ms_rcnn"), maskwise.Run)


def on(names):
    """A run that changes no weight, on scenes of these classes."""
    run = tiny_method.tiny_run(epochs=1, optim=Optim(lr=0.0, lr_batch=None, weight_decay=0.0))
    scenes = replace(run.data.source.scenes, classes=names)
    return replace(run, data=replace(run.data, source=replace(run.data.source, scenes=scenes)))


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        pytest.param(("square", "disc"), {0: 1, 1: 0}, marks=pytest.mark.long),
        pytest.param(("disc", "ring"), {0: 0}, marks=pytest.mark.long),
        (("ring", "square", "disc"), {1: 1, 2: 0}),
        pytest.param(("square",), {0: 1}, marks=pytest.mark.long),
        (("ring", "star"), {}),
    ],
)
def test_each_class_goes_on_from_that_of_its_name(names, kept, tiny, tmp_path, caplog):
    assert tiny.categories.names == ("disc", "square")
    with caplog.at_level("INFO"):
        after = tiny.train(on(names), tmp_path / "again")
    assert after.categories.names == names
    before, label = tiny.module.label, after.module.label
    assert {
        i: j
        for i, row in enumerate(label.weight)
        for j, own in enumerate(before.weight)
        if torch.equal(row, own) and label.bias[i] == before.bias[j]
    } == kept
    assert all(
        torch.equal(value, tiny.module.state_dict()[f"mask.{n}"]) for n, value in after.module.mask.state_dict().items()
    )
    new = [name for name in names if name not in tiny.categories.names]
    assert (f"these classes, which begin from chance: {', '.join(new)}" in caplog.text) == bool(new)


@pytest.mark.long
def test_a_single_class_goes_on_from_a_single_one_of_another_name(tiny, tmp_path):
    alone = tiny.train(on(("square",)), tmp_path / "alone")
    after = alone.train(on(("ring",)), tmp_path / "again")
    assert after.categories.names == ("ring",)
    assert torch.equal(after.module.label.weight, alone.module.label.weight)


def test_files_of_other_programs_are_models_too(tmp_path):
    torch.manual_seed(0)
    foreign = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(foreign.state_dict(), tmp_path / "foreign.pth")
    model = load(tmp_path / "foreign.pth", device="cpu")
    assert model.about.notes["source"] == "torchvision"
    assert len(model.categories) == 2


def test_a_file_that_would_run_something_is_refused(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"evil\.pth"):
        load(tmp_path / "evil.pth", device="cpu")
    assert capsys.readouterr().out == ""


class Evil:
    def __reduce__(self):
        return print, ("executed",)
