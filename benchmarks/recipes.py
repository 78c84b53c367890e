"""Recipes, trained and judged by pictures that nobody has seen: how good, and after how long.

    python benchmarks/recipes.py mask_rcnn_scenes ms_rcnn_scenes
    python benchmarks/recipes.py ms_rcnn_nuclei --data path/to/nuclei --max-dets 400

Scenes are judged by 500 that neither training nor the choice of the best weights has seen, files by their split `val`.
Each recipe is trained by `maskwise train` in `--runs`, and goes on there where it was stopped; then there is no time. A
run that is complete is only judged; `--model nuclei` judges what was exported of it. Rows of other recipes stay in
benchmarks/results/recipes.json, and all are the table in docs/training.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tables import machine, markdown, put, show

from maskwise.data.source import FileSource, SizedSource
from maskwise.evaluate.accuracy import accuracy
from maskwise.evaluate.objects import above
from maskwise.evaluate.report import finite
from maskwise.evaluate.validation import compare, limited, validation
from maskwise.model import load
from maskwise.recipes.chosen import RUN_FILE, saved
from maskwise.recipes.run import Files, Run
from maskwise.recipes.sources import FIRST_TEST_SCENE, opened_split

PAGE, BEGIN = Path("docs/training.md"), "<!-- benchmarks/recipes.py -->"
SCENES = 500
SHOWN = 0.5
"""Scores from which on detections count where nothing is ranked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", help="judge this in the place of the run's weights")
    parser.add_argument("--max-dets", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipes.json"))
    args = parser.parse_args()
    for recipe in args.recipes:
        folder = args.runs / recipe
        seconds = trained(recipe, folder, args.data)
        found = judged(args.model or folder, saved(folder / RUN_FILE), args.data, args.max_dets)
        record(args.out, recipe, {**found, "seconds": seconds, **machine(threads())})
    rows = table(json.loads(args.out.read_bytes()))
    show(rows)
    put(PAGE, BEGIN, markdown(rows))


def trained(recipe: str, folder: Path, data: Path | None) -> float | None:
    """Seconds of the whole command, where it was one."""
    whole = not (folder / RUN_FILE).exists()
    if not whole and complete(folder):
        return None
    command = [sys.executable, "-m", "maskwise", "train", recipe, "--out", str(folder), "--resume"]
    began = time.perf_counter()
    subprocess.run([*command, *(["--data", str(data)] if data else [])], check=True)
    return time.perf_counter() - began if whole else None


def complete(folder: Path) -> bool:
    """Its last epoch is done."""
    table = folder / "metrics.csv"
    return table.exists() and len(table.read_text().splitlines()) > saved(folder / RUN_FILE).schedule.epochs


def judged(model_name: Path | str, run: Run[Any], data: Path | None, max_dets: int) -> dict[str, Any]:
    model = load(model_name)
    source, name = pictures(run, data)
    began = time.perf_counter()
    found, failures = compare(model, source, model.categories, data=name)
    seconds = time.perf_counter() - began
    result, counted = validation(found, limited(max_dets)), accuracy(above(found, SHOWN))
    return {
        "data": name,
        "pictures": len(source) - len(failures),
        "max_dets": max_dets,
        "masks": finite(result.masks.numbers),
        "boxes": finite(result.boxes.numbers),
        "quality": finite(result.ranking()),
        "accuracy": finite(counted.numbers),
        "milliseconds_a_picture": 1000 * seconds / len(source),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "epochs": run.schedule.epochs,
    }


def pictures(run: Run[Any], data: Path | None) -> tuple[SizedSource, str]:
    if isinstance(run.data.source, Files):
        opened = opened_split(Files(path=str(data), val=None), "val")
        return FileSource(opened), f"{opened.root.name} val"
    return run.data.source.scenes.samples(SCENES, start=FIRST_TEST_SCENE), f"{SCENES} scenes"


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def record(path: Path, recipe: str, row: dict[str, Any]) -> None:
    """The time of a run that is only judged again stays."""
    rows = json.loads(path.read_bytes()) if path.exists() else {}
    if row["seconds"] is None and recipe in rows:
        row = {**row, "seconds": rows[recipe]["seconds"], "threads": rows[recipe]["threads"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**rows, recipe: row}, indent=1) + "\n")


def table(rows: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    found = []
    for recipe, row in sorted(rows.items()):
        masks, quality = row["masks"], row["quality"]
        minutes = "-" if row["seconds"] is None else f"{row['seconds'] / 60:.1f} ({row['threads']} threads)"
        values = {
            "mask AP": masks["AP"],
            "AP50": masks["AP50"],
            "AP75": masks["AP75"],
            "box AP": row["boxes"]["AP"],
            "AP ranked by `scores`": quality["AP_by_scores"],
        }
        found.append({"recipe": recipe, "judged on": row["data"], "minutes": minutes})
        found[-1] |= {name: f"{value:.3f}" for name, value in values.items()}
        found[-1] |= {f"Spearman, {of}": correlation(quality, of) for of in ("all", "hits", "sure hits")}
    return found


def correlation(quality: dict[str, float], of: str) -> str:
    """Of mask scores with the true IoU, and of class scores."""
    key = "spearman_" if of == "all" else f"spearman_of_{of.replace(' ', '_')}_"
    return f"{quality[key + 'mask_scores']:.3f} ({quality[key + 'scores']:.3f})"


if __name__ == "__main__":
    main()
