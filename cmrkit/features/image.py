"""Classic image features: colours and edges, counted in the cells of an image."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

HUES = 12
GREYS = 4
ORIENTATIONS = 8
COLOUR_BINS = 2 * HUES + GREYS
EDGE_BINS = ORIENTATIONS + 1
COLOR_EDGE_DIM = 4 * (COLOUR_BINS + EDGE_BINS)
FLAT = 12.0  # gradient magnitude, in grey levels per pixel, below which there is no edge


def color_edge_hist(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return (n, 148) float32 histograms of uint8 RGB images (height, width, 3), which may differ in size.

    They are those of the four quarters of the image, one after the other; see `color_edge_grid`.
    """
    rows = [_histograms(image, 2).ravel() for image in images]
    return np.array(rows, dtype=np.float32).reshape(len(rows), COLOR_EDGE_DIM)


def color_edge_grid(images: Iterable[np.ndarray], cells: int) -> np.ndarray:
    """Return (n, cells * cells, 37) float32 histograms of the cells of uint8 RGB images, row after row of cells.

    Each cell gives 28 colour bins (12 hues, each pale and strong, and 4 greys) and 9 edge bins (8 orientations
    weighted by gradient magnitude, and the share of pixels without an edge). The colour bins of a cell sum
    to 1, the orientations to 1 or, where nothing changes at all, 0.
    """
    rows = [_histograms(image, cells) for image in images]
    return np.array(rows, dtype=np.float32).reshape(len(rows), cells * cells, COLOUR_BINS + EDGE_BINS)


def _histograms(image: np.ndarray, cells: int) -> np.ndarray:
    cell, n = _cells(*image.shape[:2], cells), cells * cells
    orientation, magnitude = _edges(image)
    colours = _counts(cell, n, _colour_bins(image), COLOUR_BINS)
    edges = _counts(cell, n, orientation, ORIENTATIONS, magnitude)
    flat = _counts(cell, n, magnitude < FLAT, 2)[:, 1:]
    return np.concatenate([colours, edges, flat], axis=1)


@lru_cache(maxsize=8)
def _cells(height: int, width: int, cells: int) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return cells * (cells * y // height) + cells * x // width


def _counts(cell: np.ndarray, n: int, bins: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return (n, size) histograms whose rows sum to 1, or to 0 where nothing was counted."""
    weights = None if weights is None else weights.ravel()
    counts = np.bincount((cell * size + bins).ravel(), weights, minlength=n * size).reshape(n, size)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)


def _colour_bins(image: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(image >> 3, 2, 0).astype(np.intp)
    return _colour_table()[(red << 10) | (green << 5) | blue]


@lru_cache(maxsize=1)
def _colour_table() -> np.ndarray:
    """Return the bin of each RGB colour of 5 bits a channel: 0-11 pale hues, 12-23 strong hues, 24-27 greys."""
    red, green, blue = (8.0 * np.indices((32, 32, 32)) + 4).reshape(3, -1)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = np.maximum(high - low, 1)
    sixth = np.select(
        [high == red, high == green],
        [(green - blue) / chroma, 2 + (blue - red) / chroma],
        4 + (red - green) / chroma,
    )
    hue = np.floor(sixth * (HUES / 6) + 0.5).astype(np.intp) % HUES
    saturation = (high - low) / high
    grey = 2 * HUES + (high * GREYS // 256).astype(np.intp)
    return np.where(saturation < 0.25, grey, hue + HUES * (saturation >= 0.6))


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's edge orientation bin and gradient magnitude, of the smoothed brightness in 0-255."""
    from scipy.ndimage import uniform_filter

    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    down, across = np.gradient(uniform_filter(grey, 3))
    turn = np.arctan2(down, across) * (ORIENTATIONS / np.pi)  # an edge and its reverse are one orientation
    return np.floor(turn).astype(np.intp) % ORIENTATIONS, np.hypot(down, across)
