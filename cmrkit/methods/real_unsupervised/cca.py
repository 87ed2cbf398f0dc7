"""CCA: A New Approach to Cross-Modal Multimedia Retrieval (Rasiwasia et al., ACM Multimedia 2010).

Three ways to a common space, by ``variant``:

* ``cm``, correlation matching: the first ``dim`` canonical directions, maximising the correlation w_x'Cxy w_y
  subject to w_x'Cxx w_x = w_y'Cyy w_y = 1;
* ``sm``, semantic matching: class posteriors of a logistic regression per modality (the only use of labels);
* ``scm``, semantic correlation matching: those posteriors, learned on correlation matching's projections.

X (n, d_image) and Y (n, d_text) map to (n, dim) for ``cm``, and to (n, classes) for the others. An item with
several labels counts once for each of them in the logistic regression.

The public code takes canonical-mode partial least squares for CCA: ``correlation="pls"`` is that. A small
ridge on both covariances, in the features' own units, keeps CCA defined on singular features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.cca import cca, pls_canonical


@dataclass(kw_only=True)
class CCA(Embedder):
    """CM, SM or SCM. ``C`` and ``tolerance`` are the logistic regression's inverse penalty and stopping rule."""

    space: ClassVar[str] = "cosine"

    variant: Literal["cm", "sm", "scm"]
    correlation: Literal["cca", "pls"]
    dim: int
    ridge: float = 1e-4
    regression: Literal["multinomial", "one-vs-rest"] = "multinomial"
    C: float = 30.0
    tolerance: float = 0.01

    def fit(self, train: Pairs) -> CCA:
        """Learn projections, classifiers or both. Raises UsageError where labels or directions are missing."""
        image, text = train.image, train.text
        if self.variant != "sm":
            self.image_mean_, self.text_mean_ = image.mean(axis=0), text.mean(axis=0)
            centred = image - self.image_mean_, text - self.text_mean_
            found = (
                cca(*centred, self.dim, self.ridge) if self.correlation == "cca" else pls_canonical(*centred, self.dim)
            )
            self.image_projection_, self.text_projection_ = found.image, found.text
            image, text = centred[0] @ found.image, centred[1] @ found.text
        if self.variant != "cm":
            L = self.require_labels(train)
            self.image_weights_ = self._classifier(image, L)
            self.text_weights_ = self._classifier(text, L)
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return correlated projections (n, dim) or class posteriors (n, classes) of images (n, d_image)."""
        if self.variant != "sm":
            x = (x - self.image_mean_) @ self.image_projection_
        return x if self.variant == "cm" else self._posterior(x, self.image_weights_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return correlated projections (n, dim) or class posteriors (n, classes) of texts (n, d_text)."""
        if self.variant != "sm":
            y = (y - self.text_mean_) @ self.text_projection_
        return y if self.variant == "cm" else self._posterior(y, self.text_weights_)

    def _classifier(self, x: np.ndarray, L: np.ndarray) -> np.ndarray:
        """Return the weights (d + 1, classes) of a logistic regression, the intercepts in the last row."""
        rows, classes = np.nonzero(L)
        if len(np.unique(classes)) < L.shape[1]:
            raise UsageError(f"{self.variant} learns a classifier, but some class has no training item")
        if self.regression == "multinomial":
            model = LogisticRegression(C=self.C, tol=self.tolerance, max_iter=1000).fit(x[rows], classes)
            return np.vstack([model.coef_.T, model.intercept_])
        binary = LogisticRegression(C=self.C, tol=self.tolerance, solver="liblinear", random_state=self.seed)
        models = OneVsRestClassifier(binary).fit(x[rows], classes).estimators_
        return np.hstack([np.vstack([m.coef_.T, m.intercept_]) for m in models])

    def _posterior(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        scores = x @ weights[:-1] + weights[-1]
        if self.regression == "multinomial":
            return softmax(scores, axis=1)
        chances = expit(scores)
        return chances / chances.sum(axis=1, keepdims=True)
