"""Scenarios that corrupt the training data on purpose: noisy labels and noisy correspondence.

What a recipe declares under ``setting`` is applied here to the training split alone; queries and database keep their
labels and pairs. Who is corrupted depends on the setting's own seed, never on the method's, so that all methods and
all their seeds meet the same noise.
"""

from __future__ import annotations

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


def noisy_pairs(pairs: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Return ``pairs`` (n_texts,), the image of each text, with a share ``rate`` of them permuted among each other.

    This is the noisy correspondence of NCR and its successors: some texts get the image of another text, and a few of
    them get their own back. The texts that a lower rate permutes are among those of a higher one.
    """
    rng = np.random.default_rng([seed, 1])
    chosen = rng.permutation(len(pairs))[: round(rate * len(pairs))]
    noisy = np.array(pairs)
    noisy[chosen] = pairs[rng.permutation(chosen)]
    return noisy
