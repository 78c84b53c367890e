"""Several processes that train as one: who they are, what they tell each other, and that they end together.

torchrun, Slurm and most other launchers set the same few variables of the environment; nothing else is asked of them.
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed import TCPStore

T = TypeVar("T")

WATCH = 0.5
"""Seconds between two looks at whether another rank has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine: the number of its accelerator."""
    address: str = "127.0.0.1"
    port: int = 0
    """Where rank 0 is met; of no meaning to a process alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise ValueError(f"expected a rank from 0 to {self.size - 1}, got {self.rank} (local {self.local_rank})")

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def from_environment(environment: Mapping[str, str]) -> World:
    """As the launcher says; alone where there is none."""
    if "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun; a batch script alone is one process
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return World()
    if missing := [name for name in names[:2] if name not in environment]:
        raise ValueError(f"the launcher did not set {', '.join(missing)}")
    rank, size, local = (int(environment.get(name, 0)) for name in names)
    address = environment.get("MASTER_ADDR") or _first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    port = int(environment.get("MASTER_PORT") or 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 10000)
    return World(rank=rank, size=size, local_rank=local, address=address, port=port)


def _first_host(nodes: str) -> str:
    """'gpu[03-05,9],login' begins with gpu03; machines may be numbered twice: 'rack[1-2]node[1-8]'."""
    if found := re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        return re.sub(r"\[([^,\-\]]*)[^\]]*\]", r"\1", found[0])
    raise ValueError(f"no host in the list of nodes {nodes!r}")


def device(world: World, name: str = "auto") -> torch.device:
    """The accelerator of this rank, or what is named."""
    if name == "auto":
        alone_on_a_mac = world.size == 1 and torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if alone_on_a_mac else "cpu"
    try:
        # a scheduler may show each process one GPU, its own
        own = world.local_rank if torch.cuda.device_count() > 1 else 0
        found = torch.device("cuda", own) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}") from None
    return found


@contextmanager
def joined(world: World, on: torch.device, *, minutes: float = 30.0) -> Iterator[None]:
    """While inside, ranks may talk. An exception on one of them ends all, and all say which it was and why."""
    if world.size == 1:
        yield
        return
    os.environ |= {"MASTER_ADDR": world.address, "MASTER_PORT": str(world.port)}
    if on.type == "cuda":
        torch.cuda.set_device(on)
    backend = "nccl" if on.type == "cuda" else "gloo"
    limit = timedelta(minutes=minutes)
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=limit)
    watch = _Watch(world)
    try:
        yield
        dist.barrier()
    except Exception:
        watch.tell(traceback.format_exc())
        raise
    finally:
        watch.stop()
        dist.destroy_process_group()


class _Watch:
    """Sees that another rank has failed also while this one waits for it, which NCCL would do for half an hour."""

    def __init__(self, world: World) -> None:
        self.rank = world.rank
        self.key = f"maskwise/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self.store = TCPStore(world.address, world.port, is_master=False, wait_for_workers=False)
        self.stopped = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def tell(self, reason: str) -> None:
        """Of several, the first counts: the others only miss the one that failed."""
        own = f"rank {self.rank} failed:\n{reason}"
        try:
            first = self.store.compare_set(self.key, "", own).decode()
        except RuntimeError:  # rank 0, which keeps the store, has ended before us
            return
        if first != own:
            print(f"rank {self.rank} stops because {first}", file=sys.stderr, flush=True)
        elif self.rank == 0:
            time.sleep(4 * WATCH)  # the others read it here

    def stop(self) -> None:
        self.stopped.set()

    def _look(self) -> None:
        while not self.stopped.wait(WATCH):
            try:
                reason = self.store.get(self.key).decode() if self.store.check([self.key]) else ""
            except RuntimeError:
                reason = "rank 0 has ended"
            if reason and not reason.startswith(f"rank {self.rank} failed") and not self.stopped.wait(WATCH):
                print(f"rank {self.rank} stops because {reason}", file=sys.stderr, flush=True)
                os._exit(1)


def gathered(world: World, mine: Sequence[T]) -> list[T]:
    """The objects of all ranks, rank by rank, on rank 0; nothing elsewhere. Ranks may have differently many."""
    if world.size == 1:
        return list(mine)
    parts: list[list[T]] | None = [[] for _ in range(world.size)] if world.is_main else None
    dist.gather_object(list(mine), parts)
    return [item for part in parts or () for item in part]


def wait(world: World) -> None:
    """Until all ranks are here: a launcher ends the others when one has ended."""
    if world.size > 1:
        dist.barrier()


def any_rank(world: World, on: torch.device, *flags: bool) -> tuple[bool, ...]:
    """Each flag, raised on all ranks if it is on one."""
    if world.size == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32, device=on)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in raised.tolist())


def mean(world: World, on: torch.device, numbers: Mapping[str, float]) -> dict[str, float]:
    """Of each number over all ranks, which have the same ones."""
    if world.size == 1:
        return dict(numbers)
    together = torch.tensor([numbers[name] for name in sorted(numbers)], dtype=torch.float64, device=on)
    dist.all_reduce(together)
    return dict(zip(sorted(numbers), (together / world.size).tolist(), strict=True))


def share_buffers(world: World, module: nn.Module) -> None:
    """Those of rank 0 on all: running means depend on what each rank has seen."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def synchronised(world: World, module: nn.Module, on: torch.device) -> nn.Module:
    """With batch norms that see the pictures of all ranks, where they can: on GPUs. Names of weights stay."""
    if world.size == 1 or on.type != "cuda":
        return module
    return cast(nn.Module, convert_sync_batchnorm(module))


def from_main(world: World, item: T | None) -> T:
    """What rank 0 has, on all."""
    box: list[T | None] = [item]
    if world.size > 1:
        dist.broadcast_object_list(box)
    found = box[0]
    assert found is not None
    return found


class Signals:
    """Remembers that the process was told to stop; it stops where it can go on from."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # others may not
            names = (name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
            self._before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
            for number in self._before:
                signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, *_: object) -> None:
        self.raised = True
