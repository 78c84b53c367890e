"""`maskwise review`: the masks that an annotator should look at first, as a page and as a table."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.text import Text

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.terminal import Terminal, grid

if TYPE_CHECKING:
    from maskwise.predict import Result
    from maskwise.review.ranking import Catch, Doubt, Truth

INCOMPLETE = 3
"""Exit code where some pictures could not be read."""
LISTED = 10
PAGE, TABLE = "review.html", "review.csv"

COLUMNS = ("image", "category", "quality", "score", "mask_score", "area_px2", "x0", "y0", "x1", "y1", "true_iou")


def main(argv: list[str]) -> int:
    """Exit code: 0; 2 for wrong usage or where nothing could be read; 3 where some pictures could not be read."""
    return answer(review, argv, "review")


def review(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER|SOURCE")],
    *,
    truth: Annotated[Path | None, tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = None,
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: beside the predictions, or review)"),
    ] = None,
    most: int = 200,
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: nuclei)")] = None,
    conf: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.5)")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: auto)")] = None,
    exist_ok: Flag = False,
    json: Flag = False,
) -> int:
    """Rank masks by their predicted quality, worst first: review.html to look at, review.csv for programs.

    Args:
        source: what `maskwise predict` wrote; or pictures, a folder or a pattern, which are predicted on first
        truth: data set with the true masks of these pictures, to tell how well the ranking finds bad ones
        split: part of the truth, such as val
        out: where to write
        most: masks shown in the page; the table has all
        model: name, file or folder of a model, for pictures
        conf: least score of the class, for pictures
        device: auto, cpu, cuda, cuda:1, mps; for pictures
        exist_ok: write over the review in another folder; for pictures begin anew: what earlier
            predictions wrote there is deleted, corrections included
        json: one JSON object on standard output
    """
    from maskwise.data.files import OF_PREDICTIONS
    from maskwise.data.open import open_data
    from maskwise.predictions.folder import results
    from maskwise.review.ranking import Truth, catch, rank

    if most < 1:
        raise ValueError(f"--most: expected at least 1, got {most}")
    folder, code = Path(source), 0
    is_there = (folder / OF_PREDICTIONS).is_file()
    _refuse_unheeded(is_there, truth, split=split, model=model, conf=conf, device=device)
    if out is not None and out.resolve() != folder.resolve() and not exist_ok:
        _refuse_another(out)
    known = None if truth is None else Truth.of(open_data(truth, split=split))
    if not is_there:
        folder = out or Path("review")
        code = _predict(source, folder, model, conf, device, exist_ok=exist_ok)
    doubts = rank(results(folder), known)
    caught = None if known is None else catch(doubts)
    target = out or folder
    _write(target, doubts, lambda: results(folder), title=source, truth=known, caught=caught, most=most)
    if json:
        print_json(_json(target, doubts, caught))
    else:
        _show(target, doubts, caught, Terminal(width=None if sys.stdout.isatty() else 1000))
    return code


def _refuse_unheeded(
    is_there: bool, truth: Path | None, *, split: str | None, **of_pictures: str | float | None
) -> None:
    """What would change nothing: there are predictions already, or no truth."""
    given = [f"--{name}" for name, value in of_pictures.items() if value is not None]
    if is_there and given:
        raise ValueError(f"{' and '.join(given)}: for pictures; these are predictions, which were made with their own")
    if split is not None and truth is None:
        raise ValueError(f"--split {split}: part of the --truth, and there is none")


def _refuse_another(out: Path) -> None:
    """Beside its own predictions a review is written anew; elsewhere it may be of others."""
    for name in (PAGE, TABLE):
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; choose another --out, or allow it with --exist-ok")


def _predict(
    source: str, out: Path, model: str | None, conf: float | None, device: str | None, *, exist_ok: bool
) -> int:
    """Without further outputs. The exit code."""
    from maskwise.commands.predict import chosen_options, job, wanted, watched
    from maskwise.model import load

    model, device = "nuclei" if model is None else model, "auto" if device is None else device
    options = chosen_options(min_score=0.5 if conf is None else conf)
    named = wanted([source], options.max_pixels, out=out)
    done = watched(
        load(model, device=device), named, job(out, model, named.sources, options, save=(), exist_ok=exist_ok)
    )
    if not done.results:
        raise ValueError("none of the pictures could be read")
    return INCOMPLETE if done.failures else 0


def _write(
    out: Path,
    doubts: "Sequence[Doubt]",
    found: "Callable[[], Iterable[Result]]",
    *,
    title: str,
    truth: "Truth | None",
    caught: "Catch | None",
    most: int,
) -> None:
    from maskwise.data.files import replacing, write_table
    from maskwise.review.page import render

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / PAGE) as file:
        text = render(title, doubts, found, truth=truth, caught=caught, most=most)
        file.write(text.encode("utf-8", "replace"))  # names out of files may hold half a character
    write_table(out / TABLE, ("rank", *COLUMNS), ((rank, *_row(doubt)) for rank, doubt in enumerate(doubts, 1)))


def _row(doubt: "Doubt") -> tuple[object, ...]:
    numbers = (f"{value:.6g}" for value in (doubt.quality, doubt.score, doubt.mask_score))
    true = "" if doubt.true_iou is None else f"{doubt.true_iou:.6g}"
    return (doubt.name, doubt.category, *numbers, doubt.area, *doubt.box, true)


def _json(out: Path, doubts: "Sequence[Doubt]", caught: "Catch | None") -> dict[str, Any]:
    from maskwise.review.ranking import BAD

    return {
        "page": str(out / PAGE),
        "table": str(out / TABLE),
        "masks": len(doubts),
        "below": {"quality": BAD, "masks": sum(doubt.quality < BAD for doubt in doubts)},
        "truth": None if caught is None else asdict(caught),
    }


def _show(out: Path, doubts: "Sequence[Doubt]", caught: "Catch | None", console: Terminal) -> None:
    from maskwise.review.ranking import BAD, LOOKED_AT

    rows = [_listed(rank, doubt, known=caught is not None) for rank, doubt in enumerate(doubts[:LISTED], 1)]
    if rows:
        console.print(grid(rows))
    low = sum(doubt.quality < BAD for doubt in doubts)
    console.print(Text.assemble((f"{len(doubts)} masks, {low} with a predicted quality below {BAD:g}", "bold")))
    if caught is not None:
        share = f"the worst-ranked {LOOKED_AT:.0%} ({caught.looked_at} of {caught.masks} masks)"
        console.print(f"masks with IoU < {BAD:g} found in {share}:", highlight=False)
        console.print(grid([{"ranked by": n, "found": f"{k} of {caught.bad}"} for n, k in caught.found.items()]))
    console.print(Text(f"wrote {out / PAGE} and {TABLE}"), soft_wrap=True)


def _listed(rank: int, doubt: "Doubt", *, known: bool) -> dict[str, object]:
    row: dict[str, object] = {"rank": rank, "picture": doubt.name, "class": doubt.category}
    row |= {"quality": doubt.quality, "score": doubt.score, "pixels": doubt.area}
    return row | {"true IoU": doubt.true_iou} if known else row
