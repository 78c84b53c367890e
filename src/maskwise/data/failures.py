"""Samples that cannot be made: written down, counted, and too much when there are too many."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

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
        self.refused = _already(policy.refused)

    def add(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            if failure.path not in self.found:
                self.found[failure.path] = failure
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


def _already(path: Path | None) -> set[Problem]:
    """What a run that goes on has written down before."""
    if path is None or not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return {Problem(**json.loads(line)) for line in lines if line.endswith("\n")}


def _append(path: Path, row: Mapping[str, object]) -> None:
    """In one write at the end, so that lines of several processes do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)
