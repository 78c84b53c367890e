"""Does mask scoring help, how much, and what does it cost: trainings with and without it, on the same pictures.

    python benchmarks/mask_scoring.py --budget cpu --nuclei path/to/nuclei --facades path/to/facades
    python benchmarks/mask_scoring.py --budget gpu --nuclei path/to/nuclei --minutes 9
    python benchmarks/mask_scoring.py --budget cpu --only scenes/lite0 --dry-run
    python benchmarks/mask_scoring.py --tables

Cells (bed, network, method, options, seed) are trained in processes of their own, some at a time, and judged once; a
row each goes to benchmarks/results/mask_scoring.json, and all rows are the tables and pictures of docs/results.md. A
cell that has its row is passed over, a training that was stopped goes on. After `--minutes` everything stops where it
can go on from. Beds whose pictures are not named are left out. `--weights` is a folder with ImageNet weights of ResNets
(resnet18.*, resnet50.*); without it they begin from chance.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from scoring_cells import A_PICTURE, BUDGETS, PACE, PEER, Budget, Cell, cells, protocol, run_of, seconds_of
from scoring_judge import SCENES, judgement
from scoring_page import Results, publish
from scoring_peer import KNOWN, in_turn, seconds_of_a_picture, seconds_of_a_step
from tables import machine, show
from torch import nn

from maskwise.checkpoint import load_weights
from maskwise.data.files import replacing
from maskwise.data.loader import Loader
from maskwise.data.transforms import compose
from maskwise.distributed import World
from maskwise.distributed import device as accelerator
from maskwise.logbook import environment
from maskwise.model import load
from maskwise.models import folder as model_folder
from maskwise.models.download import locked
from maskwise.recipes.chosen import RUN_FILE, saved
from maskwise.recipes.run import Run
from maskwise.recipes.sources import loader, sources
from maskwise.train import STOPPED, changed_settings, train

RESULTS, PAGE = Path("benchmarks/results/mask_scoring.json"), Path("docs/results.md")
SPENT = "spent.json"
ROUNDS = 9
"""In which the three ways to train have their turns."""
TIMED = 6
"""Batches that they take in turn."""
SHIFTED = ("nuclei", "lite0 fpn", "ms_rcnn")
"""Bed, network and method that are shown pictures of another domain."""


# Of one cell


def row(cell: Cell, budget: Budget, folder: Path, args: argparse.Namespace, *, scenes: int = SCENES) -> dict[str, Any]:
    """Trained, as far as time allows, and judged."""
    run = run_of(cell, budget, beds(args), args.weights)
    about = {
        "group": cell.group,
        "bed": cell.bed,
        "network": cell.network,
        "method": cell.method,
        "options": dict(cell.options),
        "seed": cell.seed,
        "protocol": protocol(cell, budget, args.weights),
    }
    if cell.method == PACE:
        return {**about, "machine": described(args.commit), "pace": pace(cell, budget, folder, args)}
    share = budget.beds[cell.bed]
    spent = trained(run, folder, until=args.until - share.judging)
    if time.time() + share.judging > args.until:
        raise SystemExit(STOPPED)
    began = time.perf_counter()
    model = load(folder, methods=KNOWN)
    shifted = (cell.bed, cell.network, cell.method) == SHIFTED and not cell.options
    found = judgement(model, run, workers=min(budget.workers, 2), shifted=shifted, scenes=scenes)
    parameters = sum(p.numel() for p in model.module.parameters())
    about["machine"] = described(args.commit or json.loads((folder / "environment.json").read_bytes())["git"])
    return {**about, **spent, "judging": round(time.perf_counter() - began, 1), "parameters": parameters, **found}


def trained(run: Run[Any], folder: Path, *, until: float) -> dict[str, Any]:
    """Seconds that it took, in all calls together; of one that was killed they are not known."""
    file = folder / SPENT
    spent = json.loads(file.read_bytes()) if file.exists() else {"seconds": 0.0, "process_seconds": 0.0, "calls": 0}
    if spent.get("whole"):
        refuse_another(run, folder)
        return spent
    wall, process = time.perf_counter(), time.process_time()
    try:
        with stopped_at(until):
            train(run, folder, methods=KNOWN, resume=True)
        spent["whole"] = True
    finally:
        spent["seconds"] = round(spent["seconds"] + time.perf_counter() - wall, 1)
        spent["process_seconds"] = round(spent["process_seconds"] + time.process_time() - process, 1)
        spent["calls"] += 1
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(spent))
    return spent


def refuse_another(run: Run[Any], folder: Path) -> None:
    """A training that is whole must have been this one."""
    if found := changed_settings(run.fitted(sources(run.data).categories), folder):
        changed = "\n  ".join(found)
        raise ValueError(f"{folder} holds another training; remove it, or name another folder:\n  {changed}")


@contextmanager
def stopped_at(until: float) -> Iterator[None]:
    """Training is told to stop then, as a scheduler would; it makes a checkpoint and ends the process."""
    if until <= time.time():
        raise SystemExit(STOPPED)
    timer = threading.Timer(min(until - time.time(), threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def pace(cell: Cell, budget: Budget, folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of seconds; of pictures only where all three were trained here, as what is found decides about them."""
    on = accelerator(World(), "auto")
    runs = {
        m: run_of(replace(cell, method=m), budget, beds(args), args.weights) for m in ("mask_rcnn", "ms_rcnn", PEER)
    }
    own = {method: folder.parent.parent / method / str(cell.seed) for method in runs}
    alike = all((one / "weights").exists() for one in own.values())  # one that has learned proposes more objects
    modules = {method: begun(run, own[method], trained_here=alike).to(on) for method, run in runs.items()}
    run = runs["mask_rcnn"]
    found = sources(run.data)
    with loader(run, found.train, failures=folder / "failures.jsonl", device=on) as several:
        batches = list(islice(several, TIMED))
    steps = {m: seconds_of_a_step(modules[m], runs[m], batches, on) for m in runs}
    measured = {"a step": in_turn(steps, ROUNDS)}
    if alike:
        with Loader(found.train, batch_size=1, transform=compose(*run.data.view), shuffle=False) as several:
            alone = list(islice(several, TIMED))
        pictures = {method: seconds_of_a_picture(module, alone, on) for method, module in modules.items()}
        measured[A_PICTURE] = in_turn(pictures, ROUNDS)
    return measured


def begun(run: Run[Any], folder: Path, *, trained_here: bool) -> nn.Module:
    """The network as it was trained in the folder, or as training begins with it."""
    torch.manual_seed(run.seed)
    run = saved(folder / RUN_FILE, methods=KNOWN) if trained_here else run
    module = KNOWN[run.method].build(run.fitted(sources(run.data).categories).config)
    assert isinstance(module, nn.Module), "methods are"
    if trained_here:
        load_weights(module, model_folder.read(folder)[0])
    return module


def described(commit: str | None) -> dict[str, Any]:
    """What the numbers depend on, besides the run."""
    about, cuda = environment(1), torch.cuda.is_available()
    return {
        **machine(torch.get_num_threads()),
        "commit": commit or about["git"],
        "device": about["devices"][0] if cuda else "cpu",
        "cuda": about["cuda"] if cuda else None,
        "cores": os.cpu_count(),
        "platform": about["platform"],
    }


def beds(args: argparse.Namespace) -> dict[str, Path]:
    """Those of files that are there."""
    return {name: path for name in ("nuclei", "facades") if (path := getattr(args, name)) is not None}


# Of all


def main() -> None:
    args = arguments()
    budget = BUDGETS[args.budget]
    if args.row:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        one = next(cell for cell in cells(budget) if cell.name == args.row)
        print(json.dumps(row(one, budget, place(args, one), args)))
        return
    known = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    todo = [cell for cell in wanted(budget, args) if not done(known.get(args.budget, {}), cell, budget, args)]
    if args.dry_run:
        tell(todo, budget, args)
    elif not args.tables:
        work(todo, budget, args)
    if not args.dry_run and RESULTS.exists():
        publish(PAGE, json.loads(RESULTS.read_bytes()))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="cpu")
    parser.add_argument("--nuclei", type=Path, help="folder with train.json and val.json")
    parser.add_argument("--facades", type=Path, help="the same of facades")
    parser.add_argument("--weights", type=Path, help="folder with ImageNet weights of ResNets")
    parser.add_argument("--only", nargs="+", default=[""], help="cells whose name has one of these in it")
    parser.add_argument("--minutes", type=float, help="to go on for (gpu: 9; cpu: no end)")
    parser.add_argument("--jobs", type=int, help="cells at a time (cpu: 2, gpu: 4)")
    parser.add_argument("--runs", type=Path, default=Path("runs/mask_scoring"))
    parser.add_argument("--commit", help="of the code, where it is no checkout")
    parser.add_argument("--dry-run", action="store_true", help="list what is to do, and how long it may take")
    parser.add_argument("--tables", action="store_true", help="only write docs/results.md anew")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    minutes = args.minutes if args.minutes is not None else {"gpu": 9.0}.get(args.budget, 1e6)
    args.until = args.until or time.time() + 60 * minutes
    return args


def wanted(budget: Budget, args: argparse.Namespace) -> list[Cell]:
    there = {"scenes", *beds(args)}
    return [c for c in cells(budget) if c.bed in there and any(part in c.name for part in args.only)]


def done(rows: Mapping[str, Any], cell: Cell, budget: Budget, args: argparse.Namespace) -> bool:
    """Its row is there, whole, and was made in the way that is asked for now."""
    row = rows.get(cell.name, {})
    measured = cell.method != PACE or A_PICTURE in row.get("pace", {})
    return measured and row.get("protocol") == protocol(cell, budget, args.weights)


def tell(todo: Sequence[Cell], budget: Budget, args: argparse.Namespace) -> None:
    seconds = [seconds_of(cell, budget, args.weights) for cell in todo]
    rows = [{"cell": c.name, "for": c.group, "minutes": f"{s / 60:.1f}"} for c, s in zip(todo, seconds, strict=True)]
    if rows:
        show(rows)
    jobs = args.jobs or budget.jobs
    print(f"{len(todo)} cells, about {sum(seconds) / 3600 / jobs:.1f} hours with {jobs} at a time")


def work(todo: Sequence[Cell], budget: Budget, args: argparse.Namespace) -> None:
    """Trainings side by side; what measures time runs after them and alone."""

    def one(cell: Cell) -> None:
        if time.time() < args.until - budget.beds[cell.bed].judging and (found := apart(cell, args)) is not None:
            record(args.budget, cell, found)

    with ThreadPoolExecutor(args.jobs or budget.jobs) as pool:
        list(pool.map(one, [cell for cell in todo if cell.method != PACE]))
    for cell in todo:
        if cell.method == PACE:
            one(cell)


def place(args: argparse.Namespace, cell: Cell) -> Path:
    return args.runs / args.budget / cell.name


def apart(cell: Cell, args: argparse.Namespace) -> dict[str, Any] | None:
    """In a process of its own, so that time and memory are its own too; nothing of one that time ran out for."""
    command = [sys.executable, __file__, "--budget", args.budget, "--row", cell.name, "--until", str(args.until)]
    command += ["--runs", str(args.runs)]
    for name in ("nuclei", "facades", "weights", "commit"):
        command += [f"--{name}", str(getattr(args, name))] if getattr(args, name) is not None else []
    print(f"{cell.name} ...", flush=True)
    args.runs.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})
    if ended.returncode in (STOPPED, -signal.SIGTERM):  # the latter where training had not begun
        return None
    if ended.returncode:
        print(f"{cell.name} ended with code {ended.returncode}; see above", flush=True)
        return None
    return json.loads(ended.stdout.splitlines()[-1])


def record(budget: str, cell: Cell, found: Mapping[str, Any]) -> None:
    """Rows lie in the order of cells, whichever was first. Several commands may write."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with locked(RESULTS.with_suffix(".lock")):
        results = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
        rows = {**results.get(budget, {}), cell.name: dict(found)}
        order = {one.name: i for i, one in enumerate(cells(BUDGETS[budget]))}
        results[budget] = {name: rows[name] for name in sorted(rows, key=lambda name: order.get(name, len(order)))}
        with replacing(RESULTS) as file:
            file.write(written(results).encode())


def written(results: Results) -> str:
    """JSON, a line a row: changes can be read, and the file stays small."""
    budgets = []
    for budget, rows in results.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        budgets.append(f" {json.dumps(budget)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(budgets) + "\n}\n"


if __name__ == "__main__":
    main()
