"""Classic image features: colours and edges, counted in the four quarters of an image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

HUES = 12
GREYS = 4
ORIENTATIONS = 8
COLOUR_BINS = 2 * HUES + GREYS
EDGE_BINS = ORIENTATIONS + 1
COLOR_EDGE_DIM = 4 * (COLOUR_BINS + EDGE_BINS)


def color_edge_hist(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return (n, 148) float32 histograms of uint8 RGB images (height, width, 3), which may differ in size.

    Each quarter of the image gives 28 colour bins (12 hues in a pale and a strong variant, 4 greys) and 9 edge
    bins (8 orientations weighted by gradient magnitude, and the share of pixels without an edge). The colour
    bins of a quarter sum to 1, the orientations to 1 or, where there is no edge, 0.
    """
    rows = [_histograms(image) for image in images]
    return np.array(rows, dtype=np.float32).reshape(len(rows), COLOR_EDGE_DIM)


def _histograms(image: np.ndarray) -> np.ndarray:
    quarter = _quarters(*image.shape[:2])
    orientation, magnitude = _edges(image)
    colours = _counts(quarter, _colour_bins(image), COLOUR_BINS)
    edges = _counts(quarter, orientation, ORIENTATIONS, magnitude)
    flat = _counts(quarter, (magnitude < 24).astype(np.intp), 2)[:, 1:]
    return np.concatenate([colours, edges, flat], axis=1).ravel()


def _quarters(height: int, width: int) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return 2 * (2 * y >= height) + (2 * x >= width)


def _counts(quarter: np.ndarray, bins: np.ndarray, n: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return (4, n) histograms whose rows sum to 1, or to 0 where nothing was counted."""
    weights = None if weights is None else weights.ravel()
    counts = np.bincount((quarter * n + bins).ravel(), weights, minlength=4 * n).reshape(4, n)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)


def _colour_bins(image: np.ndarray) -> np.ndarray:
    """Return the colour bin of each pixel: 0-11 pale hues, 12-23 strong hues, 24-27 greys."""
    red, green, blue = np.moveaxis(image.astype(np.int32), 2, 0)
    high, low = image.max(axis=2).astype(np.int32), image.min(axis=2).astype(np.int32)
    chroma = np.maximum(high - low, 1)
    sixth = np.select(
        [high == red, high == green],
        [(green - blue) / chroma, 2 + (blue - red) / chroma],
        4 + (red - green) / chroma,
    )
    hue = np.floor((sixth % 6) * (HUES / 6)).astype(np.intp) % HUES
    saturation = (high - low) / np.maximum(high, 1)
    grey = 2 * HUES + high * GREYS // 256
    return np.where(saturation < 0.25, grey, hue + HUES * (saturation >= 0.6))


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's edge orientation bin and gradient magnitude, of the brightness in 0-255."""
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    down, across = np.gradient(_smoothed(grey))
    turn = np.arctan2(down, across) / np.pi % 1.0  # an edge and its reverse are one orientation
    return np.floor(turn * ORIENTATIONS).astype(np.intp) % ORIENTATIONS, np.hypot(down, across)


def _smoothed(grey: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(grey, 1.0)
