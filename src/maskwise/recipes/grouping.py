"""Scenes for methods that group pixels: tiny ones, to see that everything works, and some for two cores.

maskwise train discriminative_scenes
maskwise val --model runs/discriminative_scenes --data scenes --count 500
"""

from maskwise.methods import discriminative, spatial_embeddings
from maskwise.recipes.on_scenes import CLASSES, tiny, whole
from maskwise.recipes.run import Run


def tiny_discriminative() -> Run[discriminative.Config]:
    """Discriminative loss on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = discriminative.Config(num_classes=CLASSES, backbone="resnet18", width=32, leftover=20)
    return tiny("discriminative", config, lr=3e-3)


def tiny_spatial_embeddings() -> Run[spatial_embeddings.Config]:
    """Spatial embeddings on a handful of scenes of 64 x 64 pixels: it runs, and learns nothing much."""
    config = spatial_embeddings.Config(
        num_classes=CLASSES, width=32, unit=64.0, sigma_start=0.15, threshold=0.5, min_pixels=10
    )
    return tiny("spatial_embeddings", config, lr=3e-3)


def discriminative_scenes() -> Run[discriminative.Config]:
    """Discriminative loss on scenes of 128 x 128 pixels."""
    config = discriminative.Config(num_classes=CLASSES, backbone="resnet18", width=32, coordinates=True, leftover=20)
    return whole("discriminative", config, lr=2e-3, weight_decay=0.01)


def spatial_embeddings_scenes() -> Run[spatial_embeddings.Config]:
    """Spatial embeddings on scenes of 128 x 128 pixels; a Gaussian begins as wide as an object is on average."""
    config = spatial_embeddings.Config(
        num_classes=CLASSES,
        backbone="resnet18",
        width=32,
        unit=128.0,
        sigma_start=0.35,
        threshold=0.5,
        min_pixels=20,
    )
    return whole("spatial_embeddings", config, lr=2e-3, weight_decay=0.01)
