"""Scenes for methods that group pixels: tiny ones, to see that everything works, and some for two cores.

maskwise train discriminative_scenes
maskwise val --model runs/discriminative_scenes --data scenes --count 500
"""

from typing import Any

from maskwise.data.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip
from maskwise.methods import discriminative, spatial_embeddings
from maskwise.recipes.run import Data, Optim, Run, Schedule, Synthetic, Watch

TINY, WHOLE = Scenes(size=(64, 64), count=(1, 3)), Scenes(size=(128, 128), count=(2, 6))


def tiny_discriminative() -> Run[discriminative.Config]:
    """Discriminative loss on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = discriminative.Config(num_classes=len(TINY.categories), backbone="resnet18", width=16, leftover=20)
    return _tiny("discriminative", config)


def tiny_spatial_embeddings() -> Run[spatial_embeddings.Config]:
    """Spatial embeddings on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = spatial_embeddings.Config(
        num_classes=len(TINY.categories), unit=64.0, sigma_start=0.15, threshold=0.5, min_pixels=10
    )
    return _tiny("spatial_embeddings", config)


def discriminative_scenes() -> Run[discriminative.Config]:
    """Discriminative loss on scenes of 128 x 128 pixels."""
    config = discriminative.Config(
        num_classes=len(WHOLE.categories), backbone="resnet18", width=32, coordinates=True, leftover=20
    )
    return _whole("discriminative", config)


def spatial_embeddings_scenes() -> Run[spatial_embeddings.Config]:
    """Spatial embeddings on scenes of 128 x 128 pixels; a Gaussian begins as wide as an object is on average."""
    config = spatial_embeddings.Config(
        num_classes=len(WHOLE.categories),
        backbone="resnet18",
        width=32,
        unit=128.0,
        sigma_start=0.35,
        threshold=0.5,
        min_pixels=20,
    )
    return _whole("spatial_embeddings", config)


def _tiny(method: str, config: Any) -> Run[Any]:
    source = Synthetic(scenes=TINY, train=8, val=4)
    return Run(
        method=method,
        config=config,
        data=Data(source=source, change=(HorizontalFlip(),), view=(), batch=4, group_by_aspect=False, workers=0),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, clip=5.0),
        schedule=Schedule(epochs=2, kind="cosine", warmup=0),
        watch=Watch(log_steps=1),
    )


def _whole(method: str, config: Any) -> Run[Any]:
    """A small network from random weights."""
    source = Synthetic(scenes=WHOLE, train=8000, val=200)
    return Run(
        method=method,
        config=config,
        data=Data(source=source, change=(HorizontalFlip(),), view=(), batch=8, group_by_aspect=False, workers=0),
        optim=Optim(kind="adamw", lr=2e-3, lr_batch=None, weight_decay=0.01, clip=5.0),
        schedule=Schedule(epochs=1, kind="cosine", warmup=100),
        watch=Watch(log_steps=50),
    )
