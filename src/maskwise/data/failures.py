"""Samples that cannot be made: written down, counted, and too much when there are too many."""

import errno
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from maskwise.data.dataset import Problem
from maskwise.data.images import ImageReadError

Stage = Literal["read", "transform"]

SAID = 5
"""Bad annotations that are named aloud."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFiles:
    """What happens when a sample cannot be read or transformed."""

    then: Literal["replace", "leave out", "raise"] = "replace"
    """`replace`: another sample, drawn at random, takes its place, so that batches stay full and ranks in step.
    `leave out`: the batch is smaller, and passed over when nothing is left: for judging. `raise`: stop at the first."""
    failures: Path | None = None
    """File of JSON lines to which each bad sample is added once a run: path, stage, exception, message, index."""
    refused: Path | None = None
    """The same for annotations that were left out or mended."""
    most: int = 3
    most_share: float = 0.01
    """Stop when more than `most` and more than this share of the samples are bad."""

    def __post_init__(self) -> None:
        if self.most < 0 or not 0 <= self.most_share <= 1:
            raise ValueError(
                f"expected a number from 0 on and a share from 0 to 1, got {self.most} and {self.most_share}"
            )

    def allowed(self, samples: int) -> int:
        return max(self.most, int(self.most_share * samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One sample that could not be made."""

    path: str
    stage: Stage
    exception: str
    message: str
    index: int

    @classmethod
    def of(cls, error: Exception, *, stage: Stage, index: int, path: str) -> "Failure":
        if isinstance(error, ImageReadError):
            path = error.path  # may be another picture, of which instances were to be pasted
        return cls(path=path, stage=stage, exception=type(error).__name__, message=str(error), index=index)

    def __str__(self) -> str:
        return f"{self.path} ({self.stage}): {self.exception}: {self.message}"


class TooManyBadFiles(ValueError):
    """More bad samples than allowed."""


class FailureLog:
    """Counts bad files, each once; and bad annotations, which are no reason to stop."""

    def __init__(self, policy: BadFiles, samples: int) -> None:
        self.policy, self.samples = policy, samples
        self.found: dict[str, Failure] = {}
        self.known = _known(policy.failures)
        self.refused = _already(policy.refused)

    def add(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            if failure.path not in self.found:
                self.found[failure.path] = failure
                if failure.path in self.known:
                    continue
                self.known.add(failure.path)
                log.warning("bad sample: %s", failure)
                if self.policy.failures is not None:
                    _append(self.policy.failures, asdict(failure))
        if len(self.found) > (allowed := self.policy.allowed(self.samples)):
            raise TooManyBadFiles(self._complaint(allowed))

    def refuse(self, problems: Iterable[Problem]) -> None:
        """Annotations that were left out or mended: the first few aloud, all to the file, each once a run."""
        for problem in problems:
            if problem not in self.refused:
                self.refused.add(problem)
                if len(self.refused) <= SAID:
                    log.warning("left out or mended: %s", problem)
                if len(self.refused) == SAID:
                    rest = "`maskwise data check` lists them" if self.policy.refused is None else self.policy.refused
                    log.warning("there may be more such annotations: %s", rest)
                if self.policy.refused is not None:
                    _append(self.policy.refused, asdict(problem))

    def _complaint(self, allowed: int) -> str:
        first = "".join(f"\n  {failure}" for failure in list(self.found.values())[:5])
        rest = "" if self.policy.failures is None else f"\nAll of them: {self.policy.failures}"
        return f"{len(self.found)} of {self.samples} samples are bad, {allowed} are allowed. The first:{first}{rest}"


def _known(path: Path | None) -> set[str]:
    """Of the run, written down before, by another loader or before it was stopped."""
    return set() if path is None else {str(row["path"]) for row in read_rows(path) if "path" in row}


def _already(path: Path | None) -> set[Problem]:
    """What a run that goes on has written down before."""
    if path is None or not path.exists():
        return set()
    try:
        return {Problem(**row) for row in read_rows(path)}
    except TypeError as error:  # of fields, or of a value
        raise ValueError(f"{path}: a line is no annotation that was left out: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Of JSON lines, none where there is no file. A last line without an end is being written, or never was."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
    return row


def cut_half_line(path: Path) -> None:
    """Before more is written behind it. Only while nobody writes: a line of somebody else may be half there."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)


def _append(path: Path, row: Mapping[str, object]) -> None:
    """In one write at the end, so that lines of several processes do not mix; a full disk may take half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        line = (json.dumps(row) + "\n").encode()
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(file)
