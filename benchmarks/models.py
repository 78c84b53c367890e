"""Mask R-CNN R50-FPN against torchvision's, same weights: `python benchmarks/models.py [--device cuda] [--out FILE]`.

A training step of two pictures at 512 x 512, and prediction at 512 x 512 and 800 x 1216 with the masks drawn. Both are
in the same process and take turns; a row's time is the median. Peak memory is that of a process of its own. The
weights are random, spread so that there are a hundred detections; both find the same. Then what a step on a picture of
1024 x 1024 with 375 objects holds, against one with 10.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.misc import FrozenBatchNorm2d

from maskwise.data.synthetic.scenes import Scenes
from maskwise.methods.mask_rcnn import MaskRCNN
from maskwise.structures import Images
from maskwise.weights import torchvision

Subject = Literal["ours", "theirs"]
Way = Callable[[], object]

PREDICT = ((512, 512), (800, 1216))
TRAIN = (512, 512)

KINDS = {
    "convolutions": ("convolution", "conv2d", "mkldnn", "cudnn", "conv_transpose"),
    "linear layers": ("addmm", "aten::mm", "linear"),
    "reading regions": ("roi_align", "embedding_bag"),
    "suppression": ("nms",),
    "drawing masks": ("bmm", "upsample_bilinear"),
}
"""Operators by what they are for; the rest are sums, norms and copies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    rows = [*(predicting(size, args.device, args.rounds) for size in PREDICT), training(args.device, args.rounds)]
    crowded = {f"{count} objects": apart(trained, count, args.device) for count in (10, 375)}
    show(rows)
    few, many = crowded.values()
    print(f"a training step at 1024x1024 holds {many:.0f} MB with 375 objects, {few:.0f} MB with 10: {many / few:.2f}x")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps({"machine": machine(args.device), "rows": rows, "step_memory_mb": crowded}, indent=1) + "\n"
        )


class Pair(NamedTuple):
    ours: MaskRCNN
    theirs: nn.Module


def models(device: str) -> Pair:
    """The same weights in both, norms and the first two stages fixed as for training from published weights."""
    torch.manual_seed(0)
    backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), trainable_layers=3)
    theirs = TorchvisionMaskRCNN(backbone, num_classes=91)
    spread(theirs)
    theirs.transform = AsTheyAre(0, 0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    state = theirs.state_dict()
    ours = torchvision.load(state, cfg=replace(torchvision.config(state), frozen_stages=2))
    return Pair(ours.to(device), theirs.to(device))


class AsTheyAre(GeneralizedRCNNTransform):
    """Pictures that already have their size."""

    def resize(self, image: Tensor, target: Any = None) -> Any:
        return image, target


def spread(model: nn.Module) -> None:
    """Activations that neither vanish nor blow up, and heads that say something."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.weight.uniform_(0.2, 0.6)
    with torch.no_grad():
        model.get_parameter("rpn.head.cls_logits.weight").mul_(20)
        model.get_parameter("rpn.head.bbox_pred.weight").mul_(5)
        model.get_parameter("roi_heads.box_predictor.cls_score.weight").mul_(60)
        model.get_parameter("roi_heads.mask_predictor.mask_fcn_logits.weight").mul_(4)


def predicting(size: tuple[int, int], device: str, rounds: int) -> dict[str, Any]:
    """Masks are whole pictures with theirs, cropped bitmaps with ours: each as it is given to the user."""
    ways = predictors(size, device)
    found, expected = (way() for way in ways.values())
    mine, others = len(found[0]), len(expected[0]["boxes"])
    memory = {subject: apart(predicted, subject, size, device) for subject in ways}
    note = f"{mine} and {others} detections"
    return row(f"predict {size[0]}x{size[1]}", ways, rounds, device, note=note) | {"memory_mb": memory}


def predictors(size: tuple[int, int], device: str) -> dict[Subject, Callable[[], Any]]:
    """Masks as truth values for each picture: where prediction ends."""
    ours, theirs = models(device)
    ours.eval()
    theirs.eval()
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)).to(device)

    @torch.inference_mode()
    def predict_theirs() -> Any:
        found = theirs([picture])
        return [{**f, "masks": f["masks"] > 0.5} for f in found]

    return {"ours": lambda: ours.predict(Images.batch([picture])), "theirs": predict_theirs}


def training(device: str, rounds: int) -> dict[str, Any]:
    """Forward, backward, and the step of SGD."""
    ours, theirs = models(device)
    ours.train()
    theirs.train()
    scenes = [Scenes(size=TRAIN, count=(10, 10)).scene(i) for i in range(2)]
    pictures = [torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()).to(device) / 255 for s in scenes]
    targets = [s.targets.to(device) for s in scenes]
    others = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.dense().to(torch.uint8)} for t in targets]
    images = Images.batch(pictures)
    ways: dict[Subject, Way] = {
        "ours": stepping(ours, lambda: ours(images, targets)),
        "theirs": stepping(theirs, lambda: theirs(pictures, others)),
    }
    return row(f"train 2 x {TRAIN[0]}x{TRAIN[1]}", ways, rounds, device, note="10 objects a picture")


def stepping(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Way:
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-9, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        optimizer.step()

    return step


# --- measuring


def row(what: str, ways: dict[Subject, Way], rounds: int, device: str, *, note: str) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            times[name].append(seconds(way, device))
    middle = {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up
    return {
        "what": what,
        "seconds": middle,
        "all_seconds": times,
        "ratio": middle["ours"] / middle["theirs"],
        "parts": {name: parts(way, device) for name, way in ways.items()},
        "note": note,
    }


def seconds(way: Way, device: str) -> float:
    began = time.perf_counter()
    way()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def parts(way: Way, device: str) -> dict[str, float]:
    """Seconds that each kind of operator takes."""
    on_cpu = device == "cpu"
    with profile(activities=[ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]) as profiled:
        way()
    total: Counter[str] = Counter()
    for event in profiled.key_averages():
        spent = event.self_cpu_time_total if on_cpu else event.self_device_time_total
        total[kind(event.key)] += spent / 1e6
    return dict(total)


def kind(operator: str) -> str:
    return next((k for k, names in KINDS.items() if any(name in operator for name in names)), "the rest")


def apart(measure: Callable[..., float], *arguments: object) -> float:
    """In a process of its own, whose memory nothing has raised before."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        return alone.apply(measure, arguments)


def predicted(subject: Subject, size: tuple[int, int], device: str) -> float:
    return grown(predictors(size, device)[subject], device)


def trained(count: int, device: str) -> float:
    scene = Scenes(size=(1024, 1024), count=(count, count), radius=(8, 14), overlap=0).scene(0)
    if len(scene.targets) < count:
        raise ValueError(f"{len(scene.targets)} objects found a place, {count} were asked for")
    images = Images.batch([torch.from_numpy(scene.pixels.transpose(2, 0, 1).copy()).to(device) / 255])
    model, targets = models(device).ours.train(), [scene.targets.to(device)]
    return grown(stepping(model, lambda: model(images, targets)), device)


def grown(way: Way, device: str) -> float:
    """Megabytes that it adds, at the most, to what the process holds before."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    process, done = psutil.Process(), threading.Event()
    held = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.002):
            held.append(process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    way()
    done.set()
    watching.join()
    return (max(held) - held[0]) / 1e6


def machine(device: str) -> dict[str, object]:
    packages = {name: version(name) for name in ("torch", "torchvision", "timm", "maskwise")}
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **packages,
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("", "ours", "torchvision", "ratio", "memory", box=None)
    for r in rows:
        memory = r.get("memory_mb")
        held = f"{memory['ours']:.0f} of {memory['theirs']:.0f} MB" if memory else ""
        ours, theirs = (f"{r['seconds'][name]:.3f} s" for name in ("ours", "theirs"))
        table.add_row(f"{r['what']}, {r['note']}", ours, theirs, f"{r['ratio']:.2f}", held)
        for part in [*KINDS, "the rest"]:
            table.add_row(f"  {part}", *(f"{r['parts'][name].get(part, 0):.3f} s" for name in ("ours", "theirs")))
    Console().print(table)


if __name__ == "__main__":
    main()
