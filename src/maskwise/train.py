"""Training, from a `Run` to a file of weights, on one process or many.

It can be stopped at any moment: killed, it goes on from the last checkpoint, and on a CPU ends with the very same
weights; told to stop (SIGTERM, SIGUSR1), it makes a checkpoint after the step it is in and exits with code 143.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskwise import checkpoint, distributed, optimization, reproducible
from maskwise.categories import Categories
from maskwise.checkpoint import About, Checkpoint
from maskwise.data.loader import Batch, Loader
from maskwise.data.source import Source
from maskwise.distributed import Signals, World
from maskwise.evaluate import validation
from maskwise.evaluate.objects import Comparison, Pair
from maskwise.evaluate.report import finite
from maskwise.evaluate.structures import numbered_pairs
from maskwise.logbook import REPORT, RESULTS, VALIDATION, Logbook, alone_in, clear, environment, fresh
from maskwise.methods import METHODS, Entry, Method, staged
from maskwise.out_of_memory import is_out_of_memory
from maskwise.progress import Progress
from maskwise.recipes.judging import SPLIT, split_of
from maskwise.recipes.run import Files, Run, Synthetic, differences
from maskwise.recipes.sources import REST, UNKNOWN, Known, Sources, loader, sources
from maskwise.report import run_folder
from maskwise.structures import Images, Instances, Losses

log = logging.getLogger(__name__)

STOPPED = 143
"""Exit code after SIGTERM, as shells write it: 128 + 15."""

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}

MAY_DIFFER = ("device", "data.workers", "watch.save_steps", "watch.log_steps", "watch.tensorboard")
"""Settings that may differ when a run is resumed, since no weight depends on them."""

Begin = Callable[[nn.Module, Categories], None]
"""Gives a new network the weights that it begins with."""


class CannotGoOn(RuntimeError):
    """Training has met what it cannot pass. What it had reached is in the last checkpoint."""


def train(
    run: Run[Any],
    folder: Path,
    *,
    methods: Mapping[str, Entry] = METHODS,
    begin: Begin | None = None,
    before: Known = UNKNOWN,
    resume: bool = False,
    exist_ok: bool = False,
) -> Path:
    """Train, or with `resume` go on with the run in the folder.

    `begin` gives the weights of a model to begin with, `before` is what is known of the run that trained that.
    Returns the file of the best weights, by the AP that `run.watch.best` names; of the last ones where none is best.
    """
    if run.begins_with is not None and begin is None:
        raise ValueError("this run begins with the weights of a model; name it with --model, or use Model.train")
    world = distributed.from_environment(os.environ)
    with Signals() as signals:
        with (
            distributed.joined(world, distributed.device(world, run.device)),
            reproducible.deterministic(run.deterministic),
            reproducible.no_denormals(),
            alone_in(folder) if world.is_main else nullcontext(),
        ):
            going_on = resume and checkpoint.any_in(folder / "state")
            with _room(folder, world, going_on=going_on, exist_ok=exist_ok, resume=resume):
                t = _begin(run, folder, world, methods, begin, before)
                if not going_on:
                    _describe(t)
            with t.book, t.loader:
                if going_on:
                    _resume(t)
                while not t.finished:
                    _epoch(t, signals)
                if t.progress.epoch * t.per_epoch < t.total:
                    t.book.line(
                        f"no better AP of {run.watch.best} in {t.progress.stale} validations: training ends here"
                    )
        if world.is_main:
            _report(t)
    best, last = (folder / "weights" / f"{name}.safetensors" for name in ("best", "last"))
    return best if best.exists() else last


def _room(folder: Path, world: World, *, going_on: bool, exist_ok: bool, resume: bool) -> AbstractContextManager[None]:
    """Where a run can begin. The other ranks meet rank 0 before they write anything."""
    if not world.is_main:
        return nullcontext()
    if going_on:
        clear(folder)
        return nullcontext()
    return fresh(folder, exist_ok=exist_ok, resume=resume)


def _report(t: "_Training") -> None:
    """A page for people. Whatever is wrong with it takes nothing from what was learned."""
    try:
        run_folder.write(t.folder, opened=t.sources)
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)
        log.warning("no report of %s: %s", t.folder, error, exc_info=None if expected else error)


# State


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """Everything that takes part."""

    run: Run[Any]
    world: World
    on: torch.device
    model: nn.Module
    wrapped: nn.Module
    """The same, or what averages its gradients over ranks."""
    average: optimization.Average | None
    statistics: optimization.Statistics
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Loader
    sources: Sources
    folder: Path
    book: Logbook
    progress: Progress

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.loader) / self.run.optim.accumulate)

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.run.schedule.total(self.per_epoch)

    @property
    def last_epoch(self) -> bool:
        """Whether the epoch that is being trained or judged is the last one."""
        return (self.progress.epoch + 1) * self.per_epoch >= self.total

    @property
    def result(self) -> nn.Module:
        """What is judged and kept: the moving average where there is one."""
        return self.average.module if self.average else self.model

    @property
    def finished(self) -> bool:
        patience = self.run.watch.patience
        return self.progress.epoch * self.per_epoch >= self.total or (
            patience is not None and self.progress.stale >= patience
        )


def _begin(
    run: Run[Any], folder: Path, world: World, methods: Mapping[str, Entry], begin: Begin | None, before: Known
) -> _Training:
    """The same on all ranks, up to the chance that each has for itself."""
    on, opened, optim = distributed.device(world, run.device), sources(run.data, before=before), run.optim
    if run.watch.best == "keypoints" and not opened.categories.keypoints:
        raise ValueError("watch.best: the data has no keypoints to judge by")
    reproducible.seed(run.seed)
    run = run.fitted(opened.categories)
    module = _module(methods, run)
    if begin is not None:
        begin(module, opened.categories)
    model = distributed.synchronised(world, module.to(on), on)
    wrapped = model if world.size == 1 else _averaging(model, on)
    batches = _batches(run, opened.train, folder, world, on)
    reproducible.seed((run.seed + world.rank) % 2**32)
    total = run.schedule.total(math.ceil(len(batches) / optim.accumulate))
    return _Training(
        run=run,
        world=world,
        on=on,
        model=model,
        wrapped=wrapped,
        average=optimization.Average(model, optim.ema) if optim.ema is not None else None,
        statistics=optimization.Statistics(model),
        optimizer=optimization.build(model, optim, run.data.batch),
        scaler=torch.amp.GradScaler(on.type, enabled=optim.amp == "fp16"),
        loader=batches,
        sources=opened,
        folder=folder,
        book=Logbook(folder, writes=world.is_main, total=total, tensorboard=run.watch.tensorboard),
        progress=Progress(),
    )


def _averaging(model: nn.Module, on: torch.device) -> nn.Module:
    """Gradients of all ranks. A model that learns in stages may leave a part of itself alone for a while."""
    unused = staged(model) is not None
    return DistributedDataParallel(model, [on] if on.type == "cuda" else None, find_unused_parameters=unused)


def _batches(
    run: Run[Any], source: Source, folder: Path, world: World, on: torch.device, *, judging: bool = False
) -> Loader:
    failures = folder / "failures.jsonl"
    return loader(run, source, failures=failures, rank=world.rank, world=world.size, judging=judging, device=on)


def _module(methods: Mapping[str, Entry], run: Run[Any]) -> nn.Module:
    if run.method not in methods:
        raise ValueError(f"unknown method {run.method!r}; known: {', '.join(methods)}")
    return methods[run.method].build(run.config)


# Steps


def _epoch(t: _Training, signals: Signals) -> None:
    """The rest of an epoch: steps, and the judgement at its end."""
    p, watch = t.progress, t.run.watch
    if t.loader.epoch == p.epoch:  # else it was stopped while it was being judged
        batches, began = iter(t.loader), time.perf_counter()
        while (parts := list(islice(batches, t.run.optim.accumulate))) and p.step < t.total:
            stop = _step(t, parts, signals, began=began)
            began = time.perf_counter()
            if stop or p.step % watch.save_steps == 0:
                _save(t)
            if stop:
                raise SystemExit(STOPPED)
    if t.sources.val is not None and ((p.epoch + 1) % watch.val_epochs == 0 or t.last_epoch):
        with _memory_to_judge(t):
            verdict = _validate(t, t.sources.val, signals)
        if distributed.any_rank(t.world, t.on, signals.raised)[0]:
            _save(t)
            raise SystemExit(STOPPED)
        _close(t, verdict, validated=True)
    else:
        _close(t, None, validated=False)


def _step(t: _Training, parts: list[Batch], signals: Signals, *, began: float) -> bool:
    """One step of the optimiser; whether any process was told to stop. `began`: when the wait for its data did."""
    p = t.progress
    optimization.set_rate(t.optimizer, t.run.schedule.factor(p.step, t.per_epoch))
    if (method := staged(t.model)) is not None:
        method.on_step(p.step, t.total)
    t.statistics.keep()
    losses, stop = _gradients(t, parts, signals)
    moved, numbers = (False, {}) if losses is None else _move(t, parts, losses)
    p.step += 1
    if moved:
        p.add(numbers)
        if t.average is not None:
            t.average.update(t.model, p.step)
    else:
        t.statistics.restore()
    pictures = t.run.data.batch / (time.perf_counter() - began)
    _tell(t, {**numbers, "lr": t.optimizer.param_groups[0]["lr"], "pictures_per_second": pictures})
    return stop


def _gradients(t: _Training, parts: list[Batch], signals: Signals) -> tuple[dict[str, float] | None, bool]:
    """Those of all parts of a step, added up. Returns the losses, or None where one is not finite on any process; and
    whether any process was told to stop."""
    t.optimizer.zero_grad(set_to_none=True)
    means: dict[str, float] = {}
    stop = False
    for i, batch in enumerate(parts):
        with _alone(t) if i + 1 < len(parts) else nullcontext(), _memory(t, batch):
            losses = _losses(t, batch)
            total = _total(losses) / len(parts)
            fine = bool(total.isfinite())
            bad, stop = distributed.any_rank(t.world, t.on, not fine, signals.raised)
            if bad:
                _pass_over(t, () if fine else batch.names, {name: float(v.detach()) for name, v in losses.items()})
                return None, stop
            t.scaler.scale(total).backward()
        for name, value in losses.items():
            means[f"loss/{name}"] = means.get(f"loss/{name}", 0.0) + float(value.detach()) / len(parts)
    return distributed.mean(t.world, t.on, means), stop


def _alone(t: _Training) -> AbstractContextManager[None]:
    """Gradients stay where they are until the last part of a step."""
    return t.wrapped.no_sync() if isinstance(t.wrapped, DistributedDataParallel) else nullcontext()


@contextmanager
def _memory(t: _Training, batch: Batch) -> Iterator[None]:
    """Where memory does not suffice, say for what. Nothing has moved yet; a process alone can go on behind it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        t.statistics.restore()  # a part of the step may have been seen
        if t.world.size == 1:
            _save(t)
        parts = 2 * t.run.optim.accumulate
        smaller = f"--set optim.accumulate={parts} (the same step in smaller parts), "
        reason, _, _ = (str(error) or type(error).__name__).partition("\n")
        sizes = zip(batch.names, batch.images.sizes, batch.targets, strict=True)
        shown = ", ".join(f"{name} ({w} x {h}, {len(one)} objects)" for name, (h, w), one in sizes)
        raise CannotGoOn(
            f"step {t.progress.step + 1}: out of memory on {t.on}: {reason}\n  pictures: {shown}\n"
            f"  --resume goes on from the last checkpoint{', after these' if t.world.size == 1 else ''}. A new run "
            f"needs less with {'' if t.run.data.batch % (parts * t.world.size) else smaller}"
            "--set optim.amp=bf16, a smaller --batch, or smaller pictures in data.change"
        ) from error


@contextmanager
def _memory_to_judge(t: _Training) -> Iterator[None]:
    """What was learned since the last checkpoint is not lost for that."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if t.world.size == 1:
            _save(t)
        reason, _, _ = (str(error) or type(error).__name__).partition("\n")
        raise CannotGoOn(
            f"step {t.progress.step}: out of memory on {t.on} while the weights were judged: {reason}\n"
            "  --resume judges again, also on another --device; a new run needs less with smaller pictures in data.view"
        ) from error


def _losses(t: _Training, batch: Batch) -> Losses:
    here, dtype = batch.to(t.on), AMP[t.run.optim.amp]
    with nullcontext() if dtype is None else torch.autocast(t.on.type, dtype):
        return t.wrapped(here.images, here.targets)


def _total(losses: Losses) -> Tensor:
    """What has no gradient is told, not learned from."""
    return torch.stack([value.float() for value in losses.values() if value.requires_grad]).sum()


def _move(t: _Training, parts: list[Batch], losses: dict[str, float]) -> tuple[bool, dict[str, float]]:
    """Moves the weights by their gradients. Returns whether these are finite, else nothing was moved; and the losses
    with the norm of the gradient."""
    t.scaler.unscale_(t.optimizer)
    clip = math.inf if t.run.optim.clip is None else t.run.optim.clip
    norm = float(nn.utils.clip_grad_norm_(optimization.parameters(t.optimizer), clip))
    numbers = {**losses, "grad_norm": norm}
    if not math.isfinite(norm) and not t.scaler.is_enabled():
        _pass_over(t, [name for batch in parts for name in batch.names], numbers)
        return False, numbers
    t.scaler.step(t.optimizer)  # which knows when float16 was too small, moves nothing then, and scales less
    t.scaler.update()
    return True, numbers


def _pass_over(t: _Training, names: Sequence[str], numbers: Mapping[str, float]) -> None:
    """A step whose loss or gradient is not finite: its pictures are named, and after too many of them training ends."""
    p, watch = t.progress, t.run.watch
    p.bad += 1
    row = {name: f"{value:g}" for name, value in numbers.items()}
    for pictures, values in distributed.gathered(t.world, [(list(names), row)] if names else []):
        exception, message = "NonFinite", ", ".join(f"{name} {value}" for name, value in values.items())
        place = {"step": p.step + 1, "stage": "train", "images": pictures}
        t.book.failure({**place, "exception": exception, "message": message})
        t.book.line(f"step {p.step + 1} passed over: {message}; pictures: {', '.join(pictures)}")
    if p.bad > watch.bad_steps:
        raise CannotGoOn(
            f"{p.bad} steps had a loss or gradient that is not finite; at most {watch.bad_steps} are allowed; "
            f"see {t.folder}/failures.jsonl"
        )


def _tell(t: _Training, numbers: Mapping[str, float]) -> None:
    p = t.progress
    losses = [value for name, value in numbers.items() if name.startswith("loss/")]
    due = p.step % t.run.watch.log_steps == 0 or p.step == t.total
    reached = f"loss {sum(losses):.4f}" if losses else "passed over"
    t.book.progress(p.step, f"epoch {p.epoch + 1}, step {p.step} of {t.total}, {reached}", say=due)
    if due:
        t.book.metrics(p.step, numbers)


# Judgement


class _Verdict(NamedTuple):
    reports: validation.Validation
    results: list[dict[str, object]]
    """What was found in each picture, as COCO has it."""


def _validate(t: _Training, val: Source, signals: Signals) -> _Verdict | None:
    """Each rank judges its share by the same weights; rank 0 puts them together, the others have no verdict."""
    model = t.result
    distributed.share_buffers(t.world, model)
    pairs: list[tuple[int, Pair]] = []
    if t.world.rank < len(val):
        with _batches(t.run, val, t.folder, t.world, t.on, judging=True) as shown, torch.no_grad():
            model.eval()
            for numbered in numbered_pairs(partial(_found, cast(Method, model)), shown, val, t.on):
                pairs.append(numbered)
                if signals.raised:
                    break
            model.train()
    everything = validation.in_order(val, distributed.gathered(t.world, pairs))
    if not t.world.is_main:
        return None
    judged, name = tuple(pair for _, pair in everything), _judging(t.run.data.source, len(val))
    whole = Comparison(categories=t.sources.categories, pairs=judged, data=name)
    ids = [validation.image_id(val, i) for i, _ in everything]
    return _Verdict(validation.validation(whole), validation.results(whole, ids))


def _judging(data: Files | Synthetic, count: int) -> str:
    """What judges, for people."""
    if not isinstance(data, Files):
        return f"{count} scenes"
    return f"{data.path}{REST}" if data.val is None else f"{data.path} {data.val}"


def _found(method: Method, images: Images) -> list[Instances]:
    """One by one where memory does not suffice for all: whole pictures may be larger than what is learned from."""
    try:
        return method.predict(images)
    except (RuntimeError, MemoryError) as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    return [found for i in range(len(images)) for found in method.predict(images.one(i))]


def _close(t: _Training, verdict: _Verdict | None, *, validated: bool) -> None:
    """The end of an epoch: its row, the weights worth keeping, a checkpoint. `validated`: on all ranks, while only rank
    0 has the verdict."""
    p = t.progress
    p.epoch += 1
    numbers: dict[str, float] = {}
    if verdict is not None:
        numbers = {f"{VALIDATION}{name}": value for name, value in verdict.reports.metrics().items()}
    p.history.append({"epoch": p.epoch, "step": p.step, **finite({**p.means(), **numbers})})
    p.sums, p.counted = {}, 0
    if verdict is not None:
        t.book.metrics(p.step, numbers)
        t.book.validation(p.epoch, verdict.reports)
    if validated:
        ap = distributed.from_main(t.world, math.nan if verdict is None else verdict.reports.ap(t.run.watch.best))
        is_best = ap > p.best  # not so where there was nothing to find
        p.stale += not math.isnan(ap)
        if is_best:
            p.best, p.stale = ap, 0
            _keep(t, "best")
        if verdict is not None and (is_best or p.best < 0):  # without a best one, those of the last weights
            t.book.json(RESULTS, verdict.results)
            t.book.json(REPORT, {"epoch": p.epoch, **verdict.reports.to_json()})
    _keep(t, "last")
    t.book.epochs(p.history)
    _save(t)


def _keep(t: _Training, name: str) -> None:
    if t.world.is_main:
        checkpoint.write_model(t.folder / "weights" / f"{name}.safetensors", t.result.state_dict(), _about(t))


def _about(t: _Training) -> About:
    run, p = t.run.to_json(), t.progress
    return About(
        method=run["method"],
        config=run["config"],
        categories=t.sources.categories,
        view=run["data"]["view"],
        notes={"step": p.step, "epoch": p.epoch, "best": p.best},
    )


# Stopping and going on


def _save(t: _Training) -> None:
    """Every rank's chance, and everything else from rank 0."""
    chance = distributed.gathered(t.world, [reproducible.chance(t.on)])
    if t.world.is_main:
        state = {
            "progress": asdict(t.progress),
            "optimizer": optimization.state_of(t.optimizer, t.model),
            "average": t.average.module.state_dict() if t.average else None,
            "scaler": t.scaler.state_dict(),
            "loader": t.loader.state_dict(),
            "chance": chance,
        }
        checkpoint.save(t.folder / "state", Checkpoint(weights=t.model.state_dict(), about=_about(t), state=state))
    distributed.wait(t.world)


def _describe(t: _Training) -> None:
    t.book.json("run.json", t.run.to_json())
    t.book.json("environment.json", environment(t.world.size))
    if t.sources.split is not None:
        t.book.json(SPLIT, t.sources.split)
    epochs, batch = math.ceil(t.total / t.per_epoch), t.run.data.batch
    t.book.line(f"epochs: {epochs}, steps: {t.total}, pictures in a step: {batch}")
    if (rising := t.run.schedule.rising(t.per_epoch)) < t.run.schedule.warmup:
        t.book.line(f"the rate rises for {rising} steps, a quarter of all, and not for {t.run.schedule.warmup}")


def _resume(t: _Training) -> None:
    """Nothing that matters may have changed, or the result would be that of no run."""
    if changed := _changed(t):
        raise ValueError(f"{t.folder} holds another run:\n  " + "\n  ".join(changed))
    stored = checkpoint.load(t.folder / "state")
    state = stored.state
    if len(state["chance"]) != t.world.size:
        raise ValueError(f"started with {len(state['chance'])} processes, resumed with {t.world.size}")
    checkpoint.load_weights(t.model, stored.weights)
    if t.average is not None:
        t.average.load(state["average"])
    optimization.load_state(t.optimizer, t.model, state["optimizer"])
    t.scaler.load_state_dict(state["scaler"])
    t.loader.load_state_dict(state["loader"])
    for f in fields(t.progress):
        setattr(t.progress, f.name, state["progress"][f.name])
    reproducible.restore(state["chance"][t.world.rank], t.on)
    history = t.progress.history
    t.book.resume(t.progress.step, epoch_closed=bool(history) and history[-1]["step"] == t.progress.step)
    t.book.line(f"going on after step {t.progress.step}")


def changed_settings(run: Run[Any], folder: Path) -> list[str]:
    """Settings that differ from the run begun in `folder`; fields added since then count as their defaults."""
    stored = json.loads((folder / "run.json").read_bytes())
    if stored.get("method") == run.method:
        stored = Run.from_json(stored, {run.method: type(run.config)}).to_json()
    lines = differences(json.loads(json.dumps(stored)), json.loads(json.dumps(run.to_json())))
    return [line for line in lines if line.partition(":")[0] not in MAY_DIFFER]


def _changed(t: _Training) -> list[str]:
    lines = changed_settings(t.run, t.folder)
    if t.sources.split is not None and t.sources.split != split_of(t.folder):
        lines.append(f"the pictures: they are not those that {SPLIT} names")
    return lines
