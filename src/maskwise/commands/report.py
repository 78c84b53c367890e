"""`maskwise report`: the page of a run, or of any COCO results beside their truth."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.commands.asked import Flag, answer

if TYPE_CHECKING:
    from maskwise.report.crops import Pixels

Json = Annotated[Path | None, tyro.conf.arg(metavar="FILE.json", help_behavior_hint="")]


def main(argv: list[str]) -> int:
    return answer(report, argv, "report")


def report(
    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None,
    *,
    truth: Json = None,
    results: Json = None,
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None,
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE.html", help_behavior_hint="(default: report.html in RUN, or here)")
    ] = None,
    title: Annotated[
        str | None, tyro.conf.arg(metavar="WORDS", help_behavior_hint="(default: the name of the results)")
    ] = None,
    max_dets: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 100)")] = None,
    exist_ok: Flag = False,
) -> int:
    """Write a page about what was found beside the truth: one file, to be opened in any browser.

    Args:
        run: folder of a run; everything else is in it, but the data must be where it was
        truth: COCO data set, in the place of a run
        results: COCO results for it, or what predict --save coco wrote; `score` ranks masks, `class_score` and
            `quality` may ride along
        images: folder of the pictures that the truth names; without it outlines are drawn on plain ground
        out: page to write
        title: of the page, with --truth
        max_dets: best detections of a picture and class, with --truth
        exist_ok: write over a file that is there; report.html in RUN is always written anew
    """
    from maskwise.report.page import check_free

    if run is not None and truth is None and results is None:
        of_files = (("--images", images), ("--title", title), ("--max-dets", max_dets))
        if given := [name for name, value in of_files if value is not None]:
            raise ValueError(f"{' and '.join(given)}: for --truth and --results; a run has its own")
        from maskwise.report.run_folder import write

        if out is not None:
            check_free(out, exist_ok=exist_ok)
        print(write(run, out=out))
        return 0
    if run is not None or truth is None or results is None:
        raise ValueError("expected the folder of a run, or both --truth and --results")
    out = out or Path("report.html")
    check_free(out, exist_ok=exist_ok)
    print(_of_files(truth, results, images, out, title or results.stem, 100 if max_dets is None else max_dets))
    return 0


def _of_files(truth: Path, results: Path, images: Path | None, out: Path, title: str, max_dets: int) -> Path:
    from maskwise.evaluate.files import load_comparison
    from maskwise.evaluate.validation import limited
    from maskwise.report.page import write

    comparison = load_comparison(truth, results)
    names = _names(truth)
    named = tuple(pair._replace(image=names[pair.image]) for pair in comparison.pairs)
    return write(
        out,
        comparison=replace(comparison, pairs=named),
        pixels=None if images is None else _pictures(images),
        title=title,
        about={"truth": str(truth), "results": str(results)},
        settings=limited(max_dets),
    )


def _names(truth: Path) -> dict[int | str, str]:
    """The file name of each image: what people know it by."""
    from maskwise.data.formats import json_file

    content = json_file.load(truth)
    assert isinstance(content, dict), "it was read before"
    return {image["id"]: str(image.get("file_name") or image["id"]) for image in content["images"]}


def _pictures(folder: Path) -> "Pixels":
    """By the file names of the truth, inside the folder: names that lead out of it lose what leads out."""
    from maskwise.data.formats.coco_files import Pictures
    from maskwise.data.images import read_image

    if not folder.is_dir():
        raise ValueError(f"--images {folder}: there is no such folder")
    places = Pictures(root=folder, folder=folder)
    return lambda name: read_image(folder / places.place(str(name))[0])
