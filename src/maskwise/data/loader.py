"""Batches for training and judging: the same for the same seed, whatever the number of workers, and to be resumed.

What a sample looks like depends on (seed, epoch, index) alone. Workers read and transform; the process that iterates
makes batches of it, writes failures down, and knows the position.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from types import TracebackType
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from maskwise.data.chance import generator, whole
from maskwise.data.dataset import Problem
from maskwise.data.failures import BadFiles, Failure, FailureLog, Stage, TooManyBadFiles
from maskwise.data.images import ImageReadError
from maskwise.data.order import Last, batches
from maskwise.data.sample import Sample
from maskwise.data.scripts import left_alone
from maskwise.data.source import FileBacked, Indexed, SizedSource, Source
from maskwise.data.transforms import Transform
from maskwise.rle import Size
from maskwise.structures import Images, Targets

Start = Literal["forkserver", "spawn", "fork"]
"""How workers begin. `fork` copies a process whose threads may hold locks: quick, and a hang now and then."""

_REPLACEMENTS = 20
"""How many other samples are tried in the place of a bad one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    images: Images
    targets: list[Targets]
    names: tuple[str, ...]
    indices: tuple[int, ...]
    """Positions in the source."""
    lost: Mapping[str, int]
    """Instances that reading and transforms dropped, counted by the reason."""

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> "Batch":
        return replace(self, images=self.images.to(device), targets=[t.to(device) for t in self.targets])


class Loader:
    """Iterate over it for what is left of the current epoch, and again for the next one.

    Workers live until `close`, the end of a `with` block, or the end of the loader. A transform must draw from the
    generator that it is given and from nothing else.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        transform: Transform | None = None,
        seed: int = 0,
        shuffle: bool = True,
        last: Last = "drop",
        group_by_aspect: bool = False,
        bad_files: BadFiles | None = None,
        workers: int = 0,
        start: Start | None = None,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        multiple: int = 32,
        device: torch.device | None = None,
    ) -> None:
        """A step takes `parts` batches of each rank; `last` says what becomes of samples that fill none.
        `group_by_aspect` keeps pictures that are higher than wide in batches of their own. `multiple` divides the sides
        of padded pictures. Without `start`, workers begin from a clean process (`forkserver`, or `spawn` where there is
        none). With `device` pictures are put together there: a GPU is sent bytes, from pinned memory, while it
        computes; targets stay where they are."""
        if batch_size < 1 or workers < 0 or seed < 0 or not 0 <= rank < world:
            raise ValueError(
                "expected a batch_size from 1 on, workers and seed from 0 on, and a rank below world, "
                f"got batch_size {batch_size}, workers {workers}, seed {seed}, rank {rank}, world {world}"
            )
        bad_files = bad_files or BadFiles()
        self._deal = _Deal(
            samples=len(source),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            last=last,
            world=world,
            group_by_aspect=group_by_aspect,
            parts=parts,
        )
        self._rank = rank
        self._tall = _tall(source) if group_by_aspect else None
        self._multiple, self._device = multiple, device
        self._log = FailureLog(bad_files, len(source))
        if rank == 0 and isinstance(source, Indexed):
            self._log.refuse(source.left_out())
        self._maker = _Maker(source=source, transform=transform, seed=seed, then=bad_files.then)
        self._workers, self._start = min(workers, _cores()), start
        self._requests: list[_Request] = []
        self._pipe: list[DataLoader[_Parcel]] = []
        weakref.finalize(self, self._pipe.clear)  # workers end when told to, at the end of the program too
        self._round = 0
        self.set_epoch(0)
        if not len(source) or (last == "drop" and not len(self)):
            raise ValueError(f"{len(source)} samples make no batch of {batch_size} for each of {world} ranks")

    # --- where it is

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def position(self) -> int:
        """Batches of this epoch that were handed out."""
        return self._position

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return len(self._plan)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Bad files met so far."""
        return tuple(self._log.found.values())

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self._go(epoch, 0)

    def state_dict(self) -> dict[str, object]:
        """Where it is, and by which rule samples are dealt out, in plain values; the same on every rank."""
        return {"epoch": self.epoch, "position": self.position, "deal": asdict(self._deal)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go where another loader was: what it had handed out does not come again. It may have had other workers."""
        deal, epoch, position = (state.get(key) for key in ("deal", "epoch", "position"))
        if not isinstance(deal, Mapping) or not isinstance(epoch, int) or not isinstance(position, int):
            raise ValueError(f"expected the state of a loader, with epoch, position and deal, got {sorted(state)}")
        deal, mine = {"parts": 1, **deal}, asdict(self._deal)  # which states of former versions do not hold
        if differs := [f"{key} was {deal.get(key)}, is {mine[key]}" for key in mine if deal.get(key) != mine[key]]:
            raise ValueError("this loader deals out other batches than the one that was saved: " + ", ".join(differs))
        self._go(epoch, position)

    def _go(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._plan = self._deal.batches(epoch, rank=self._rank, tall=self._tall)
        self._round += 1  # an iterator that was left behind notices

    # --- batches

    def __iter__(self) -> Iterator[Batch]:
        self._round += 1
        this_round = self._round
        numbered = list(enumerate(self._plan, 1))
        self._requests[:] = [_Request(number, self.epoch, mine) for number, mine in numbered[self.position :]]
        with nullcontext() if self._pipe else self._starting():
            parcels = iter(self._opened())
        for parcel in parcels:
            self._log.add(parcel.failures)
            self._log.refuse(parcel.problems)
            self._position = parcel.number
            if not parcel.names and self._maker.then == "replace":  # ranks would no longer be in step
                raise TooManyBadFiles(
                    f"batch {parcel.number} has no sample: none of those tried in their places is good"
                )
            if parcel.names:
                yield _batch(parcel, self._multiple, self._device)
            if self._round != this_round:
                raise RuntimeError("the loader was started anew or moved: this iterator is of no use any more")
        self.set_epoch(self.epoch + 1)

    def _opened(self) -> "DataLoader[_Parcel]":
        if not self._pipe:
            opened = DataLoader(
                self._maker,
                sampler=self._requests,
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                worker_init_fn=_begin,
                pin_memory=self._device is not None and self._device.type == "cuda",
                multiprocessing_context=_context(self._start) if self._workers else None,
                generator=Generator(),  # or it would draw from the global one
            )
            self._pipe.append(opened)
        return self._pipe[0]

    def _starting(self) -> AbstractContextManager[None]:
        """What is forked runs nothing anew."""
        return nullcontext() if self._start == "fork" else left_alone(self._maker)

    def close(self) -> None:
        """End the workers. Iterating starts new ones."""
        self._pipe.clear()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deal:
    """The rule by which samples are dealt out. Two loaders of one rule go through the same batches."""

    samples: int
    batch_size: int
    seed: int
    shuffle: bool
    last: Last
    world: int
    group_by_aspect: bool
    parts: int

    def batches(self, epoch: int, *, rank: int, tall: Sequence[bool] | None) -> list[tuple[int, ...]]:
        return batches(
            self.samples,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            last=self.last,
            rank=rank,
            world=self.world,
            parts=self.parts,
            tall=tall,
        )


def _cores() -> int:
    """That this process may use: more workers than that only wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tall(source: Source) -> list[bool]:
    if not isinstance(source, SizedSource):
        raise ValueError(f"grouping by aspect needs a source that knows sizes: {type(source).__name__} has no size(i)")
    return [_is_tall(source, i) for i in range(len(source))]


def _is_tall(source: SizedSource, i: int) -> bool:
    try:
        height, width = source.size(i)
    except ImageReadError:  # it is reported when its turn comes
        return False
    return height > width


def _batch(parcel: "_Parcel", multiple: int, device: torch.device | None) -> Batch:
    pixels = parcel.pixels.to(device, non_blocking=True)
    pictures = [
        functional.to_dtype(pixels[a:b].view(3, *size), torch.float32, scale=True)
        for size, (a, b) in zip(parcel.sizes, pairwise(parcel.offsets()), strict=True)
    ]
    return Batch(
        images=Images.batch(pictures, originals=parcel.originals, multiple=multiple),
        targets=pickle.loads(parcel.targets.numpy().data),
        names=parcel.names,
        indices=parcel.indices,
        lost=parcel.lost,
    )


# In the workers


@dataclass(frozen=True, slots=True)
class _Request:
    number: int
    """Of the batch in its epoch, from 1."""
    epoch: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcel:
    """A batch on its way between processes: two tensors in shared memory, however many masks there are, and a few names
    that a pipe takes at once. A worker that is killed while a pipe is full would leave the reader waiting for ever."""

    number: int
    pixels: Shaped[Tensor, " values"]
    """All pictures one after another, as bytes where all are bytes: a quarter of what numbers would take."""
    sizes: tuple[Size, ...]
    originals: tuple[Size, ...]
    targets: Shaped[Tensor, " bytes"]
    """Pickled."""
    names: tuple[str, ...]
    indices: tuple[int, ...]
    lost: Mapping[str, int]
    failures: tuple[Failure, ...]
    problems: tuple[Problem, ...]

    def pin_memory(self) -> "_Parcel":
        """What torch asks for."""
        return replace(self, pixels=self.pixels.pin_memory())

    def offsets(self) -> list[int]:
        out = [0]
        for h, w in self.sizes:
            out.append(out[-1] + 3 * h * w)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker(Dataset[_Parcel]):
    """Makes parcels; this is what workers have a copy of."""

    source: Source
    transform: Transform | None
    seed: int
    then: Literal["replace", "leave out", "raise"]

    def __getitem__(self, index: _Request) -> _Parcel:  # the name is that of torch
        return self._parcel(index)

    def _parcel(self, request: _Request) -> _Parcel:
        failures: list[Failure] = []
        made = [self._sample_or_other(request.epoch, index, failures) for index in request.indices]
        return _packed(request.number, [found for found in made if found is not None], tuple(failures))

    def _sample_or_other(self, epoch: int, index: int, failures: list[Failure]) -> tuple[int, Sample] | None:
        sample = self._sample(index, generator(self.seed, epoch, index), failures)
        if sample is not None or self.then == "leave out":
            return None if sample is None else (index, sample)
        for attempt in range(1, _REPLACEMENTS + 1):
            chance = generator(self.seed, epoch, index, attempt)
            other = whole(chance, 0, len(self.source) - 1)
            if (sample := self._sample(other, chance, failures)) is not None:
                return other, sample
        return None

    def _sample(self, index: int, chance: Generator, failures: list[Failure]) -> Sample | None:
        stage: Stage = "read"
        try:
            sample = self.source[index]
            stage = "transform"
            return sample if self.transform is None else self.transform(sample, chance)
        except Exception as error:  # whatever is wrong with a file; of a mistake in the code the limit will tell
            if self.then == "raise":
                raise
            path = self.source.path(index) if isinstance(self.source, FileBacked) else f"sample {index}"
            failures.append(Failure.of(error, stage=stage, index=index, path=path))
            return None


def _packed(number: int, made: Sequence[tuple[int, Sample]], failures: tuple[Failure, ...]) -> _Parcel:
    samples = [sample for _, sample in made]
    pixels = [sample.pixels.flatten() for sample in samples]
    if len({p.dtype for p in pixels}) > 1:
        pixels = [functional.to_dtype(p, torch.float32, scale=True) for p in pixels]
    return _Parcel(
        number=number,
        pixels=torch.cat([torch.zeros(0, dtype=torch.uint8) if not pixels else pixels[0][:0], *pixels]),
        sizes=tuple(sample.size for sample in samples),
        originals=tuple(sample.original for sample in samples),
        targets=torch.frombuffer(bytearray(pickle.dumps([s.targets for s in samples])), dtype=torch.uint8),
        names=tuple(sample.name for sample in samples),
        indices=tuple(index for index, _ in made),
        lost=dict(sum((Counter(sample.lost) for sample in samples), Counter())),
        failures=failures,
        problems=tuple(problem for sample in samples for problem in sample.problems),
    )


def _as_it_is(parcel: object) -> object:
    return parcel


def _begin(_: int) -> None:
    torch.set_num_threads(1)
    ignore_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Also where that is killed. torch looks whether the fork server still lives, which lives as long as a worker."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are processes of their own"
    parent.join()
    os._exit(1)


def ignore_signals() -> None:
    """Ctrl-C, schedulers and `timeout` tell all processes of a group to stop. It is training that does so, in its own
    time; for a batch that a dead worker had begun to send it would wait for ever."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _context(start: Start | None) -> multiprocessing.context.BaseContext:
    if start is None:
        start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":  # all workers share what the server has imported: the first begins in seconds, not each
        context.set_forkserver_preload(["__main__", "maskwise.data.workers"])
    return context
