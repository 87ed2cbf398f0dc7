"""Scenarios that make training harder on purpose: noisy labels, noisy correspondence, data that arrive in rounds.

What a recipe declares under ``setting`` is applied here to the training split alone; queries and database keep their
labels and pairs. Who is corrupted, and what arrives when, depends on the setting's own seed, never on the method's,
so that all methods and all their seeds meet the same noise and the same stream.
"""

from __future__ import annotations

from typing import Literal

import numpy as np


def noisy_labels(labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Return multi-hot ``labels`` (n, classes) of which a share ``rate`` of the rows is drawn anew: symmetric noise.

    A row keeps its number of labels, and which they are is uniform over all classes, the true ones included, as the
    code of this field draws it (DivideMix, MRL): of n rows with one label, ``rate`` (classes - 1) / classes n end up
    wrong on average. All images are drawn in one order and all labels in another, so the rows that a lower rate
    corrupts are corrupted alike by a higher one.
    """
    rng = np.random.default_rng([seed, 0])
    order, classes = rng.permutation(len(labels)), rng.random(labels.shape).argsort(axis=1)
    chosen = order[: round(rate * len(labels))]
    drawn = np.zeros_like(labels)
    np.put_along_axis(drawn, classes, np.arange(labels.shape[1]) < labels.sum(1, keepdims=True), axis=1)
    noisy = np.array(labels)
    noisy[chosen] = drawn[chosen]
    return noisy


def noisy_pairs(pairs: np.ndarray, rate: float, seed: int, unit: Literal["text", "image"] = "text") -> np.ndarray:
    """Return ``pairs`` (n_texts,), the image of each text, with a share ``rate`` of them permuted among each other.

    This is noisy correspondence: some texts get the image of another text, and a few of them get their own back. With
    ``unit`` "image" a share of the images is permuted, and all texts of an image move together, as in the code of NCR
    and its successors. What a lower rate permutes is among what a higher one does.
    """
    rng = np.random.default_rng([seed, 1])
    images = pairs if unit == "text" else np.arange(pairs.max() + 1)
    chosen = rng.permutation(len(images))[: round(rate * len(images))]
    noisy = np.array(images)
    noisy[chosen] = images[rng.permutation(chosen)]
    return noisy if unit == "text" else noisy[pairs]


def rounds(pairs: np.ndarray, chunk: int, seed: int) -> list[np.ndarray]:
    """Return the rows of ``pairs`` (n_texts,), the image of each text, in the rounds in which they arrive.

    Images arrive in random order, ``chunk`` a round, each with all its texts. There are floor(n_images / chunk) rounds,
    but at least one, and the last takes what is left over, as in the code of online hashing (LEMON).
    """
    count = int(pairs.max()) + 1
    arrival = np.random.default_rng([seed, 2]).permutation(count)
    number = np.minimum(arrival // chunk, max(count // chunk, 1) - 1)[pairs]
    return [np.flatnonzero(number == k) for k in range(number.max() + 1)]
