"""Named feature transformations whose statistics come from the training split alone."""

from __future__ import annotations

import numpy as np

FITTED = {"center": ("mean",), "zscore": ("mean", "scale")}


def fit_preprocess(names: list[str], x: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the state of each named transformation, fitted in order on ``x`` (n, d)."""
    states = []
    for name in names:
        state = {}
        if name in FITTED:
            state["mean"] = x.mean(axis=0)
        if name == "zscore":
            deviation = x.std(axis=0)
            # A constant column stays zero; its computed deviation may be off zero by rounding.
            constant = deviation <= 1e-12 * np.abs(x).max(axis=0)
            state["scale"] = np.where(constant, 1.0, deviation)
        states.append(state)
        x = _apply(name, state, x)
    return states


def apply_preprocess(names: list[str], states: list[dict[str, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Return ``x`` (n, d) as float64 after each named transformation."""
    x = np.asarray(x, dtype=np.float64)
    for name, state in zip(names, states, strict=True):
        x = _apply(name, state, x)
    return x


def _apply(name: str, state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    if name == "center":
        return x - state["mean"]
    if name == "zscore":
        return (x - state["mean"]) / state["scale"]
    if name == "sqrt":
        return np.sign(x) * np.sqrt(np.abs(x))
    norm = np.abs(x).sum(axis=1) if name == "l1" else np.linalg.norm(x, axis=1)
    return x / np.where(norm > 0, norm, 1.0)[:, None]
