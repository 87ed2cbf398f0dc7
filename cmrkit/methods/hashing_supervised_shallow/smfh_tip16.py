"""SMFH: Supervised Matrix Factorization Hashing for Cross-Modal Retrieval (Tang, Wang, Shao; TIP 2016).

Not to be confused with the SMFH of Liu et al., IJCAI 2016. Image features X_1 and text features X_2 (n, d_v) share
one latent S (n, r), which is smooth on a graph of image neighbours, text neighbours and common labels and which
each modality's hash function P_v (d_v, r) predicts:

    min sum_v alpha_v ||X_v - S U_v||^2 + beta sum_v ||S - X_v P_v||^2 + gamma tr(S' L S)
        + regularisation (sum_v ||U_v||^2 + ||S||^2 + sum_v ||P_v||^2),   alpha_2 = 1 - alpha_1

L is the sum of three Laplacians: of the two symmetric 0/1 k-nearest-neighbour graphs, and of the number of labels
that two items share. Each step has a closed form, so the objective never increases; training stops when it falls by
less than ``tolerance``. Codes are the signs of S (and of X_v P_v) about the mean of S.

The S step is a Sylvester equation. The published code solves it by dense factorisation in O(n^3); here conjugate
gradients use that L is sparse plus low rank, which gives the same S in linear time. Items at distance zero count
as neighbours; in the published code they do so only by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.neighbors import NearestNeighbors

from cmrkit.errors import CmrkitError
from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.linear import ridge


def neighbour_laplacian(x: np.ndarray, neighbours: int) -> csr_array:
    """Return the Laplacian (n, n) of the symmetric 0/1 nearest-neighbour graph of the rows of ``x`` (n, d)."""
    k = min(neighbours, len(x) - 1)
    W = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors_graph()
    return csr_array(laplacian(W.maximum(W.T)))


@dataclass(frozen=True)
class Graph:
    """The joint Laplacian ``neighbours + diag(Y Y'1) - Y Y'``, kept as its sparse part and the labels Y (n, c)."""

    neighbours: csr_array
    labels: np.ndarray

    @property
    def degrees(self) -> np.ndarray:
        """Row sums (n, 1) of the label graph."""
        return self.labels @ self.labels.sum(axis=0)[:, None]

    def diagonal(self) -> np.ndarray:
        """Diagonal (n, 1) of the joint Laplacian."""
        own = np.square(self.labels).sum(axis=1, keepdims=True)
        return self.neighbours.diagonal()[:, None] + self.degrees - own

    def __matmul__(self, S: np.ndarray) -> np.ndarray:
        return self.neighbours @ S + self.degrees * S - self.labels @ (self.labels.T @ S)


def solve_latent(A: np.ndarray, graph: Graph, gamma: float, C: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the S (n, r) with S A + gamma L S = C, for positive definite A (r, r).

    In the eigenvectors of A the columns of S part, each a well-conditioned symmetric system; conjugate gradients
    solve all at once. Raises CmrkitError if they do not converge.
    """
    shifts, Q = np.linalg.eigh(A)
    scale = 1 / (shifts + gamma * graph.diagonal())
    n, r = shape = C.shape

    def apply(s: np.ndarray) -> np.ndarray:
        S = s.reshape(shape)
        return (S * shifts + gamma * (graph @ S)).ravel()

    operator = LinearOperator((n * r, n * r), matvec=apply, dtype=np.float64)
    jacobi = LinearOperator((n * r, n * r), matvec=lambda s: s * scale.ravel(), dtype=np.float64)
    s, failed = cg(operator, (C @ Q).ravel(), x0=(start @ Q).ravel(), rtol=1e-9, maxiter=1000, M=jacobi)
    if failed:
        raise CmrkitError("SMFH: the latent factors did not converge in 1000 conjugate-gradient steps; lower gamma")
    return s.reshape(shape) @ Q.T


@dataclass(kw_only=True)
class SmfhTip16(Embedder):
    """SMFH. ``alpha`` weighs the image factorisation, ``neighbours`` is k of both nearest-neighbour graphs."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    alpha: float = 0.5
    beta: float = 100.0
    gamma: float = 1.0
    regularisation: float = 0.01
    neighbours: int = 5
    tolerance: float = 1.0

    def fit(self, train: Pairs) -> SmfhTip16:
        """Learn codes (n, bits) shared by both modalities, and linear hash functions. Features should be centred."""
        labels = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        graph = Graph(sum(neighbour_laplacian(x, self.neighbours) for x in (train.image, train.text)), labels)
        S = rng.random((len(train), self.bits))
        P = [rng.random((x.shape[1], self.bits)) for x in (train.image, train.text)]
        previous = np.inf
        while True:
            S, P, objective = self.step((train.image, train.text), graph, S, P)
            if previous - objective < self.tolerance:
                break
            previous = objective
        self.offset_ = S.mean(axis=0)
        self.image_codes_ = self.text_codes_ = sign(S - self.offset_)
        self.image_hash_, self.text_hash_ = P
        return self

    def step(
        self, views: tuple[np.ndarray, np.ndarray], graph: Graph, S: np.ndarray, P: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray], float]:
        """Renew U, S and P in turn; returns S (n, r), both P (d_v, r) and the objective."""
        weights = (self.alpha, 1 - self.alpha)
        U = [ridge(S, X, self.regularisation / a) for X, a in zip(views, weights, strict=True)]
        A = (2 * self.beta + self.regularisation) * np.eye(self.bits)
        C = np.zeros_like(S)
        for X, a, u, p in zip(views, weights, U, P, strict=True):
            A += a * u @ u.T
            C += a * X @ u.T + self.beta * X @ p
        S = solve_latent(A, graph, self.gamma, C, S)
        P = [ridge(X, S, self.regularisation / self.beta) for X in views]
        objective = self.gamma * np.sum(S * (graph @ S)) + self.regularisation * np.sum(S**2)
        for X, a, u, p in zip(views, weights, U, P, strict=True):
            objective += a * np.sum((X - S @ u) ** 2) + self.beta * np.sum((S - X @ p) ** 2)
            objective += self.regularisation * (np.sum(u**2) + np.sum(p**2))
        return S, P, float(objective)

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_ - self.offset_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_ - self.offset_)
