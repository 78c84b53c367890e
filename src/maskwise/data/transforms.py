"""Random changes of a sample. Each is a small frozen dataclass that is called with a sample and a `torch.Generator`.

The generator is the only chance: the same one gives the same result, in any process. What the changes do is in
`geometry`; here is what is drawn. Pixels may be bytes or numbers in 0..1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, exp, floor, log

import torch
from torch import Generator
from torchvision.transforms.v2 import functional

from maskwise.data import geometry
from maskwise.data.chance import happens, uniform, whole
from maskwise.data.sample import Pixels, Sample
from maskwise.rle import Size

Transform = Callable[[Sample, Generator], Sample]


def compose(*transforms: Transform) -> Transform:
    """One after another."""
    return partial(_in_turn, transforms)


def _in_turn(transforms: tuple[Transform, ...], sample: Sample, generator: Generator) -> Sample:
    for transform in transforms:
        sample = transform(sample, generator)
    return sample


# Size


def fitted(size: Size, *, short: int, long: int | None = None) -> Size:
    """The size with a short side of `short`, or smaller where the long side would pass `long`; no side below 1."""
    factor = short / min(size)
    if long is not None:
        factor = min(factor, long / max(size))
    return _times(size, factor)


def _times(size: Size, factor: float) -> Size:
    return max(1, floor(size[0] * factor + 0.5)), max(1, floor(size[1] * factor + 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """To one short side, as in Fast R-CNN. Draws nothing."""

    short: int = 800
    long: int | None = 1333

    def __post_init__(self) -> None:
        _check(self.short >= 1 and (self.long is None or self.long >= 1), f"sides of at least 1, got {self}")

    def __call__(self, sample: Sample, _: Generator | None = None) -> Sample:
        return geometry.resize(sample, fitted(sample.size, short=self.short, long=self.long))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomResize:
    """To a short side between two, both included, all equally likely."""

    short: tuple[int, int] = (640, 800)
    long: int | None = 1333

    def __post_init__(self) -> None:
        _check(1 <= self.short[0] <= self.short[1], f"short sides from 1 on, the smaller first, got {self.short}")
        _check(self.long is None or self.long >= 1, f"a long side of at least 1, got {self.long}")

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        short = whole(generator, *self.short)
        return geometry.resize(sample, fitted(sample.size, short=short, long=self.long))


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarge:
    """Small pictures to a short side, others as they are: for objects of a few pixels. Draws nothing.

    The long side grows to four times that at most: a strip of a few rows must not become a hundred million pixels.
    """

    short: int = 512

    def __post_init__(self) -> None:
        _check(self.short >= 1, f"a side of at least 1, got {self.short}")

    def __call__(self, sample: Sample, _: Generator | None = None) -> Sample:
        size = self.enlarged(sample.size)
        return sample if size == sample.size else geometry.resize(sample, size)

    def enlarged(self, size: Size) -> Size:
        short = max(self.short, min(size))
        return fitted(size, short=short, long=max(4 * self.short, *size))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomScale:
    """Larger or smaller by a factor between two, by twice as likely as by half."""

    factor: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        _check(0 < self.factor[0] <= self.factor[1], f"factors above 0, the smaller first, got {self.factor}")

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        factor = exp(uniform(generator, *(log(bound) for bound in self.factor)))
        return geometry.resize(sample, _times(sample.size, factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021): fit the picture into `size` times a factor, then show a frame of `size`.

    A picture larger than the frame is cut at a random place, a smaller one lies in the left upper corner on grey.
    """

    size: Size = (1024, 1024)
    factor: tuple[float, float] = (0.1, 2.0)
    """The usual choices are 0.1 to 2 and, for short training, 0.8 to 1.25."""
    least_left: float = 0.0
    """Share of an instance that must stay in the frame."""
    fill: float = 0.5

    def __post_init__(self) -> None:
        _check(min(self.size) >= 1, f"a frame of at least 1 x 1, got {self.size}")
        _check(0 < self.factor[0] <= self.factor[1], f"factors above 0, the smaller first, got {self.factor}")
        _check_share(self.least_left, self.fill)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        factor = uniform(generator, *self.factor)
        fit = min(frame / side for frame, side in zip(self.size, sample.size, strict=True))
        resized = geometry.resize(sample, _times(sample.size, fit * factor))
        y0, x0 = (
            whole(generator, 0, max(0, side - frame)) for side, frame in zip(resized.size, self.size, strict=True)
        )
        return geometry.crop(resized, x0, y0, self.size, least_left=self.least_left, fill=self.fill)


# Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """A random frame of `size`, or of the picture's side where that is smaller."""

    size: Size
    keep_one: bool = False
    """Among the frames that show something of one instance, drawn at random, that is no crowd."""
    least_left: float = 0.0
    """Share of an instance that must stay in the frame; nothing is asked where `keep_one` would not hold."""

    def __post_init__(self) -> None:
        _check(min(self.size) >= 1, f"a frame of at least 1 x 1, got {self.size}")
        _check_share(self.least_left)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        frame = min(self.size[0], sample.size[0]), min(self.size[1], sample.size[1])
        return _random_crop(sample, frame, self.keep_one, self.least_left, generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRelativeCrop:
    """A random frame whose height and width are each a random share of the picture's."""

    share: tuple[float, float] = (0.5, 1.0)
    keep_one: bool = False
    least_left: float = 0.0

    def __post_init__(self) -> None:
        _check(0 < self.share[0] <= self.share[1] <= 1, f"shares above 0 up to 1, the smaller first, got {self.share}")
        _check_share(self.least_left)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        h, w = (max(1, round(side * uniform(generator, *self.share))) for side in sample.size)
        return _random_crop(sample, (h, w), self.keep_one, self.least_left, generator)


def _random_crop(sample: Sample, frame: Size, keep_one: bool, least_left: float, generator: Generator) -> Sample:
    (h, w), (height, width) = frame, sample.size
    must = _random_pixel(sample, generator) if keep_one else None
    x, y = must or (None, None)
    x0, y0 = _start(generator, w, width, x), _start(generator, h, height, y)
    cut = geometry.crop(sample, x0, y0, frame, least_left=least_left)
    if must and not (~cut.targets.crowd).any():
        return geometry.crop(sample, x0, y0, frame)
    return cut


def _start(generator: Generator, length: int, side: int, must: int | None) -> int:
    """Where a stretch of `length` begins on a side, so that it holds the pixel `must`."""
    if must is None:
        return whole(generator, 0, side - length)
    return whole(generator, max(0, must - length + 1), min(must, side - length))


def _random_pixel(sample: Sample, generator: Generator) -> tuple[int, int] | None:
    """x and y of a pixel of an instance that is no crowd."""
    targets = sample.targets
    which = torch.where(~targets.crowd & (targets.masks.area() > 0))[0]
    if not len(which):
        return None
    window = targets.masks[which[whole(generator, 0, len(which) - 1)][None]].crops()[0]
    rows, columns = window.bits.nonzero()
    i = whole(generator, 0, len(rows) - 1)
    return window.x0 + int(columns[i]), window.y0 + int(rows[i])


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizontalFlip:
    probability: float = 0.5
    keypoints: tuple[int, ...] = ()
    """Which keypoint each becomes: `Categories.keypoint_flip`. Needed for samples with keypoints."""
    parts: tuple[int, ...] = ()
    """Which part label each becomes; none given: labels stay."""

    def __post_init__(self) -> None:
        _check_share(self.probability)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return _flipped(geometry.flip_horizontal, self, sample, generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerticalFlip:
    probability: float = 0.5
    keypoints: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_share(self.probability)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return _flipped(geometry.flip_vertical, self, sample, generator)


def _flipped(
    flip: Callable[..., Sample], how: HorizontalFlip | VerticalFlip, sample: Sample, generator: Generator
) -> Sample:
    return flip(sample, keypoints=how.keypoints, parts=how.parts) if happens(generator, how.probability) else sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RightAngles:
    """By 0, 90, 180 or 270 degrees, equally likely."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return geometry.rotate(sample, whole(generator, 0, 3))


# Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourJitter:
    """Each factor is drawn from 1 - x to 1 + x, the turn of the hue from -x to x; their order is random too."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """In turns: 0.5 reaches every colour."""

    def __post_init__(self) -> None:
        _check_share(self.brightness, self.contrast, self.saturation)
        _check(0 <= self.hue <= 0.5, f"a hue from 0 to 0.5, got {self.hue}")

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        changes: tuple[tuple[Callable[[Pixels, float], Pixels], float, float], ...] = (
            (functional.adjust_brightness, 1, self.brightness),
            (functional.adjust_contrast, 1, self.contrast),
            (functional.adjust_saturation, 1, self.saturation),
            (functional.adjust_hue, 0, self.hue),
        )
        pixels = sample.pixels
        for i in torch.randperm(len(changes), generator=generator).tolist():
            change, middle, most = changes[i]
            value = uniform(generator, middle - most, middle + most)
            pixels = change(pixels, value) if most else pixels
        return replace(sample, pixels=pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invert:
    """Dark becomes bright, as between kinds of microscopes."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share(self.probability)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if not happens(generator, self.probability):
            return sample
        return replace(sample, pixels=functional.invert(sample.pixels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """Gaussian, with a standard deviation in pixels between two."""

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check(0 < self.sigma[0] <= self.sigma[1], f"deviations above 0, the smaller first, got {self.sigma}")
        _check_share(self.probability)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if not happens(generator, self.probability):
            return sample
        sigma = uniform(generator, *self.sigma)
        # The blur mirrors the picture at its border, which a picture of fewer pixels than the reach cannot give.
        reach = min(ceil(3 * sigma), min(sample.size) - 1)
        side = 2 * reach + 1
        return replace(sample, pixels=functional.gaussian_blur(sample.pixels, [side, side], [sigma, sigma]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gaussian, each pixel and colour by itself, with a standard deviation between two in units of the full range."""

    sigma: tuple[float, float] = (0.0, 0.1)
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check(0 <= self.sigma[0] <= self.sigma[1], f"deviations from 0 on, the smaller first, got {self.sigma}")
        _check_share(self.probability)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if not happens(generator, self.probability):
            return sample
        sigma, most = uniform(generator, *self.sigma), 255 if sample.pixels.dtype == torch.uint8 else 1
        noise = torch.randn(sample.pixels.shape, generator=generator) * (sigma * most)
        noisy = (sample.pixels + noise).clamp(0, most)
        pixels = noisy.round().to(torch.uint8) if most == 255 else noisy.to(sample.pixels.dtype)
        return replace(sample, pixels=pixels)


def _check_share(*values: float) -> None:
    _check(all(0 <= value <= 1 for value in values), f"a share from 0 to 1, got {', '.join(map(str, values))}")


def _check(holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"expected {expected}")
