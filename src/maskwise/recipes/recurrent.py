"""Scenes for methods that draw one object after the other: tiny ones, to see that everything works, and some for two
cores.

maskwise train rsis_scenes
maskwise val --model runs/rsis_scenes --data scenes --count 500
"""

from maskwise.data.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip
from maskwise.methods import rsis
from maskwise.recipes.run import Data, Optim, Run, Schedule, Synthetic, Watch

TINY, WHOLE = Scenes(size=(64, 64), count=(1, 3)), Scenes(size=(128, 128), count=(2, 6))


def tiny_rsis() -> Run[rsis.Config]:
    """RSIS on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    source = Synthetic(scenes=TINY, train=8, val=4)
    config = rsis.Config(num_classes=len(TINY.categories), backbone="resnet18", width=16, max_steps=4, encoder_rate=1.0)
    return Run(
        method="rsis",
        config=config,
        data=Data(source=source, change=(HorizontalFlip(),), view=(), batch=4, group_by_aspect=False, workers=0),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, clip=5.0),
        schedule=Schedule(epochs=2, kind="cosine", warmup=0),
        watch=Watch(log_steps=1),
    )


def rsis_scenes() -> Run[rsis.Config]:
    """RSIS on scenes of 128 x 128 pixels, from a phone's backbone with ImageNet weights."""
    config = rsis.Config(
        num_classes=len(WHOLE.categories),
        backbone="tf_efficientnet_lite0",
        weights="imagenet",
        width=64,
        max_steps=7,  # as many objects as there may be, and that there are none left
        class_weight=0.5,
        encoder_rate=0.5,
    )
    source = Synthetic(scenes=WHOLE, train=8000, val=200)
    return Run(
        method="rsis",
        config=config,
        data=Data(source=source, change=(HorizontalFlip(),), view=(), batch=8, group_by_aspect=False, workers=0),
        optim=Optim(kind="adamw", lr=1e-3, lr_batch=None, weight_decay=0.01, clip=5.0),
        schedule=Schedule(epochs=1, kind="cosine", warmup=100),
        watch=Watch(log_steps=50),
    )
