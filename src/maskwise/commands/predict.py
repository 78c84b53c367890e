"""`maskwise predict SOURCE...`: what is heavy is imported when it runs, so that `--help` needs no torch."""

import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, Unpack

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from maskwise.commands.asked import WRONG, Flag, answer, print_json
from maskwise.terminal import Terminal, grid, plain

if TYPE_CHECKING:
    from maskwise.data.formats.measurements import Scale
    from maskwise.predict import Failed, Options, Result
    from maskwise.predictions.finder import Finder
    from maskwise.predictions.folder import Done, Job
    from maskwise.predictions.formats import Save
    from maskwise.predictions.pictures import Asked

INCOMPLETE = 3
"""Exit code where some pictures could not be read."""
DOUBTFUL = 0.7
"""Masks whose predicted IoU is lower should be looked at."""

Auto = Literal["auto"]
"""For numbers that are found out."""
Given = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")]


class Wanted(NamedTuple):
    """What was named, and the pictures that this means; how many, where that is known."""

    sources: list[str]
    asked: "Iterable[Asked]"
    total: int | None


class _Wishes(TypedDict, total=False):
    """Of a job, beside what it is about."""

    save: "tuple[Save, ...]"
    scale: "Scale"
    link: bool
    resume: bool
    exist_ok: bool


def main(argv: list[str]) -> int:
    """Exit code: 0; 2 for wrong usage or where nothing could be read; 3 where some pictures could not be read."""
    return answer(predict, argv, "predict")


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What is reported of what is found."""

    conf: float = 0.5
    """least score of the class"""
    min_quality: float = 0.0
    """least predicted IoU of the mask"""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")] = ()
    """only these; put the pictures before it, or they are taken for classes"""
    max_det: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """most instances of a picture; left out, pictures with more than the model reports are cut into tiles"""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How pictures are looked at."""

    tile: Auto | Literal["none"] | int = "auto"
    """side of tiles; auto: only pictures too large, or with too many objects, to be seen whole; none: never"""
    batch: Auto | int = "auto"
    """pictures at once"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 89478485)")] = None
    """refuse files with more"""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What is written, and where."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("predictions")
    """folder to write to; one that holds something is left alone"""
    save: Annotated[str, tyro.conf.arg(metavar="KIND,...")] = "overlay,coco,csv"
    """any of overlay, coco, labelme, yolo, png, csv"""
    pixel_size: Annotated[str | None, tyro.conf.arg(metavar="LENGTH", help_behavior_hint="(default: 1px)")] = None
    """side of a pixel, such as 0.325um: the unit of csv"""
    copy: Flag = False
    """copies of the pictures beside their annotations, not links"""
    resume: Flag = False
    """go on where a run with the same options was stopped"""
    exist_ok: Flag = False
    """begin anew: what earlier predictions wrote there is deleted, corrections included"""


def predict(
    sources: Given = (),
    *,
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "nuclei",
    stdin: Flag = False,
    json: Flag = False,
    reporting: tyro.conf.OmitArgPrefixes[Reporting] = Reporting(),
    looking: tyro.conf.OmitArgPrefixes[Looking] = Looking(),
    writing: tyro.conf.OmitArgPrefixes[Writing] = Writing(),
) -> int:
    """Find the objects in pictures, and how good each mask is.

    Args:
        sources: pictures, folders, patterns such as 'field/*.jpg', videos; - reads a list of them from standard input
        model: name, file or folder of a model, or an address with #sha256=
        stdin: one picture, as bytes on standard input
        json: one JSON object on standard output
    """
    from maskwise.data.images import MAX_PIXELS
    from maskwise.model import load
    from maskwise.predictions.formats import chosen

    options = chosen_options(
        min_score=reporting.conf,
        min_quality=reporting.min_quality,
        classes=reporting.classes or None,
        max_det=reporting.max_det,
        batch=looking.batch,
        tile=None if looking.tile == "none" else looking.tile,
        max_pixels=MAX_PIXELS if looking.max_pixels is None else looking.max_pixels,
    )
    kinds = chosen(writing.save)
    scale = _scale(writing.pixel_size, kinds)
    named = wanted(sources, options.max_pixels, stdin=stdin, out=writing.out)
    loaded = load(model, device=looking.device)
    link = not writing.copy
    if link and not _can_link(writing.out):
        print("links are not allowed here: the pictures are copied", file=sys.stderr)
        link = False
    rest: _Wishes = {
        "save": kinds,
        "scale": scale,
        "link": link,
        "resume": writing.resume,
        "exist_ok": writing.exist_ok,
    }
    return report(loaded, named, job(writing.out, model, named.sources, options, **rest), json=json)


def chosen_options(**wishes: Any) -> "Options":
    """What is out of range is called as it was typed."""
    from maskwise.predict import Options

    try:
        return Options(**wishes)
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        typed = "conf" if name == "min_score" else name.replace("_", "-")
        raise ValueError(f"--{typed}{colon}{rest}") from None


def _scale(pixel_size: str | None, save: "Sequence[Save]") -> "Scale":
    from maskwise.data.formats.measurements import PIXELS, Scale

    if pixel_size is None:
        return PIXELS
    if "csv" not in save:
        raise ValueError("--pixel-size is the unit of csv, which --save does not name")
    try:
        return Scale.parse(pixel_size)
    except ValueError as error:
        raise ValueError(f"--pixel-size: {error}") from None


def job(out: Path, model: str, sources: Sequence[str], options: "Options", **rest: Unpack[_Wishes]) -> "Job":
    """With the digest of the model, so that only the same one goes on."""
    from maskwise.models.download import digest
    from maskwise.models.folder import CONFIG, weights_file
    from maskwise.models.published import find
    from maskwise.predictions.folder import Job

    weights = weights_file(find(model))
    about = {"name": model, "sha256": digest(weights)}
    if (options_of := weights.with_name(CONFIG)).is_file():  # which count, and may be edited
        about["config"] = digest(options_of)
    return Job(out=out, model=about, sources=sources, options=options, **rest)


def report(finder: "Finder", named: Wanted, job: "Job", *, json: bool) -> int:
    """Predict, and say what came of it."""
    done = watched(finder, named, job)
    found = _json(done, job, _tallies(job.out, finder.categories.names))
    if json:
        print_json(found)
    else:
        _show(found, job, Terminal(width=None if sys.stdout.isatty() else 1000))
    if not done.results:
        print("maskwise predict: none of the pictures could be read", file=sys.stderr)
        return WRONG
    return INCOMPLETE if done.failures else 0


def wanted(sources: Sequence[str], max_pixels: int, *, out: Path, stdin: bool = False) -> Wanted:
    from maskwise.data.files import exists
    from maskwise.predictions.pictures import Asked
    from maskwise.predictions.sources import files, is_video, opened

    if stdin == bool(sources):
        raise ValueError("say what to look at: pictures, folders, patterns, - for a list of them, or --stdin for bytes")
    if stdin:
        data = sys.stdin.buffer.read()
        return Wanted(["<standard input>"], [Asked.of(data, name="stdin.png", max_pixels=max_pixels)], 1)
    if "-" in sources:
        listed = [line.rstrip("\r\n") for line in sys.stdin]
        sources = [one for source in sources for one in (listed if source == "-" else [source]) if one]
    found = files(sources, out=out)
    if not found:
        raise ValueError("standard input names no pictures")
    if not any(map(exists, found.values())):
        shown = ", ".join(map(str, list(found.values())[:5])) + (" ..." if len(found) > 5 else "")
        raise ValueError(f"no such file: {shown}")
    has_videos = any(is_video(path) for path in found.values())
    asked = opened(found, max_pixels=max_pixels)
    return Wanted(list(sources), asked, None if has_videos else len(found))


def _can_link(out: Path) -> bool:
    """Windows allows it to some users only, and some disks know no links."""
    there = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=there) as folder:
            Path(folder, "link").symlink_to(folder)
    except OSError:
        return False
    return True


def watched(finder: "Finder", named: Wanted, job: "Job") -> "Done":
    """A line a picture, and on a terminal a bar below them."""
    from maskwise.predictions.folder import run

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=named.total)

        def counted() -> "Iterator[Asked]":
            """Also those that are passed over because they are done."""
            for one in named.asked:
                yield one
                bar.advance(task)

        return run(finder, counted(), job, told=lambda outcome: console.print(_line(outcome), soft_wrap=True))


def _line(outcome: "Result | Failed") -> Text:
    from maskwise.predict import Failed, counted

    if isinstance(outcome, Failed):
        return Text.assemble((plain(outcome.asked.name), "bold"), ": ", (plain(str(outcome.error)), "red"))
    found, names = outcome.instances, outcome.categories.names
    first = (f"; only the first of {counted(outcome.frames)} pages or frames" if outcome.frames > 1 else "", "yellow")
    if not len(found):
        return Text.assemble((plain(outcome.name), "bold"), ": nothing found", first)
    counts = Counter(found.labels.tolist())
    shown = ", ".join(f"{count} {names[label]}" for label, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more classes" if len(counts) > 5 else ""
    quality = found.quality.tolist()
    doubtful = sum(value < DOUBTFUL for value in quality)
    review = f", {doubtful} to review" if doubtful else ""
    return Text.assemble(
        (plain(outcome.name), "bold"),
        f": {shown}{more}, quality {statistics.median(quality):.2f}",
        (review, "yellow"),
        "" if outcome.tile is None else f"; more than are reported at once: cut into tiles of {outcome.tile}",
        ("; there may be more" if outcome.limited else "", "red"),
        first,
    )


# What came of it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """Of the instances of one class, or of all."""

    scores: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        return {
            "instances": len(self.scores),
            "median_score": statistics.median(self.scores) if self.scores else None,
            "median_quality": statistics.median(self.quality) if self.quality else None,
            "to_review": sum(value < DOUBTFUL for value in self.quality),
        }


def _tallies(out: Path, names: Sequence[str]) -> dict[str, _Tally]:
    """Of the whole folder, also of what an earlier run did."""
    from maskwise.predictions.folder import lines

    tallies: dict[str, _Tally] = {}
    for line in lines(out):
        for label, score, quality in zip(*(line.get(n, ()) for n in ("labels", "scores", "quality")), strict=True):
            tally = tallies.setdefault(names[label], _Tally())
            tally.scores.append(score)
            tally.quality.append(quality)
    return tallies


def _json(done: "Done", job: "Job", tallies: dict[str, _Tally]) -> dict[str, object]:
    from maskwise.predictions.folder import lines

    every = _Tally(
        scores=[score for tally in tallies.values() for score in tally.scores],
        quality=[quality for tally in tallies.values() for quality in tally.quality],
    )
    return {
        "out": str(job.out),
        "model": dict(job.model),
        "pictures": done.results,
        "failures": [{"name": line["name"], **line["error"]} for line in lines(job.out) if "error" in line],
        "tiled": {line["name"]: line["tile"] for line in lines(job.out) if "tile" in line},
        "limited": [line["name"] for line in lines(job.out) if "limited" in line],
        "frames": {line["name"]: line["frames"] for line in lines(job.out) if "frames" in line},
        **every.to_json(),
        "classes": {name: tally.to_json() for name, tally in tallies.items()},
        "losses": {name: dict(written.losses) for name, written in done.written.items() if written.losses},
    }


def _show(found: dict[str, Any], job: "Job", console: Terminal) -> None:
    """For people."""
    out = str(job.out)
    if found["classes"]:
        console.print(grid([{"class": name, **row} for name, row in found["classes"].items()]))
    counts = f"{_count(found['pictures'], 'picture')}, {_count(found['instances'], 'instance')}, "
    counts += f"{found['to_review']} of them to review"
    console.print(Text.assemble((counts, "bold"), f" (quality below {DOUBTFUL:g})"))
    if limited := found["limited"]:
        shown = ", ".join(map(plain, limited[:5])) + (" ..." if len(limited) > 5 else "")
        advice = "raise --max-det" if job.options.max_det else "try a smaller --tile, or --max-det with a high number"
        text = f"as many objects as are reported of a picture, there may be more, in {len(limited)}: {shown}; {advice}"
        console.print(Text(text, "red"), soft_wrap=True)
    if frames := found["frames"]:
        shown = ", ".join(map(plain, list(frames)[:5])) + (" ..." if len(frames) > 5 else "")
        text = f"only the first page or frame was looked at, in {len(frames)}: {shown}; for all see docs/predict.md"
        console.print(Text(text, "yellow"), soft_wrap=True)
    if found["failures"]:
        console.print(Text(f"{len(found['failures'])} could not be read: {out}/failures.jsonl", "red"))
    for name, losses in found["losses"].items():
        shown = ", ".join(f"{count} {what}" for what, count in losses.items())
        console.print(Text(f"{name} cannot hold: {shown}", "dim"), soft_wrap=True)
    if found["pictures"]:
        console.print(Text(f"wrote {out}: {', '.join(('predictions.jsonl', *job.save))}"), soft_wrap=True)
    if found["to_review"]:
        console.print(Text(f"look at the doubtful ones first: maskwise review {out}"), soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
