"""Random changes of training images, the same for the same generator: crops, flips and RandAugment.

A chain is written as ``crop:0.5:1.0,flip,randaug:2:7``: a random part of 50 to 100 % of the area, resized; a mirror
image half of the time; two operations at magnitude 7 of 10, each applied half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cmrkit.errors import UsageError

Generator = np.random.Generator
GREY = (128, 128, 128)


def parse_chain(text: str, size: int, resample: Image.Resampling) -> list[Callable[[Image.Image, Generator], Any]]:
    """Return the changes named in ``text``, in order. Raises UsageError for one that is unknown or malformed."""
    chain = []
    for part in filter(None, text.split(",")):
        name, *values = part.split(":")
        try:
            numbers = [float(v) for v in values]
            if name == "crop":
                low, high = numbers
                chain.append(lambda image, rng, a=low, b=high: random_crop(image, rng, size, (a, b), resample))
            elif name == "flip" and not numbers:
                chain.append(random_flip)
            elif name == "randaug":
                count, magnitude = numbers
                chain.append(lambda image, rng, n=int(count), m=magnitude: randaugment(image, rng, n, m))
            else:
                raise ValueError
        except ValueError:
            raise UsageError(f"train.augment: {part!r} is not crop:MIN:MAX, flip or randaug:COUNT:MAGNITUDE") from None
    return chain


def random_crop(
    image: Image.Image, rng: Generator, size: int, scale: tuple[float, float], resample: Image.Resampling
) -> Image.Image:
    """Return a random part with ``scale`` of the area and sides 3:4 to 4:3, resized to ``size`` x ``size``."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # as common libraries do: the largest middle part of an allowed shape
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return image.resize((size, size), resample, box=(left, top, left + w, top + h))
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return image.resize((size, size), resample, box=(left, top, left + w, top + h))


def random_flip(image: Image.Image, rng: Generator) -> Image.Image:
    """Return the image or, half of the time, its mirror image."""
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def randaugment(image: Image.Image, rng: Generator, count: int, magnitude: float) -> Image.Image:
    """Return the image after ``count`` operations at ``magnitude`` of 10, each applied half of the time.

    The operations and their ranges are those of ALBEF's and BLIP's code: no colour changes, which captions name.
    """
    for _ in range(count):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        if rng.random() < 0.5:
            image = operation(image, magnitude / 10, -1 if rng.random() < 0.5 else 1)
    return image


def _affine(image: Image.Image, a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1, f: float = 0):
    return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), fillcolor=GREY)


OPERATIONS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda image, level, sign: image,
    lambda image, level, sign: ImageOps.autocontrast(image),
    lambda image, level, sign: ImageOps.equalize(image),
    lambda image, level, sign: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * level),
    lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level),
    lambda image, level, sign: _affine(image, b=sign * 0.3 * level),
    lambda image, level, sign: _affine(image, d=sign * 0.3 * level),
    lambda image, level, sign: _affine(image, c=sign * 10 * level),
    lambda image, level, sign: _affine(image, f=sign * 10 * level),
    lambda image, level, sign: image.rotate(sign * 30 * level, fillcolor=GREY),
)
