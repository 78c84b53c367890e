"""What a run writes down while it trains: numbers as JSON lines and CSV, failures, the environment, lines for people.

run.json  environment.json  metrics.jsonl  metrics.csv  failures.jsonl  refused.jsonl  log.txt
split.json, where pictures were held out
weights/best.safetensors  weights/last.safetensors  state/000012/ ...
eval/report.json  eval/results.json, both of the best weights
report.html, at the end
"""

import csv
import io
import json
import math
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskwise.checkpoint import clear_half_written, write_bytes
from maskwise.data.failures import cut_half_line, read_rows
from maskwise.data.locks import LOCK, held
from maskwise.evaluate.report import finite
from maskwise.evaluate.validation import Validation
from maskwise.terminal import plain
from maskwise.version import __version__

Row = Mapping[str, Any]

REPORT, RESULTS, BOARD = "eval/report.json", "eval/results.json", "tensorboard"
VALIDATION = "val/"
"""What the names of a validation's numbers begin with."""

_AWAY = ".replaced"
_LINES = ("metrics.jsonl", "failures.jsonl", "refused.jsonl")
_FILES = ("run.json", "environment.json", "split.json", "metrics.csv", "log.txt", "report.html")
_OF_A_RUN = (*_LINES, *_FILES, "state", "weights", "eval", BOARD)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other process trains there. A folder that was not there goes again if nothing was put into it."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder / LOCK) as ours:
            if not ours:
                raise ValueError(f"{folder}: another process is training in it")
            yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def fresh(folder: Path, *, exist_ok: bool, resume: bool = False) -> Iterator[None]:
    """A folder for a run that begins inside. What another run left goes only when that is asked for, and only when this
    one has begun; what is not of a run stays."""
    if _left(folder) and not (exist_ok or resume):
        raise ValueError(
            f"{folder} is not empty: go on with the run in it (--resume), choose another folder (--out), "
            "or allow to write over it (exist_ok, in a shell --exist-ok)"
        )
    _take_back(folder)  # what a killed process had put away
    if (folder / "run.json").is_file():
        clear(folder)
        _put_away(folder)
    try:
        yield
    except BaseException:
        _take_back(folder)
        raise
    if (folder / _AWAY).exists():
        if not exist_ok and (folder / _AWAY / "weights").exists():  # nothing to go on from, but what it had reached
            shutil.rmtree(folder / "weights.before", ignore_errors=True)
            (folder / _AWAY / "weights").rename(folder / "weights.before")
        gone = folder / f"{_AWAY}.old"
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree((folder / _AWAY).rename(gone), ignore_errors=True)  # renamed, it does not come back


def _left(folder: Path) -> bool:
    return any(path.name != LOCK for path in folder.iterdir())


def _put_away(folder: Path) -> None:
    (folder / _AWAY).mkdir()
    for name in _OF_A_RUN:
        if (folder / name).exists():
            (folder / name).rename(folder / _AWAY / name)


def _take_back(folder: Path) -> None:
    if not (folder / _AWAY).is_dir():
        return
    for name in _OF_A_RUN:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
    for path in (folder / _AWAY).iterdir():
        path.rename(folder / path.name)
    (folder / _AWAY).rmdir()


def clear(folder: Path) -> None:
    """Take away what a killed process, or a full disk, left half written in the folder of a run."""
    for place in (folder, folder / "weights", folder / "eval"):
        clear_half_written(place)
    for name in _LINES:
        cut_half_line(folder / name)


def environment(processes: int) -> dict[str, Any]:
    """What the numbers of this run may depend on besides the run itself."""
    packages = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "hotcoco", "safetensors")
    return {
        "maskwise": __version__,
        "git": _git(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def _git() -> str | None:
    """Commit of the code where it is run from a checkout, with a + where that was changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Logbook:
    """Writes on rank 0 only; the others' is silent."""

    def __init__(self, folder: Path, *, writes: bool, total: int, tensorboard: bool = False) -> None:
        self.folder, self.writes = folder, writes
        self.console = Console(stderr=True, quiet=not writes)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, disable=not (writes and self.console.is_terminal))
        self._task = self._bar.add_task("training", total=total)
        self._boards = _tensorboards() if tensorboard and writes else None
        self._board: Any = None
        self._again_from: int | None = None

    def __enter__(self) -> "Logbook":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def resume(self, step: int, *, epoch_closed: bool) -> None:
        """Take away what a killed process had written about steps that now come again; and about a validation after
        this one, which comes again too, unless its epoch was closed."""
        if self.writes:
            for name in ("metrics.jsonl", "failures.jsonl"):
                _cut(self.folder / name, step, epoch_closed=epoch_closed)
            self._again_from = step + 1

    def json(self, name: str, content: Row | Sequence[Row]) -> None:
        if self.writes:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / name, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def metrics(self, step: int, numbers: Mapping[str, float | int]) -> None:
        """A line of JSON, a point on each curve."""
        if not self.writes:
            return
        self._append("metrics.jsonl", {"step": step, **finite(numbers)})
        if self._boards is not None:
            self._board = self._board or self._boards(str(self.folder / BOARD), purge_step=self._again_from)
            for name, value in numbers.items():
                if math.isfinite(value):
                    self._board.add_scalar(name, value, step)

    def epochs(self, history: Sequence[Row]) -> None:
        """The table of all epochs, anew: a few kilobytes, and never a line twice."""
        if self.writes:
            names = list(dict.fromkeys(name for row in history for name in row))
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, names, lineterminator="\n")
            table.writeheader()
            table.writerows(history)
            write_bytes(self.folder / "metrics.csv", text.getvalue().encode())

    def failure(self, row: Row) -> None:
        if self.writes:
            self._append("failures.jsonl", row)

    def progress(self, step: int, line: str, *, say: bool) -> None:
        """The bar on a terminal; elsewhere, and in log.txt, a plain line where one is due."""
        self._bar.update(self._task, completed=step, description=line)
        if say:
            self.line(line, on_screen=not self.console.is_terminal)

    def line(self, text: str, *, on_screen: bool = True) -> None:
        if self.writes:
            with (self.folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        if on_screen:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def validation(self, epoch: int, found: Validation) -> None:
        """What matters in a line for people, the classes to log.txt."""
        numbers = {"box AP": found.boxes.numbers["AP"], "mask AP": found.masks.numbers["AP"]}
        numbers["AP50"] = found.masks.numbers["AP50"]
        if found.proposals is not None:
            numbers |= {name: found.proposals.numbers[name] for name in ("AR10", "AR100", "AR1000")}
        if found.keypoints is not None:
            numbers["keypoint AP"] = found.keypoints.numbers["AP"]
        self.line(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
        width = max((len(plain(row.name)) for row in found.masks.classes), default=0)
        for row in found.masks.classes:
            cells = "  ".join(f"{name} {row.numbers[name]:.3f}" for name in ("AP", "AP50", "AP75"))
            self.line(f"  {plain(row.name):<{width}}  {row.ground_truths:6d}  {cells}", on_screen=False)

    def _append(self, name: str, row: Row) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _cut(path: Path, step: int, *, epoch_closed: bool) -> None:
    """Keep the lines of JSON about this step and those before it, and lines that are about none."""

    def stays(row: Row) -> bool:
        about_validation = any(name.startswith(VALIDATION) for name in row)
        comes_again = row.get("step") == step and about_validation and not epoch_closed
        return row.get("step", 0) <= step and not comes_again

    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read_rows(path) if stays(row)]
        write_bytes(path, "".join(kept).encode())


def _tensorboards() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("no TensorBoard here: pip install 'maskwise[tracking]', in a checkout '.[tracking]'") from None
    return SummaryWriter
