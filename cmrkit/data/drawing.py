"""Drawing shapes and textures with integers alone, so that every machine gets the same bytes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

KINDS = ("circle", "ring", "square", "frame", "diamond", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted", "shaded")


@lru_cache(maxsize=256)
def mask(kind: str, radius: int, flipped: bool = False) -> np.ndarray:
    """Return a shape as a read-only bool array (2 * radius + 1, 2 * radius + 1)."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    if flipped:
        y = -y
    across, down = np.abs(x), np.abs(y)
    squared = x * x + y * y
    wider, narrower = np.maximum(across, down), np.minimum(across, down)
    shape = {
        "circle": squared <= radius * radius,
        "ring": (squared <= radius * radius) & (100 * squared >= 36 * radius * radius),
        "square": 10 * wider <= 8 * radius,
        "frame": (10 * wider <= 8 * radius) & (10 * wider >= 5 * radius),
        "diamond": across + down <= radius,
        "triangle": 2 * across <= y + radius,
        "star": ((2 * across <= y + radius) & (2 * y <= radius)) | ((2 * across <= radius - y) & (2 * y >= -radius)),
        "cross": 3 * narrower <= radius,
    }[kind]
    shape.setflags(write=False)
    return shape


def paint(canvas: np.ndarray, shape: np.ndarray, y: int, x: int, colour: tuple[int, int, int]) -> None:
    """Colour ``shape``, centred at (y, x), on a canvas (height, width, 3); what lies outside is cut off."""
    radius = len(shape) // 2
    top, left = max(y - radius, 0), max(x - radius, 0)
    area = canvas[top : y + radius + 1, left : x + radius + 1]
    start = (top - y + radius, left - x + radius)
    area[shape[start[0] : start[0] + area.shape[0], start[1] : start[1] + area.shape[1]]] = colour


def texture(kind: str, size: int, period: int, slant: int) -> np.ndarray:
    """Return a pattern (size, size) of int16 offsets from -16 to 16. ``slant`` turns stripes and shading."""
    y, x = np.mgrid[0:size, 0:size].astype(np.int16)
    along = (x, y, x + y, x - y)[slant % 4]
    if kind == "striped":
        return np.where(along // period % 2, 16, -16).astype(np.int16)
    if kind == "checked":
        return np.where((x // period + y // period) % 2, 16, -16).astype(np.int16)
    if kind == "dotted":
        dy, dx = y % period - period // 2, x % period - period // 2
        return np.where(9 * (dy * dy + dx * dx) <= period * period, 16, -8).astype(np.int16)
    if kind == "shaded":
        low = int(along.min())
        return ((along - low) * 32 // (int(along.max()) - low) - 16).astype(np.int16)
    return np.zeros((size, size), dtype=np.int16)
