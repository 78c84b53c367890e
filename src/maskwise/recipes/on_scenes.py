"""Runs on scenes, for any method: a handful of tiny scenes, and what two cores do in a quarter of an hour."""

from typing import Literal, TypeVar

from maskwise.data.synthetic.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip, Resize
from maskwise.recipes.run import Change, Data, Optim, Run, Schedule, Synthetic, Watch

C = TypeVar("C")
Best = Literal["masks", "proposals"]

TINY = Scenes(size=(64, 64), count=(1, 3), radius=(8, 14))
WHOLE = Scenes(size=(128, 128), count=(2, 6))
CLASSES = len(WHOLE.categories)


def tiny(method: str, config: C, *, side: int | None = None, best: Best = "masks", lr: float = 1e-3) -> Run[C]:
    """It runs, and learns nothing much. `side`: what scenes are enlarged to before they are seen."""
    return Run(
        method=method,
        config=config,
        data=_data(Synthetic(scenes=TINY, train=8, val=4), batch=4, side=side, as_one=best == "proposals"),
        optim=Optim(kind="adamw", lr=lr, lr_batch=None, clip=5.0),
        schedule=Schedule(epochs=2, kind="cosine", warmup=0),
        watch=Watch(log_steps=1, best=best),
    )


def whole(
    method: str,
    config: C,
    *,
    side: int | None = None,
    best: Best = "masks",
    train: int = 8000,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
) -> Run[C]:
    """A small network learns from 8,000 scenes, each seen once."""
    return Run(
        method=method,
        config=config,
        data=_data(Synthetic(scenes=WHOLE, train=train, val=200), batch=8, side=side, as_one=best == "proposals"),
        optim=Optim(kind="adamw", lr=lr, lr_batch=None, weight_decay=weight_decay, clip=5.0),
        schedule=Schedule(epochs=1, kind="cosine", warmup=100),
        watch=Watch(log_steps=50, best=best),
    )


def _data(source: Synthetic, *, batch: int, side: int | None, as_one: bool) -> Data:
    larger: tuple[Change, ...] = () if side is None else (Resize(short=side, long=side),)
    return Data(
        source=source,
        change=(*larger, HorizontalFlip()),
        view=larger,
        batch=batch,
        group_by_aspect=False,
        as_one=as_one,
        workers=0,
    )
