"""`maskwise train RECIPE`: what is heavy is imported when it runs, so that `--help` needs no torch."""

import json as json_format
import logging
import os
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from maskwise.commands.asked import Flag, answer, free, give_back, latest, print_json
from maskwise.terminal import Terminal, grid

if TYPE_CHECKING:
    from maskwise.recipes.run import Run

STUCK, INCOMPLETE = 1, 3
"""Exit codes where training could not go on, and where some pictures could not be read."""

OWN = "own"
"""The recipe that is chosen for the data."""

_HINT = "(default: as in the recipe)"
Text = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=_HINT)]
Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_HINT)]


def main(argv: list[str]) -> int:
    """Exit code: 0; 1 where training cannot go on; 2 for wrong usage or data; 3 where pictures were left out; 143."""
    return answer(train, argv, "train")


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE", help_behavior_hint="")] = OWN,
    *,
    data: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None,
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None,
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: runs/NAME, or runs/NAME-2 ...)"),
    ] = None,
    resume: Flag = False,
    exist_ok: Flag = False,
    epochs: Number = None,
    batch: Number = None,
    seed: Number = None,
    device: Text = None,
    changes: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
        tyro.conf.arg(name="set", metavar="FIELD=VALUE ..."),
    ] = (),
    dry_run: Flag = False,
    json: Flag = False,
) -> int:
    """Train a recipe; `maskwise recipes` lists them. The same command runs under torchrun and srun.

    Args:
        recipe: name of a recipe, or the run.json or the folder of a run, to train that again; left out, the recipe is
            chosen for the data by its pictures and objects
        data: folder or file of the data set, for recipes that learn from files
        model: trained model to begin from; method and options are then its own
        out: folder to write to
        resume: go on with the run in that folder, by default the last of runs/NAME, runs/NAME-2, ...; or begin where
            there is none
        exist_ok: write over a run that is there
        epochs: how often to go over the data; the schedule is stretched
        batch: pictures in a step, of all processes together; the learning rate follows in recipes with `optim.lr_batch`
        seed: of all chance
        device: auto, cpu, cuda, cuda:1, mps
        changes: any field of the run, such as optim.lr=0.01 or config.backbone=resnet18; --dry-run shows them all
        dry_run: print the run that this would train, as JSON, and end
        json: one JSON object on standard output
    """
    from maskwise.distributed import from_environment
    from maskwise.train import CannotGoOn

    if recipe == OWN and data is None:
        raise ValueError("say what to train: the name of a recipe, or with --data PATH what to choose one for")
    wanted = tuple(chain(*changes))
    if model is not None and any(change.startswith("config.") for change in wanted):
        raise ValueError("a model has its own config: --set config.... and --model exclude each other")
    run = _adjusted(_chosen(recipe, data, device), epochs, batch, seed, wanted)
    if dry_run:
        print_json((run if model is None else _from_model(run, model)).to_json())
        return 0
    world = from_environment(os.environ)
    folder = out or _folder(recipe, data, resume=resume, takes_free=not exist_ok and world.size == 1)
    if not world.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    else:
        print(f"{recipe}: writing to {folder}", file=sys.stderr)
    try:
        weights = _trained(run, model, folder, resume=resume, exist_ok=exist_ok)
    except CannotGoOn as error:
        print(f"maskwise train: {error}", file=sys.stderr)
        return STUCK
    finally:
        if out is None and world.is_main:
            give_back(folder)
    if world.is_main:
        _tell(recipe, folder, weights, run.watch.best, json=json)
    # A launcher takes any other code than 0 for a crash of this process.
    return INCOMPLETE if world.size == 1 and _failures(folder) else 0


def _trained(run: "Run[Any]", model: str | None, folder: Path, *, resume: bool, exist_ok: bool) -> Path:
    """The best weights, from those of a model or from the beginning."""
    from maskwise.model import load, train_from
    from maskwise.train import train as start

    if model is None:
        return start(run, folder, resume=resume, exist_ok=exist_ok)
    # on the CPU: each of several processes has a GPU of its own for it later
    return train_from(load(model, device="cpu"), run, folder, resume=resume, exist_ok=exist_ok)


def _from_model(run: "Run[Any]", model: str) -> "Run[Any]":
    from maskwise.model import beginning_with, load

    return beginning_with(load(model, device="cpu"), run)


def _chosen(recipe: str, data: str | None, device: str | None) -> "Run[Any]":
    from maskwise.recipes.chosen import chosen

    return chosen(recipe, data=data, device=device)


def _adjusted(
    run: "Run[Any]",
    epochs: int | None,
    batch: int | None,
    seed: int | None,
    changes: tuple[str, ...],
) -> "Run[Any]":
    """The short options, then `--set`, which has the last word."""
    from maskwise.recipes.chosen import changed, stretched

    if epochs is not None:
        often = max(1, min(run.watch.val_epochs, round(run.watch.val_epochs * epochs / run.schedule.epochs)))
        run = replace(run, schedule=stretched(run.schedule, epochs), watch=replace(run.watch, val_epochs=often))
    if batch is not None:
        run = replace(run, data=replace(run.data, batch=batch))
    return changed(run if seed is None else replace(run, seed=seed), changes)


def _folder(recipe: str, data: str | None, *, resume: bool, takes_free: bool) -> Path:
    """Where a run goes if nothing is said. One that is there stays: the next gets a number, --resume takes the last.

    Several processes must agree on a name, though one of them may begin to write before the others look: theirs has no
    number.
    """
    named = _named(recipe, data)
    if not takes_free or (resume and Path(recipe).exists()):  # a run that is named is gone on with, not its successor
        return named
    return latest(named) if resume else free(named)


def _named(recipe: str, data: str | None) -> Path:
    """By the name of the recipe, or of the data that it was chosen for; one that was saved goes to its own place."""
    if recipe == OWN and data is not None:
        return Path("runs") / Path(data).resolve().stem
    path = Path(recipe)
    if path.is_dir():
        return path
    return path.parent if path.suffix == ".json" else Path("runs") / recipe


def _failures(folder: Path) -> int:
    path = folder / "failures.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _tell(recipe: str, folder: Path, weights: Path, of: str, *, json: bool) -> None:
    """The last word: how good the best weights are, and where."""
    from maskwise.checkpoint import read_about
    from maskwise.logbook import REPORT
    from maskwise.report.run_folder import NAME

    page = folder / NAME if (folder / NAME).exists() else None
    notes = read_about(weights).notes
    ap = notes["best"] if notes["best"] >= 0 else None
    failures = _failures(folder)
    if json:
        found = {"recipe": recipe, "folder": str(folder), "weights": str(weights), "AP": ap, "of": of}
        print_json({**found, "epoch": notes["epoch"], "failures": failures, "report": page and str(page)})
        return
    _classes(folder)
    if page is not None:
        print(f"report: {page}", file=sys.stderr)
    if failures:
        print(f"{failures} failures, see {folder / 'failures.jsonl'}", file=sys.stderr)
    why = "it could not be measured" if (folder / REPORT).exists() else "not judged"
    found = f"no AP of {of}: {why}," if ap is None else f"AP of {of} {ap:.4f}"
    print(f"{found} after epoch {notes['epoch']}: {weights}")


def _classes(folder: Path) -> None:
    """The table of the best weights, where they were judged."""
    from maskwise.logbook import REPORT

    if (folder / REPORT).exists():
        rows = json_format.loads((folder / REPORT).read_bytes())["classes"]
        shown = [{"class": row.pop("name"), "objects": row.pop("ground_truths"), **row} for row in rows]
        Terminal(width=None if sys.stdout.isatty() else 1000).print(grid(shown))
