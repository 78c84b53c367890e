"""`maskwise data check | stats | convert | preview`: tables for people, or one JSON object for programs.

What is heavy is imported when a command runs: `maskwise data --help` needs no torch.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro
from rich.text import Text

from maskwise.data.formats import json_file
from maskwise.terminal import Terminal, plain

if TYPE_CHECKING:
    from maskwise.data.convert import Converted
    from maskwise.data.cutting import Tiling
    from maskwise.data.dataset import DataSet

FormatName = Literal["coco", "yolo", "labelme", "voc", "cityscapes", "label_map", "mask_folder"]
"""The keys of `FORMATS`, which this module must not import."""

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
Flag = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")]
From = Annotated[
    FormatName | None,
    tyro.conf.arg(
        name="from",
        metavar="FORMAT",
        help_behavior_hint=f"(default: found out), one of {', '.join(get_args(FormatName))}",
    ),
]
Split = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")]


def main(argv: list[str]) -> int:
    """Exit code: 0; 1 where `check` finds an error; 2 where the command line or the data cannot be read; 3 where
    `preview` could not show some of the pictures that it chose."""
    commands: dict[str, Callable[..., int]] = {"check": check, "stats": stats, "convert": convert, "preview": preview}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, args=argv, prog="maskwise data", description="Check, count, convert and look at a data set."
        )
    except SystemExit as stop:  # how the option parser ends: 0 after help, 2 after a wrong option
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:  # no fault of the data: the command line ends quietly
        raise
    except (ValueError, OSError) as error:
        print(f"maskwise data: {plain(str(error))}", file=sys.stderr)
        return 2


def check(
    source: Source,
    *,
    from_: From = None,
    split: Split = None,
    pixels: Flag = False,
    most: int = 5,
    workers: int = 0,
    json: Flag = False,
) -> int:
    """Name what is wrong with a data set; exit code 1 where there is an error.

    Args:
        source: folder of the data set, or its annotation file
        from_: format of the source
        split: part of the data set, such as train or val
        pixels: decode all pictures, not only their headers
        most: examples shown of each problem
        workers: processes to share the work; worth it from some thousand pictures on
        json: one JSON object on standard output
    """
    from maskwise.data import tables
    from maskwise.data.check import check as check_all

    start = time.perf_counter()
    splits = _opened(source, from_, split)
    problems = check_all(*splits, pixels=pixels, workers=workers)
    pictures = sum(map(len, splits))
    counts = tables.counted(problems)
    if json:
        totals = {f"{severity}s": count for severity, count in counts.items()}
        _print({**_head(source, splits), "pictures": pictures, **totals, "problems": [asdict(p) for p in problems]})
    else:
        console = Terminal()
        tables.show_problems(console, problems, most=most)
        console.print(
            tables.verdict(problems, pictures, pixels=pixels).append(f"  {time.perf_counter() - start:.1f} s", "dim")
        )
    return 1 if counts["error"] else 0


def stats(
    source: Source,
    *,
    from_: From = None,
    split: Split = None,
    most: int = 20,
    workers: int = 0,
    json: Flag = False,
) -> int:
    """Count pictures, instances, classes and sizes.

    Args:
        source: folder of the data set, or its annotation file
        from_: format of the source
        split: part of the data set, such as train or val
        most: classes shown
        workers: processes to share the work; worth it from some thousand pictures on
        json: one JSON object on standard output
    """
    from maskwise.data import tables
    from maskwise.data.stats import stats as measure

    splits = _opened(source, from_, split)
    measured = [measure(data, workers=workers) for data in splits]
    if json:
        _print({**_head(source, splits), "splits": [asdict(one) for one in measured]})
    else:
        console = Terminal()
        console.print(tables.stats_tables(measured, width=console.width, most=most))
    return 0


def convert(
    source: Source,
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    to: FormatName,
    from_: From = None,
    split: Split = None,
    link: Flag = False,
    tile: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: none)")] = None,
    overlap: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: an eighth of the tile)")
    ] = None,
    min_visible: Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: 0.1)")] = None,
    skip_empty: Flag = False,
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 89478485)")] = None,
    exist_ok: Flag = False,
    json: Flag = False,
) -> int:
    """Write a data set in another format, whole or in tiles, and count what that loses.

    Args:
        source: folder of the data set, or its annotation file
        out: folder to write to
        to: format to write
        from_: format of the source
        split: part of the data set, such as train or val
        link: lay links to the pictures instead of copies
        tile: cut pictures that are larger into tiles of N x N pixels, with their annotations
        overlap: pixels that neighbouring tiles share; objects up to that size are whole in one of them
        min_visible: smaller pieces of an object, compared with its largest in any tile, are marked as crowds
        skip_empty: leave out tiles without objects
        max_pixels: read no larger pictures; a mosaic of 20,000 x 20,000 has 400000000
        exist_ok: write into a folder that holds something already
        json: one JSON object on standard output
    """
    from maskwise.data.convert import convert as write
    from maskwise.data.convert import refuse_to_cut
    from maskwise.data.images import MAX_PIXELS

    if out.exists() and not exist_ok and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; choose another place, or allow it with --exist-ok")
    tiling = _tiling(tile, overlap=overlap, min_visible=min_visible, skip_empty=skip_empty)
    most = MAX_PIXELS if max_pixels is None else max_pixels
    splits = _opened(source, from_, split)
    if tiling is not None:
        refuse_to_cut(splits, tiling, most)
    written = [write(data, out, to, link=link, tiling=tiling, max_pixels=most) for data in splits]
    if json:
        _print({**_head(source, splits), "to": to, "out": str(out), "splits": [_row(one) for one in written]})
    else:
        _show(written, to, out)
    return 0


def _tiling(side: int | None, *, overlap: int | None, min_visible: float | None, skip_empty: bool) -> "Tiling | None":
    """None: pictures stay as they are."""
    from maskwise.data.cutting import MIN_VISIBLE, Tiling

    if side is None:
        given = {"overlap": overlap is not None, "min-visible": min_visible is not None, "skip-empty": skip_empty}
        if alone := [f"--{name}" for name, is_given in given.items() if is_given]:
            raise ValueError(f"{', '.join(alone)}: there are no tiles without --tile")
        return None
    least = MIN_VISIBLE if min_visible is None else min_visible
    return Tiling(side=side, overlap=overlap, min_visible=least, skip_empty=skip_empty)


def _row(one: "Converted") -> dict[str, object]:
    """Without a count of tiles where none were asked for."""
    row: dict[str, object] = {**asdict(one), "problems": len(one.problems)}
    return {name: value for name, value in row.items() if value is not None}


def _show(written: "Sequence[Converted]", to: str, out: Path) -> None:
    from maskwise.data import tables

    console = Terminal()
    for one in written:
        name = Text.assemble((plain(one.split), "bold"), f": {tables.plural(one.pictures, 'picture')}")
        name.append(f" with {tables.plural(one.instances, 'instance')}")
        name.append("" if one.tiles is None else f", cut into {tables.plural(one.tiles, 'tile')},")
        console.print(name.append(f" written as {to} to {plain(str(out))}"))
        if one.losses:
            console.print(tables.losses_table(one.losses))
        if one.problems:
            console.print(Text(f"{tables.plural(len(one.problems), 'problem')} in what was read: see check", "yellow"))


def preview(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE|scenes")],
    *,
    out: Path | None = None,
    from_: From = None,
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the first)")] = None,
    count: int = 12,
    cell: int = 320,
    json: Flag = False,
) -> int:
    """Draw some pictures with their masks on one sheet.

    Args:
        source: folder of the data set, or its annotation file; the word scenes for synthetic ones
        out: PNG to write; previews/<name of the source>.png if not given
        from_: format of the source
        split: part of the data set, such as train or val
        count: how many pictures, spread over the data set
        cell: pixels of a side of each
        json: one JSON object on standard output
    """
    from maskwise.data import sheets, tables
    from maskwise.data.images import write_image
    from maskwise.draw import contact_sheet, overlay

    if count < 1 or cell < 16:
        raise ValueError(f"at least one picture of 16 pixels is needed, got --count {count} --cell {cell}")
    is_synthetic = str(source) == "scenes" and not source.exists()
    if is_synthetic:
        cells, wanted = sheets.of_scenes(count, cell), count
    else:
        data = _opened(source, from_, split)[0]
        cells, wanted = sheets.of_data(data, count, cell), min(count, len(data))
    target = out or Path("previews") / f"{source.resolve().stem}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = [
        overlay(c.pixels, c.found, c.categories, colours="part" if c.by_part else "instance", labels=c.labels)
        for c in cells
    ]
    write_image(target, contact_sheet(drawn, [c.caption for c in cells], cell=cell))
    if json:
        _print({"source": str(source), "file": str(target), "pictures": [c.caption for c in cells]})
    else:
        count_shown = tables.plural(len(cells), "picture")
        Terminal().print(Text.assemble("wrote ", (plain(str(target)), "bold"), f": {count_shown}"))
    return 0 if len(cells) == wanted else 3


def _opened(source: Path, format: str | None, split: str | None) -> "Sequence[DataSet]":
    """The split that is wanted, or all."""
    from maskwise.data.formats.table import FORMATS
    from maskwise.data.open import detected, open_data

    if not source.exists():
        raise ValueError(f"{source}: there is no such file or folder")
    format = format or detected(source)
    wanted = FORMATS[format].splits(source) if split is None else (split,)
    if not wanted:
        raise ValueError(f"{source}: found nothing of the format {format} there")
    return [open_data(source, format=format, split=name or None) for name in wanted]


def _head(source: Path, splits: "Sequence[DataSet]") -> dict[str, object]:
    return {"source": str(source), "format": splits[0].format, "splits": [data.split for data in splits]}


def _print(value: Mapping[str, object]) -> None:
    print(json_file.text(value))
