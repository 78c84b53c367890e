"""Files of other programs become models that say what they are."""

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign import PYRAMID, Detector, of_detectron, of_detectron2, with_opinions
from torchvision.models.detection import maskrcnn_resnet50_fpn

from maskwise import checkpoint
from maskwise.methods import METHODS, ms_rcnn
from maskwise.recipes.stored import from_json
from maskwise.structures import Images
from maskwise.weights import benchmark, detectron, detectron2, torchvision
from maskwise.weights.coco import COCO, categories
from maskwise.weights.open import SOURCES, import_model

PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))


def small(**options):
    options = {"blocks": (2, 2, 2, 2), "bottlenecks": False, "legacy": True} | options
    return with_opinions(Detector(**options), PICTURE)


def numpy(state):
    return {k: v.numpy() for k, v in state.items()}


def written(path, kind):
    """A file as each program writes it."""
    if kind == "maskscoring_rcnn":
        state = {f"module.{k}": v for k, v in small(maskiou=True).weights.items()}
        torch.save({"model": state, "optimizer": {}, "scheduler": {"last_epoch": 1}, "iteration": 9}, path)
    elif kind == "maskrcnn-benchmark":
        torch.save({"model": small(classes=80).weights}, path)
    elif kind == "detectron2":
        state = of_detectron2(small(legacy=False))
        model = {"model": numpy(state), "__author__": "Somebody", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(model, 4))
    elif kind == "detectron":
        blobs = of_detectron(small().weights)
        path.write_bytes(pickle.dumps({"blobs": numpy(blobs), "cfg": "MODEL: ..."}, 2))
    else:
        torch.save(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict(), path)
    return path


KINDS = ["maskscoring_rcnn", "maskrcnn-benchmark", "detectron2", "detectron"]
KINDS += [pytest.param("torchvision", marks=pytest.mark.slow)]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_model_is_saved_and_loaded_again(tmp_path, kind):
    model, about = import_model(str(written(tmp_path / "theirs.file", kind)))
    assert about.notes == {"source": kind, "file": "theirs.file"}
    assert about.method == ("ms_rcnn" if kind == "maskscoring_rcnn" else "mask_rcnn")
    assert len(about.categories) == model.cfg.num_classes
    checkpoint.write_model(tmp_path / "ours.safetensors", model.state_dict(), about)
    weights, stored = checkpoint.read_model(tmp_path / "ours.safetensors")
    assert stored.to_json() == about.to_json()
    entry = METHODS[stored.method]
    again = entry.build(from_json(entry.config, dict(stored.config), "config")).eval()
    checkpoint.load_weights(again, weights)
    assert again.cfg == model.cfg
    images = Images.batch([PICTURE])
    first, second = model.predict(images)[0], again.predict(images)[0]
    assert kind == "torchvision" or len(first)
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.masks.bits, second.masks.bits)
    assert torch.equal(first.mask_scores, second.mask_scores)


def test_categories_are_those_of_coco_where_there_are_as_many():
    assert categories(80) is COCO
    assert (COCO.name(0), COCO.id(79), COCO.name(79)) == ("person", 90, "toothbrush")
    with_gaps = categories(90)
    assert all(with_gaps.name(with_gaps.label(id_)) == name for id_, name in zip(COCO.ids, COCO.names, strict=True))
    assert with_gaps.name(11) == "unused 12"
    assert categories(3).names == ("class 1", "class 2", "class 3")
    assert len(categories(1, keypoints=17).keypoints) == 17


def test_weights_of_nothing_known_are_refused(tmp_path):
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: no detector of maskscoring_rcnn, .*begin with layer\.weight"):
        import_model(tmp_path / "other.pth")


def test_no_two_programs_are_taken_for_each_other():
    keys = [key for source in SOURCES for key in source.keys]
    assert len(set(keys)) == len(keys)


def test_all_that_is_missing_and_all_that_is_left_over_are_listed(tmp_path):
    state = small().weights
    state["rpn.head.extra.bias"] = torch.ones(1)
    state["roi_heads.mask.third"] = torch.ones(1)
    del state["rpn.head.bbox_pred.bias"], state["backbone.fpn.fpn_layer2.weight"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        ValueError,
        match=r"odd\.pth: missing weights: neck\.output\.1\.weight, rpn\.offset\.bias; "
        r"unknown weights: roi_heads\.mask\.third, rpn\.head\.extra\.bias",
    ):
        import_model(tmp_path / "odd.pth")


def test_a_weight_of_another_shape_is_named():
    state = small().weights
    state["rpn.head.bbox_pred.bias"] = torch.ones(5)
    with pytest.raises(ValueError, match=r"another shape: rpn\.offset\.bias: \(5,\), expected \(12,\)"):
        benchmark.load(state)


@pytest.mark.parametrize(
    "key", ["rpn.head.conv.bias", "roi_heads.box.predictor.bbox_pred.bias", "backbone.body.stem.conv1.weight"]
)
def test_a_single_number_in_the_place_of_a_weight_is_an_error_like_any_other(key, tmp_path):
    torch.save(small().weights | {key: torch.tensor(1.0)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=rf"odd\.pth: {re.escape(key)}: expected a vector or more, found one number"):
        import_model(tmp_path / "odd.pth")


def test_anchors_of_fewer_sizes_than_there_are_here_are_refused():
    """Of four sizes and three shapes, on the one level of a C4."""
    whole = small(variant="c4").weights
    state = {
        k: v[: len(v) * 4 // 5] if k.startswith("rpn.head.") and ".conv." not in k else v for k, v in whole.items()
    }
    with pytest.raises(ValueError, match=r"rpn\.score\.weight: 12 anchors a cell, which are not of 5 sizes"):
        benchmark.load(state)


def test_a_backbone_alone_is_no_detector():
    state = {k: v for k, v in small().weights.items() if k.startswith("backbone")}
    with pytest.raises(ValueError, match=r"missing weights: box_head\.score\.bias; these are not all weights"):
        benchmark.load(state)


def test_a_backbone_of_another_depth_is_refused():
    state = small().weights | {"backbone.body.layer3.2.conv1.weight": torch.ones(1)}
    with pytest.raises(ValueError, match=r"no backbone has \(2, 2, 3, 2\) blocks"):
        benchmark.load(state)


def test_other_anchors_in_a_file_are_noticed():
    anchors = {f"rpn.anchor_generator.cell_anchors.{i}": torch.tensor(a).float() for i, a in enumerate(PYRAMID)}
    state = small().weights | anchors
    benchmark.load(state)
    state["rpn.anchor_generator.cell_anchors.3"] *= 2
    with pytest.raises(ValueError, match=r"anchors of level 3: the file has \[\[-328"):
        benchmark.load(state)


def test_two_names_of_one_weight_must_agree():
    state = {"roi_heads.box.feature_extractor.head.layer4.0.bn1.bias": torch.zeros(2)}
    state["roi_heads.mask.feature_extractor.head.layer4.0.bn1.bias"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"is to be last_stage\.0\.bn1\.bias, which other weights are already"):
        benchmark.load(state)


def keypoint_head(names, *, width=16, points=5):
    convolution, score = names
    head = {f"{convolution}{i}.weight": torch.rand(width, 32 if i == 1 else width, 3, 3) for i in range(1, 9)}
    head |= {f"{convolution}{i}.bias": torch.rand(width) for i in range(1, 9)}
    return head | {f"{score}.weight": torch.rand(width, points, 4, 4), f"{score}.bias": torch.rand(points)}


@pytest.mark.parametrize("source", [benchmark, detectron2])
def test_keypoint_heads_come_along(source):
    names = {
        benchmark: ("roi_heads.keypoint.feature_extractor.conv_fcn", "roi_heads.keypoint.predictor.kps_score_lowres"),
        detectron2: ("roi_heads.keypoint_head.conv_fcn", "roi_heads.keypoint_head.score_lowres"),
    }
    state = small().weights if source is benchmark else of_detectron2(small(legacy=False))
    head = keypoint_head(names[source])
    without = {k: v for k, v in state.items() if not k.startswith(("roi_heads.mask.", "roi_heads.mask_head"))}
    model = source.load(without | head)
    assert (model.cfg.keypoints, model.cfg.keypoint_width, model.cfg.masks) == (5, 16, False)
    fifth = model.state_dict()["keypoint.head.convolutions.8.weight"]
    assert torch.equal(fifth, head[f"{names[source][0]}5.weight"])
    assert source.load(state | head).cfg.masks


@pytest.mark.parametrize(("heads", "backbone"), [("batch", "frozen"), ("group", "group")])
def test_norms_in_the_heads_of_detectron2(heads, backbone):
    """Four convolutions in the box head, two in the RPN, as in its later baselines. Group norm has no statistics."""
    state = of_detectron2(small(legacy=False))
    with_norm = [k for k in state if re.fullmatch(r"backbone\.fpn_.*\.bias|roi_heads\.mask_head\.mask_fcn\d\.bias", k)]
    for key in with_norm:
        state |= norm(key.replace(".bias", ".norm"), len(state.pop(key)))
    for i in range(1, 5):
        state |= norm(f"roi_heads.box_head.conv{i}.norm", 32)
        state[f"roi_heads.box_head.conv{i}.weight"] = torch.rand(32, 32, 3, 3)
    del state["roi_heads.box_head.fc2.weight"], state["roi_heads.box_head.fc2.bias"]
    for last in ("weight", "bias"):
        first = state.pop(f"proposal_generator.rpn_head.conv.{last}")
        state |= {f"proposal_generator.rpn_head.conv.conv{i}.{last}": first + i for i in (0, 1)}
    if heads == "group":
        state = {k: v for k, v in state.items() if "running" not in k}
    model = detectron2.load(state)
    assert (model.cfg.head_norm, model.cfg.rpn_convolutions, model.cfg.norm) == (heads, 2, backbone)
    assert torch.equal(model.rpn.hidden[1].bias, model.rpn.hidden[0].bias + 1)


def norm(place, channels):
    return {f"{place}.{k}": torch.ones(channels) for k in ("weight", "bias", "running_mean", "running_var")}


def test_deformable_convolutions_of_detectron2():
    state = of_detectron2(of_bottlenecks())
    for key in [k for k in state if re.fullmatch(r"backbone\.bottom_up\.res[345]\.\d\.conv2\.weight", k)]:
        place = key.replace("conv2.weight", "conv2_offset")
        state[f"{place}.weight"] = torch.rand(18, state[key].shape[1], 3, 3)
        state[f"{place}.bias"] = torch.rand(18)
    cfg = detectron2.config(state)
    assert (cfg.deformable, cfg.stride_first) == ((3, 4, 5), True)
    model = detectron2.load(state)
    offset = model.state_dict()["backbone.network.layer4.2.conv2.offset.bias"]
    assert torch.equal(offset, state["backbone.bottom_up.res5.2.conv2_offset.bias"])


def of_bottlenecks():
    return small(legacy=False, bottlenecks=True, blocks=(3, 4, 6, 3))


def test_a_scale_and_a_shift_are_all_that_a_norm_needs_in_detectron2():
    state = of_detectron2(small(legacy=False))
    plain = {k: v for k, v in state.items() if "running" not in k}
    model = detectron2.load(plain).eval()
    x = torch.rand(1, 64, 4, 4)
    scale, shift = (state[f"backbone.bottom_up.stem.conv1.norm.{k}"][:, None, None] for k in ("weight", "bias"))
    torch.testing.assert_close(model.backbone.network["bn1"](x), x * scale + shift)


def test_the_options_of_each_source_are_its_own():
    cfg = benchmark.config(small(maskiou=True).weights)
    assert isinstance(cfg, ms_rcnn.Config)
    assert (cfg.convention, cfg.backbone, cfg.stride_first) == ("legacy", "resnet18", False)
    np.testing.assert_allclose(np.array(cfg.pixel_mean) * 255, detectron_mean := (122.7717, 115.9465, 102.9801))
    assert tuple(value / 255 for value in detectron_mean) == detectron.MEAN
    assert detectron2.config(of_detectron2(small(legacy=False))).convention == "continuous"


def test_published_files_of_torchvision_have_norms_without_epsilon(tmp_path, monkeypatch):
    path = tmp_path / "published.pth"
    path.write_bytes(b"published")
    assert torchvision.epsilon(path) == 1e-5
    monkeypatch.setattr(torchvision, "_WITHOUT_EPSILON", ("0000", "b04e"))
    known = torchvision.epsilon(path)
    assert known == 0.0


def test_options_can_be_told_otherwise():
    state = small().weights
    model = benchmark.load(state, cfg=replace(benchmark.config(state), pixel_std=(1.0, 1.0, 1.0), max_instances=7))
    assert (model.backbone.std, model.cfg.max_instances) == ((1.0, 1.0, 1.0), 7)


def test_bottlenecks_with_group_norm_have_their_stride_in_the_3x3():
    weights = of_bottlenecks().weights
    assert detectron.config(of_detectron(weights)).stride_first
    blobs = {k.replace("res_conv1_bn", "conv1_gn").replace("_bn_", "_gn_"): v for k, v in of_detectron(weights).items()}
    cfg = detectron.config(blobs)
    assert (cfg.norm, cfg.stride_first) == ("group", False)
