"""LSSH: Latent Semantic Sparse Hashing for Cross-Modal Similarity Search (Zhou, Ding, Guo; SIGIR 2014).

Images have sparse codes S over a dictionary B, texts a low-rank factor Y with basis A, and R maps the first to the
second. With one column per item, columns of A, B and R of norm at most 1,

    min ||X - B S||^2 + rho |S|_1 + mu ||T - A Y||^2 + coupling ||Y - R S||^2

by turns. X are the first ``bits`` principal components of the (centred) images, T the texts; both get unit
length. A bit of a new image is sign(R s), s being its sparse code over B; of a new text sign of the ridge solution
(A'A + c I)^-1 A't with c = coupling / mu; of a pair, as the database holds them, sign of
(A'A + c I)^-1 (c R s + A't).

Followed from the authors' code: rho is not a fixed penalty but the fraction ``sparsity`` of the smallest one that
makes that item's code zero; sparse codes are ``lasso_iterations`` accelerated proximal steps from zero; the joint
codes of training pairs use the image's code over B alone. The code finds bases by Newton's method on the Lagrange
dual; here atoms are solved for in turn, on the same convex problem, and as there an atom that no item uses becomes
zero and stays so. Items of length zero stay zero (the code divides by it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import linalg

from cmrkit.methods.base import Embedder, Pairs


def unit_columns(X: np.ndarray) -> np.ndarray:
    """Return X (d, n) with columns of length 1, or 0 where they were 0."""
    length = np.linalg.norm(X, axis=0)
    return X / np.where(length > 0, length, 1)


def sparse_codes(A: np.ndarray, Y: np.ndarray, sparsity: float, iterations: int) -> np.ndarray:
    """Return S (atoms, n), near the minimiser of ``||y - A s||^2 / 2 + p |s|_1`` for each column of Y (d, n).

    The penalty p of a column is ``sparsity`` times its largest |A'y|.
    """
    batches = range(0, Y.shape[1], 128)  # so that a batch stays in the processor's cache
    return np.hstack([_fista(A, Y[:, i : i + 128], sparsity, iterations) for i in batches])


def _fista(A: np.ndarray, Y: np.ndarray, sparsity: float, iterations: int) -> np.ndarray:
    # Each column has its own step 1/L: L starts at 1 and rises until A stretches the step taken by no more than L.
    target = A.T @ Y
    penalty = sparsity * np.abs(target).max(axis=0)
    S, AS = np.zeros_like(target), np.zeros_like(Y)
    S_before, AS_before, L = S, AS, np.ones(Y.shape[1])
    alpha_before, alpha = 0.0, 1.0
    for _ in range(iterations):
        beta = (alpha_before - 1) / alpha
        point, A_point = S + beta * (S - S_before), AS + beta * (AS - AS_before)
        S_before, AS_before = S, AS
        gradient = A.T @ A_point - target
        S, AS = np.empty_like(S), np.empty_like(AS)
        todo = slice(None)
        while True:
            step = L[todo]
            moved = point[:, todo] - gradient[:, todo] / step
            bound = penalty[todo] / step
            moved -= np.clip(moved, -bound, bound)
            S[:, todo], AS[:, todo] = moved, A @ moved
            length = np.square(moved - point[:, todo]).sum(axis=0)
            stretched = np.square(AS[:, todo] - A_point[:, todo]).sum(axis=0)
            short = (length > 1e-20) & (stretched > length * step)
            if not short.any():
                break
            todo = np.arange(len(L))[todo][short]
            L[todo] = np.maximum(2 * L[todo], stretched[short] / length[short])
        alpha_before, alpha = alpha, (1 + np.sqrt(4 * alpha**2 + 1)) / 2
    return S


def bounded_basis(X: np.ndarray, S: np.ndarray, start: np.ndarray, sweeps: int = 200) -> np.ndarray:
    """Return the basis B (d, atoms), columns of norm at most 1, that minimises ``||X - B S||^2``.

    X is (d, n), S (atoms, n). One atom at a time is solved and projected, from ``start``, until a sweep
    moves no atom by more than 1e-6. Atoms that S does not use are zero.
    """
    used = np.flatnonzero(S.any(axis=1))
    gram, cross = S[used] @ S[used].T, X @ S[used].T
    columns = np.ascontiguousarray(start[:, used].T)
    for _ in range(sweeps):
        moved = 0.0
        for j, row in enumerate(gram):
            atom = columns[j] + (cross[:, j] - row @ columns) / row[j]
            atom /= max(1.0, np.sqrt(atom @ atom))
            moved = max(moved, np.abs(atom - columns[j]).max())
            columns[j] = atom
        if moved < 1e-6:
            break
    B = np.zeros_like(start)
    B[:, used] = columns.T
    return B


@dataclass(kw_only=True)
class Lssh(Embedder):
    """LSSH. ``sample`` caps the training pairs, drawn at random."""

    space: ClassVar[str] = "hamming"

    bits: int
    atoms: int = 512
    mu: float = 0.5
    sparsity: float = 0.2
    coupling: float = 1.0
    iterations: int = 20
    lasso_iterations: int = 30
    sample: int = 10000

    def fit(self, train: Pairs) -> Lssh:
        """Learn the bases; leaves the training pairs' joint codes. Components are at most the image features."""
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(train))[: self.sample])
        components = min(self.bits, train.image.shape[1])
        directions = np.linalg.eigh(np.cov(train.image[chosen].T))[1]
        self.components_ = directions[:, ::-1][:, :components]
        X = unit_columns(self.components_.T @ train.image[chosen].T)
        T = unit_columns(train.text[chosen].T)
        self.text_basis_ = rng.standard_normal((len(T), self.bits))
        self.dictionary_ = rng.standard_normal((len(X), self.atoms))
        self.map_ = rng.standard_normal((self.bits, self.atoms))
        self.learn(X, T)
        joint = self.latent(self.map_ @ self._image_codes(train.image), unit_columns(train.text.T))
        self.image_codes_ = self.text_codes_ = _codes(joint)
        return self

    def learn(self, X: np.ndarray, T: np.ndarray) -> None:
        """Alternate Y, A, S, B and R, from the bases as they are."""
        S = sparse_codes(self.dictionary_, X, self.sparsity, self.lasso_iterations)
        root = np.sqrt(self.coupling)
        for _ in range(self.iterations):
            Y = self.latent(self.map_ @ S, T)
            self.text_basis_ = bounded_basis(T, Y, self.text_basis_)
            stacked = np.vstack([self.dictionary_, root * self.map_])
            S = sparse_codes(stacked, np.vstack([X, root * Y]), self.sparsity, self.lasso_iterations)
            self.dictionary_ = bounded_basis(X, S, self.dictionary_)
            self.map_ = bounded_basis(Y, S, self.map_)

    def latent(self, mapped: np.ndarray, T: np.ndarray) -> np.ndarray:
        """Return the Y (bits, n) that fits texts T (d, n) and mapped image codes R S (bits, n), which may be 0."""
        A, c = self.text_basis_, self.coupling / self.mu
        return linalg.solve(A.T @ A + c * np.eye(self.bits), c * mapped + A.T @ T, assume_a="pos")

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return _codes(self.map_ @ self._image_codes(x))

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return _codes(self.latent(0, unit_columns(y.T)))

    def _image_codes(self, x: np.ndarray) -> np.ndarray:
        X = unit_columns(self.components_.T @ x.T)
        return sparse_codes(self.dictionary_, X, self.sparsity, self.lasso_iterations)


def _codes(columns: np.ndarray) -> np.ndarray:
    return np.where(columns.T > 0, 1, -1).astype(np.int8)
