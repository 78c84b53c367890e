"""Every method on the same pictures with the same time to learn: what it reaches, and what it costs to run and to read.

    python benchmarks/methods.py                                     # scenes
    python benchmarks/methods.py --data path/to/nuclei               # crops of cell nuclei
    python benchmarks/methods.py discriminative mnc --seconds 60 --again

Each is trained by its `tiny` recipe, on the same backbone, for as many steps as fit into the seconds (of one core; two
methods at a time), after its pace was measured, and judged by pictures that it has not seen. Variants leave out what a
paper says matters. What is there already is not done again, a training that was stopped goes on. Rows go to
benchmarks/results/methods.json, and all of them are the tables in docs/results.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from tables import machine, markdown, put, show

from maskwise.categories import OBJECT
from maskwise.data.source import FileSource, SizedSource
from maskwise.data.transforms import Enlarge, HorizontalFlip, RandomCrop, RandomScale, RightAngles
from maskwise.evaluate.coco import coco
from maskwise.evaluate.coverage import dice
from maskwise.evaluate.objects import Comparison, above
from maskwise.evaluate.report import finite
from maskwise.evaluate.validation import compare, limited
from maskwise.methods import METHODS
from maskwise.model import Model, load
from maskwise.recipes.chosen import RUN_FILE, chosen, saved
from maskwise.recipes.run import Files, Run, Synthetic
from maskwise.recipes.sources import FIRST_TEST_SCENE, opened_split, sources
from maskwise.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = Path("benchmarks/results/methods.json"), Path("docs/results.md")
BEGIN = "<!-- benchmarks/methods.py: {} -->"
SCENES = 300
CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Scores from which on masks may count where nothing is ranked: each method is given the one that suits it best."""
SECONDS = "seconds.json"
FEW, MORE, ROUNDS = 2, 10, 3
"""Steps that the pace is measured by: the one less the other, for what happens once; and how often, for a core that
others use too."""
COMMON = {"backbone": "tf_efficientnet_lite0", "weights": "imagenet"}
"""What all methods see with, so that what differs is the method."""
BATCH = 8
TIMED = 30
"""Pictures that prediction is timed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A method, with some options."""

    method: str
    options: dict[str, Any]


VARIANTS = {
    "panet, one path": Variant(method="panet", options={"bottom_up": False}),
    "panet, own level": Variant(method="panet", options={"levels": "own"}),
    "mnc, boxes not taught": Variant(method="mnc", options={"box_gradient": False}),
    "embed_mask, one margin": Variant(method="embed_mask", options={"margin": "fixed"}),
    "discriminative, nothing pulled": Variant(method="discriminative", options={"variance_weight": 0.0}),
    "spatial_embeddings, one sigma": Variant(method="spatial_embeddings", options={"sigma": "fixed"}),
    "rsis, no skips": Variant(method="rsis", options={"skips": "none"}),
}
"""What the papers leave out in their tables."""
UNSUITED = {"deepmask": "a window shows one object of its size, and nuclei have all sizes and lie close together"}
"""Methods that are not tried on nuclei, and why."""
NUCLEI: dict[str, dict[str, Any]] = {
    "two-stage": {"anchor_scale": 4.0, "per_level_train": 500, "per_level_test": 500},
    "one-stage": {"limits": (16.0, 32.0), "per_level": 500},
    "proposals": {"octaves": (-1.0, -0.5, 0.0, 0.5, 1.0)},
    "grouping": {"min_pixels": 30},
    "recurrent": {"max_steps": 30},
}
NUCLEI["two-stage"] |= {"proposals_train": 300, "proposals_test": 500, "region_samples": 128, "anchor_samples": 256}
NUCLEI["cascade"] = {"anchor_sizes": (16.0, 32.0, 64.0), "boxes_train": 1000, "boxes_test": 1000, "region_samples": 128}
NUCLEI["cascade"] |= {"proposals_train": 300, "proposals_test": 500, "anchor_samples": 256}
MOST_NUCLEI = {"max_instances": 400}
"""Options of a family of methods, and of those that have a limit, for pictures with hundreds of objects."""


# Of one method


def row(name: str, seconds: float, folder: Path, data: Path | None) -> dict[str, Any]:
    """Trained, judged and counted."""
    torch.set_num_threads(1)
    run = prepared(name, data)
    used = trained(run, seconds, folder)
    model, learned = load(folder), saved(folder / RUN_FILE)
    source = pictures(run, data)
    found, failures = compare(model, source, sources(replace(run.data, as_one=False)).categories)
    return {
        "method": run.method,
        "pictures": len(source) - len(failures),
        **numbers(found, 400 if data else 100),
        "steps": learned.schedule.steps,
        "seconds": used,
        "milliseconds_a_picture": 1000 * seconds_a_picture(model, source),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        **reading(run.method),
        **machine(threads=1),
    }


def prepared(name: str, data: Path | None) -> Run[Any]:
    """The tiny recipe, on as much as is asked for."""
    variant = VARIANTS.get(name, Variant(method=name, options={}))
    run = chosen(f"tiny_{variant.method}")
    options = {**known(run.config, COMMON), **variant.options}
    run = replace(run, config=replace(run.config, **options), watch=replace(run.watch, log_steps=100))
    run = replace(run, data=replace(run.data, batch=BATCH))
    return run if data is None else on_nuclei(run, data)


def known(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those that the method has."""
    return {name: value for name, value in options.items() if name in {f.name for f in fields(config)}}


def on_nuclei(run: Run[Any], data: Path) -> Run[Any]:
    """Crops of 256 pixels, at the scale of `ms_rcnn_nuclei`."""
    options = known(run.config, NUCLEI[METHODS[run.method].family] | MOST_NUCLEI)
    place = (Enlarge(short=512), RandomScale(factor=(0.6, 1.5)), RandomCrop(size=(256, 256), keep_one=True))
    source = Files(path=str(data), val=None)
    changed = replace(run.data, source=source, batch=BATCH // 2, change=(*place, HorizontalFlip(), RightAngles()))
    return replace(
        run, config=replace(run.config, **options), data=replace(changed, view=(Enlarge(short=512),))
    ).fitted(OBJECT)


def trained(run: Run[Any], seconds: float, folder: Path) -> float | None:
    """Seconds of the core that training took; None of one that had been stopped."""
    if (folder / SECONDS).exists():
        return json.loads((folder / SECONDS).read_bytes())
    begun = (folder / RUN_FILE).exists()
    run = saved(folder / RUN_FILE) if begun else lasting(run, round(seconds / pace(run)))
    began = time.process_time()
    train(run, folder, resume=begun)
    spent = None if begun else time.process_time() - began
    (folder / SECONDS).write_text(json.dumps(spent))
    return spent


def pace(run: Run[Any]) -> float:
    """Seconds of a step, at best."""
    few, more = (min(seconds_of(lasting(run, steps)) for _ in range(ROUNDS)) for steps in (FEW, MORE))
    return (more - few) / (MORE - FEW)


def seconds_of(run: Run[Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        train(run, Path(folder) / "run")
        return time.process_time() - began


def lasting(run: Run[Any], steps: int) -> Run[Any]:
    """So many steps, on scenes that are all new; not judged on the way."""
    schedule = replace(run.schedule, steps=max(steps, 1), warmup=min(50, steps // 10))
    if isinstance(run.data.source, Synthetic):
        scenes = replace(run.data.source, train=steps * run.data.batch, val=0)
        return replace(run, schedule=schedule, data=replace(run.data, source=scenes))
    return replace(run, schedule=schedule)


def pictures(run: Run[Any], data: Path | None) -> SizedSource:
    if data is not None:
        return FileSource(opened_split(Files(path=str(data)), "val"))
    assert isinstance(run.data.source, Synthetic), "tiny recipes learn from scenes"
    return run.data.source.scenes.samples(SCENES, start=FIRST_TEST_SCENE)


def numbers(found: Comparison, most: int) -> dict[str, Any]:
    """Under COCO's rules, with classes and without; and how well objects are covered by what is shown."""
    settings = limited(most)
    with_classes, without = coco(found, "segm", settings), coco(found, "segm", replace(settings, class_agnostic=True))
    return {
        "masks": None if found.categories == OBJECT else finite(with_classes.numbers),
        "masks_of_any_class": finite(without.numbers),
        "dice": best_dice(found),
    }


def best_dice(found: Comparison) -> dict[str, Any]:
    several = {cut: dice(above(found, cut)).numbers for cut in CUTS}
    cut = max(CUTS, key=lambda cut: several[cut]["SBD"])
    return {"cut": cut, **finite(several[cut])}


def seconds_a_picture(model: Model, source: SizedSource) -> float:
    """From pixels to masks."""
    several = [source[i].pixels.permute(1, 2, 0).numpy() for i in range(TIMED)]
    model.instances(several[:1])
    began = time.process_time()
    for one in several:
        model.instances([one])
    return (time.process_time() - began) / len(several)


def reading(method: str) -> dict[str, int]:
    """Files and lines that run; what the tests hold to a budget."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reading import cost

    lines = cost(method)
    return {"files": len(lines), "lines": sum(lines.values())}


# Of all


def main() -> None:
    args = arguments()
    if args.row:
        print(json.dumps(row(args.names[0], args.seconds, args.runs, args.data)))
        return
    bed = "scenes" if args.data is None else args.data.resolve().name
    wanted = args.names or [name for name in [*METHODS, *VARIANTS] if args.data is None or name not in UNSUITED]
    known = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    todo = [name for name in wanted if args.again or done(known, bed, name, args.seconds) is None]
    lock = Lock()

    def one(name: str) -> None:
        found = apart(name, args, args.runs / bed / f"{name} {args.seconds:g}s".replace(" ", "_"))
        with lock:
            record(bed, name, {"budget": args.seconds, **found})

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, todo))
    publish(json.loads(RESULTS.read_bytes()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="METHOD", help="all, and the variants, where none is named")
    parser.add_argument("--data", type=Path, help="nuclei, with train.json and val.json, in the place of scenes")
    parser.add_argument("--seconds", type=float, default=150.0, help="to learn, of one core")
    parser.add_argument("--jobs", type=int, default=2, help="methods at a time")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in {**METHODS, **VARIANTS}]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*METHODS, *VARIANTS])}")
    return args


def apart(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """In a process of its own, so that time and memory are its own too."""
    if args.again and folder.exists():
        shutil.rmtree(folder)
    command = [sys.executable, __file__, name, "--row", "--seconds", str(args.seconds), "--runs", str(folder)]
    command += ["--data", str(args.data)] if args.data else []
    print(f"{name} ...", flush=True)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=one_thread)
    if ended.returncode:
        raise SystemExit(f"{name} ended with code {ended.returncode}; see above")
    return json.loads(ended.stdout.splitlines()[-1])


def done(rows: dict[str, Any], bed: str, name: str, seconds: float) -> dict[str, Any] | None:
    found = rows.get(bed, {}).get(name)
    return found if found is not None and found["budget"] == seconds else None


def record(bed: str, name: str, found: dict[str, Any]) -> None:
    """The rows of a bed stay in the order of methods, variants last."""
    rows = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    rows[bed] = {**rows.get(bed, {}), name: found}
    order = [*METHODS, *VARIANTS]
    rows[bed] = {name: rows[bed][name] for name in order if name in rows[bed]}
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def publish(rows: dict[str, Any]) -> None:
    for bed, found in rows.items():
        table = [line(name, one) for name, one in found.items()]
        show(table)
        put(PAGE, BEGIN.format(bed), markdown(table))


def line(name: str, found: dict[str, Any]) -> dict[str, str]:
    masks, any_class = found["masks"] or {}, found["masks_of_any_class"]
    values = (masks.get("AP"), masks.get("AP50"), any_class["AP"], any_class["AP50"], found["dice"]["SBD"])
    names = ("mask AP", "AP50", "AP of any class", "AP50 of any class", "best dice")
    return {
        "method": name,
        **{n: "-" if v is None else f"{v:.3f}" for n, v in zip(names, values, strict=True)},
        "steps": f"{found['steps']:,}" + (f" in {found['seconds']:.0f} s" if found["seconds"] else ""),
        "ms a picture": f"{found['milliseconds_a_picture']:.0f}",
        "parameters": f"{found['parameters'] / 1e6:.1f} M",
        "to read": f"{found['lines']:,} lines, {found['files']} files",
    }


if __name__ == "__main__":
    main()
