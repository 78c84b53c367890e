"""Finds out which program wrote a file of weights, and makes the model that they are of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maskwise import tensor_files
from maskwise.checkpoint import About
from maskwise.data.transforms import Resize
from maskwise.methods import ms_rcnn
from maskwise.methods.mask_rcnn import MaskRCNN
from maskwise.recipes.stored import to_json
from maskwise.tensor_files import State
from maskwise.weights import benchmark, coco, detectron, detectron2, torchvision


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A program whose weights are known here."""

    name: str
    keys: tuple[str, ...]
    """That all of its files have and no other program's; one of these is enough."""
    load: Callable[[State, Path], MaskRCNN]


SOURCES = (
    Source(
        name="maskscoring_rcnn",
        keys=("roi_heads.maskiou.predictor.maskiou.weight",),
        load=lambda state, _: benchmark.load(state),
    ),
    Source(
        name="maskrcnn-benchmark",
        keys=("roi_heads.box.predictor.cls_score.weight",),
        load=lambda state, _: benchmark.load(state),
    ),
    Source(
        name="detectron2",
        keys=("proposal_generator.rpn_head.objectness_logits.weight",),
        load=lambda state, _: detectron2.load(state),
    ),
    Source(
        name="detectron",
        keys=("rpn_cls_logits_fpn2_w", "rpn_cls_logits_w"),
        load=lambda state, _: detectron.load(state),
    ),
    Source(
        name="torchvision",
        keys=("roi_heads.box_predictor.cls_score.weight",),
        load=lambda state, path: torchvision.load(state, norm_eps=torchvision.epsilon(path)),
    ),
)
"""In the order in which they are asked: the more particular first."""


def import_model(path: Path | str) -> tuple[MaskRCNN, About]:
    """The model in a file of another program, in eval mode, and what it is, as `checkpoint.write_model` stores it."""
    path = Path(path)
    state = tensor_files.read(path)
    try:
        source = recognise(state)
        model = source.load(state, path).eval()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    cfg = model.cfg
    about = About(
        method="ms_rcnn" if isinstance(cfg, ms_rcnn.Config) else "mask_rcnn",
        config=to_json(cfg),
        categories=coco.categories(cfg.num_classes, keypoints=cfg.keypoints),
        view=[to_json(Resize())],
        notes={"source": source.name, "file": path.name},
    )
    return model, about


def recognise(state: State) -> Source:
    """By the names of the weights."""
    for source in SOURCES:
        if any(key in state for key in source.keys):
            return source
    first = ", ".join(list(state)[:5])
    raise ValueError(
        f"no detector of {', '.join(source.name for source in SOURCES)}: weights begin with {first} ... ({len(state)})"
    )
