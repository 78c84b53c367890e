"""Scenes for methods that find objects in one stage: tiny ones, to see that everything works, and some for two cores.

maskwise train embed_mask_scenes
maskwise val --model runs/embed_mask_scenes --data scenes --count 500
"""

from maskwise.data.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip
from maskwise.methods import embed_mask
from maskwise.recipes.run import Data, Optim, Run, Schedule, Synthetic, Watch

TINY, WHOLE = Scenes(size=(64, 64), count=(1, 3)), Scenes(size=(128, 128), count=(2, 6))


def tiny_embed_mask() -> Run[embed_mask.Config]:
    """EmbedMask on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = embed_mask.Config(
        num_classes=len(TINY.categories),
        backbone="resnet18",
        norm="batch",
        levels=(2, 3, 4),
        limits=(8.0, 16.0),
        width=32,
        convolutions=2,
        dimensions=8,
        unit=6.0,
        min_score=0.0,
        per_level=50,
        max_instances=10,
    )
    source = Synthetic(scenes=TINY, train=8, val=4)
    return Run(
        method="embed_mask",
        config=config,
        data=_data(source, batch=4),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, clip=5.0),
        schedule=Schedule(epochs=2, kind="cosine", warmup=0),
        watch=Watch(log_steps=1),
    )


def embed_mask_scenes() -> Run[embed_mask.Config]:
    """EmbedMask on scenes of 128 x 128 pixels: levels from P2, margins from the radius of a large object, 24 pixels."""
    config = embed_mask.Config(
        num_classes=len(WHOLE.categories),
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        norm="batch",
        levels=(2, 3, 4, 5),
        limits=(12.0, 24.0, 48.0),
        width=64,
        unit=12.0,
    )
    return Run(
        method="embed_mask",
        config=config,
        data=_data(Synthetic(scenes=WHOLE, train=8000, val=200), batch=8),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, weight_decay=0.05, clip=5.0),
        schedule=Schedule(epochs=1, kind="cosine", warmup=100),
        watch=Watch(log_steps=50),
    )


def _data(source: Synthetic, *, batch: int) -> Data:
    return Data(source=source, change=(HorizontalFlip(),), view=(), batch=batch, group_by_aspect=False, workers=0)
