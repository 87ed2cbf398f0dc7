"""All triplets of a batch under cosine distance."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def cosine_triplets(A: Tensor, B: Tensor, labels: Tensor, margin: float, weights: Tensor | None = None) -> Tensor:
    """Return the sum over (a, p, n) of weights max(0, d(A_a, B_p) - d(A_a, B_n) + margin), a scalar.

    ``A``, ``B`` (b, d) and multi-hot ``labels`` (b, c) are of the same pairs; p shares a label with a, n does not;
    d = max(0, 1 - cos). ``weights`` (b, b, b), not negative, are 1 where not given. Takes b^3 numbers.
    """
    distance = (1 - normalize(A, dim=1) @ normalize(B, dim=1).T).clamp(min=0)
    similar = (labels @ labels.T > 0).to(distance.dtype)
    valid = similar[:, :, None] * (1 - similar)[:, None, :]
    loss = ((distance[:, :, None] - distance[:, None, :] + margin) * valid).clamp(min=0)
    return (loss if weights is None else loss * weights).sum()
