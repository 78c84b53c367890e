from functools import partial
from typing import get_args

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from maskwise import backbones
from maskwise.backbones import Name, build, last_stage, load
from maskwise.parts.deformable import DeformableConvolution
from maskwise.parts.norms import FrozenBatchNorm


def long_of(name):
    """Some take seconds to draw."""
    return pytest.param(name, marks=pytest.mark.long) if name.startswith(("resnext", "vgg")) else name


@pytest.mark.parametrize("name", [long_of(name) for name in get_args(Name)])
def test_each_gives_c2_to_c5(name):
    backbone = build(name).eval()
    with torch.no_grad():
        found = backbone(torch.rand(1, 3, 64, 96))
    assert backbone.strides == (4, 8, 16, 32)
    assert [tuple(f.shape) for f in found] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_chosen_stages_and_a_dilated_last_one():
    backbone = build("resnet18", stages=(4, 5), dilate=True)
    assert backbone.strides == (16, 16)
    assert [f.shape[-1] for f in backbone(torch.rand(1, 3, 64, 64))] == [4, 4]


@pytest.mark.long
@pytest.mark.parametrize("last", [3, 4])
@pytest.mark.parametrize("name", get_args(Name))
def test_what_comes_after_the_last_stage_is_not_trained_and_all_before_it_is(name, last):
    backbone = build(name, stages=(last,), norm="batch")
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    (x,) = backbone.requires_grad_(True)(torch.rand(2, 3, 32, 32))
    assert x.shape[2:] == (32 // 2**last, 32 // 2**last)
    x.sum().backward()
    assert trained == {n for n, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "conv1"),
        pytest.param("vgg16", "features_7", marks=pytest.mark.long),
        pytest.param("convnext_tiny", "stem_0", marks=pytest.mark.long),
    ],
)
def test_stem_and_first_stage_can_be_frozen(name, stem):
    backbone = build(name, frozen=2, norm="batch")
    trained = {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    fixed = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert stem in fixed
    assert trained
    assert not trained & fixed


@pytest.mark.parametrize("told", [True, False], ids=["told to train", "as it was built"])
def test_statistics_of_frozen_stages_stay_as_they_are(told):
    backbone = build("resnet18", frozen=2, norm="batch")
    if told:
        backbone.train()
    backbone(torch.rand(2, 3, 64, 64))
    moved = {n.split(".")[1] for n, b in backbone.named_buffers() if n.endswith("running_mean") and b.any()}
    assert moved == {"layer2", "layer3", "layer4"}


def test_a_frozen_norm_is_batch_norm_in_evaluation_with_its_activation():
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    pixels = torch.rand(1, 3, 64, 64)
    expected = plain.eval()(pixels)
    backbones.norms.replace(plain, "frozen")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    for mine, theirs in zip(plain.train()(pixels), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_group_norm_fits_all_widths():
    backbone = build("tf_efficientnet_lite0", norm="group")
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm) for m in backbone.modules())
    assert all(f.isfinite().all() for f in backbone(torch.rand(2, 3, 32, 32)))


def test_deformable_convolutions_have_half_a_precision_as_others_have():
    plain = torch.nn.Conv2d(4, 8, 3, padding=1)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = DeformableConvolution(plain)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(x), atol=0.02, rtol=0.02)
    found.float().sum().backward()
    assert x.grad.isfinite().all()


def test_convolutions_that_are_no_part_of_a_block_become_deformable_too():
    backbone = build("vgg16", deformable=(3, 4), frozen=3)
    deformed = [m for m in backbone.network.modules() if isinstance(m, DeformableConvolution)]
    assert len(deformed) == 6
    assert [m.offset.weight.requires_grad for m in deformed] == [False] * 3 + [True] * 3


def test_deformable_convolutions_start_as_plain_ones():
    torch.manual_seed(0)
    plain = build("resnet18")
    torch.manual_seed(0)
    deformed = build("resnet18", deformable=(3, 4, 5))
    assert sum("offset" in n for n, _ in deformed.named_parameters()) == 2 * 12
    pixels = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(deformed(pixels), plain(pixels), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def classifier(name):
    torch.manual_seed(3)
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    return network


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("convnext_tiny", marks=pytest.mark.long), "tf_efficientnet_lite0"]
)
def test_weights_of_a_classifier_come_from_a_file(tmp_path, name):
    whole = classifier(name)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        backbone = build(name, weights=tmp_path / file, norm="batch")
        mine, theirs = list(backbone.parameters()), dict(whole.named_parameters())
        assert torch.equal(mine[0], next(iter(theirs.values())))
        pixels = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = whole.eval().forward_intermediates(pixels, intermediates_only=True)[-1]
            torch.testing.assert_close(backbone.eval()(pixels)[-1], expected, rtol=1e-4, atol=1e-4)


def efficientnet_pytorch(state):
    """The same weights under the names of the other implementation."""
    stages = [(int(s), int(i)) for s, i in {tuple(k.split(".")[1:3]) for k in state if k.startswith("blocks")}]
    number = {place: n for n, place in enumerate(sorted(stages))}
    renamed = {}
    for key, value in state.items():
        if not key.startswith("blocks"):
            renamed[{"conv_stem": "_conv_stem", "bn1": "_bn0"}.get(key.split(".")[0], "_x") + key[key.index(".") :]] = (
                value
            )
            continue
        _, s, i, layer, rest = key.split(".")
        wide = f"blocks.{s}.{i}.conv_pwl.weight" in state
        names = ("_bn0", "_bn1", "_bn2") if wide else ("_bn1", "_bn2")
        norms = dict(zip(("bn1", "bn2", "bn3"), names, strict=False))
        convolutions = {"conv_pw": "_expand_conv" if wide else "_project_conv", "conv_pwl": "_project_conv"}
        name = {**norms, **convolutions, "conv_dw": "_depthwise_conv"}[layer]
        renamed[f"_blocks.{number[int(s), int(i)]}.{name}.{rest}"] = value
    return renamed


def test_weights_of_efficientnet_pytorch_are_translated(tmp_path):
    state = classifier("tf_efficientnet_lite0").state_dict()
    foreign = efficientnet_pytorch(
        {k: v for k, v in state.items() if not k.startswith(("conv_head", "bn2", "classifier"))}
    )
    save_file(foreign, tmp_path / "lite0.safetensors")
    backbone = build("tf_efficientnet_lite0", weights=tmp_path / "lite0.safetensors", norm="batch")
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_missing_weights_are_named(tmp_path):
    network = timm.create_model("resnet18", features_only=True)
    state = network.state_dict()
    del state["layer3.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"some\.pth lacks 1 of .*layer3\.0\.conv1\.weight"):
        load(network, state, source="some.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="asks for getattr; nothing of it was executed"):
        build("resnet18", weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_tiny"])
def test_the_last_stage_stands_alone(name):
    """And makes of C4 what it makes within the whole."""
    whole = build(name, stages=(4, 5))
    stage, channels = last_stage(name)
    stage.load_state_dict(dict(zip(reversed(stage.state_dict()), reversed(whole.state_dict().values()), strict=False)))
    with torch.no_grad():
        c4, c5 = whole(torch.rand(1, 3, 96, 64))
        torch.testing.assert_close(stage(c4), c5)
    assert c5.shape == (1, channels, 3, 2)


def test_the_last_stage_of_vgg_is_no_head():
    with pytest.raises(ValueError, match="vgg16 has no convolution"):
        last_stage("vgg16")


@pytest.mark.parametrize("names", ["timm", "torchvision"])
def test_the_linear_layers_of_vgg_stand_alone_with_their_weights(names, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "_create", partial(timm.create_model, mlp_ratio=1 / 512))
    layers = backbones.linear_layers("vgg16")
    state = {f"pre_logits.{k}": v for k, v in layers.state_dict().items()}
    if names == "torchvision":
        renamed = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
        state = {f"{renamed[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in state.items()}
        state = {k: v.flatten(1) if v.ndim > 2 else v for k, v in state.items()}
    save_file(state, tmp_path / "vgg.safetensors")
    again = backbones.linear_layers("vgg16", weights=tmp_path / "vgg.safetensors")
    x = torch.rand(2, 512, 7, 7)
    assert torch.equal(again(x), layers(x))
    assert layers(x).shape == (2, 4096, 1, 1)
    save_file({k: v for k, v in state.items() if not k.endswith("bias")}, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less\.safetensors lacks pre_logits\.fc1\.bias and classifier\.0\.bias"):
        backbones.linear_layers("vgg16", weights=tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match="resnet18"):
        backbones.linear_layers("resnet18")


def test_strides_can_be_in_the_first_convolution_as_in_the_first_resnets():
    moved, usual = build("resnet50", stride_first=True), build("resnet50")
    for name, weight in usual.state_dict().items():
        if name.endswith("bn3.weight"):
            nn.init.ones_(weight)  # timm starts them at zero
    moved.load_state_dict(usual.state_dict())
    first = [moved.network[f"layer{i}"][0] for i in range(1, 5)]
    assert [block.conv1.stride for block in first] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) for block in first)
    pixels = torch.rand(1, 3, 64, 96)
    for mine, theirs in zip(moved(pixels)[1:], usual(pixels)[1:], strict=True):
        assert mine.shape == theirs.shape
        assert not torch.allclose(mine, theirs)


def test_a_dilated_stage_with_its_stride_first_is_dilated_throughout():
    stage = build("resnet50", stride_first=True, dilate=True).network["layer4"]
    assert [block.conv2.dilation for block in stage] == [(2, 2)] * 3
    assert [block.conv1.stride for block in stage] == [(1, 1)] * 3


def test_only_bottlenecks_have_a_first_convolution_for_the_stride():
    with pytest.raises(ValueError, match="resnet18 has none"):
        build("resnet18", stride_first=True)


def test_the_pixels_that_weights_were_trained_on_can_be_told():
    backbone = build("resnet18", mean=(0.1, 0.2, 0.3), std=(1, 1, 2))
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (1, 1, 2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convnext_tiny", {"stages": (1, 5)}, "stage 1 has stride 2, which convnext_tiny has not"),
        ("vgg16", {"stages": (5,), "dilate": True}, "vgg16 cannot be dilated"),
    ],
)
def test_what_a_backbone_has_not_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
