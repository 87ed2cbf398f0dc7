"""Scoring pairs of embedded images and texts: all of them, or each item's shortlist."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmrkit.evaluation.reranking import BLOCK, rerank, score_all_pairs

Columns = tuple[Tensor, ...]


def score_pairs(
    method: Any, images: Columns, texts: Columns, resume: Any = None, key: str | None = None, progress: bool = False
) -> np.ndarray | dict[str, np.ndarray]:
    """Return the scores of embedded images (n_images, ...) with embedded texts (n_texts, ...), float32.

    One matrix where ``method`` scores all pairs, one a direction where it has a shortlist. ``resume`` is a folder
    that keeps finished blocks, ``key`` says of what. Raises as `cmrkit.evaluation.reranking`.
    """
    options = {"resume": resume, "key": key, "progress": progress}
    with Scorer(method, images, texts) as scorer:
        if not method.shortlist:
            return score_all_pairs(scorer, len(images[0]), len(texts[0]), block=scorer.block, **options)
        first = first_stage(method, images, texts)
        return rerank(scorer, first, method.shortlist, combine=method.combine, block=scorer.block, **options)


@torch.inference_mode()
def first_stage(method: Any, images: Columns, texts: Columns, block: int = 1024) -> np.ndarray:
    """Return ``method.compare`` of all images with all texts, (n_images, n_texts) float32."""
    net, device = method.net_.eval(), device_of(method.net_)
    out = np.empty((len(images[0]), len(texts[0])), np.float32)
    for i in range(0, len(out), block):
        rows = tuple(c[i : i + block].to(device) for c in images)
        for j in range(0, out.shape[1], block):
            columns = tuple(c[j : j + block].to(device) for c in texts)
            out[i : i + block, j : j + block] = method.compare(net, rows, columns).float().cpu().numpy()
    return out


class Scorer:
    """Scores pairs (image rows, text rows) by a method, on every device that its network has a copy on.

    Several devices share each block of pairs: the k-th device scores the same pairs whatever the others do, so
    that results do not depend on which is faster.
    """

    def __init__(self, method: Any, images: Columns, texts: Columns, size: int = BLOCK):
        self.method, self.images, self.texts = method, images, texts
        self.nets = replicas(method.net_)
        self.block = size * len(self.nets)
        self.pool = ThreadPoolExecutor(len(self.nets))

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown()

    def __call__(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        """Return float32 logits (b,)."""
        parts = [np.array_split(rows, len(self.nets)) for rows in (image_rows, text_rows)]
        return np.concatenate(list(self.pool.map(self._score, self.nets, *parts)))

    @torch.inference_mode()
    def _score(self, net: torch.nn.Module, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        if not len(image_rows):
            return np.empty(0, np.float32)
        device = device_of(net)
        distinct, inverse = np.unique(image_rows, return_inverse=True)
        images = tuple(c[torch.from_numpy(distinct)].to(device) for c in self.images)
        texts = tuple(c[torch.from_numpy(text_rows)].to(device) for c in self.texts)
        with autocast(self.method, device):
            scores = self.method.score_block(net, images, texts, torch.from_numpy(inverse).to(device))
        return scores.float().cpu().numpy()


def replicas(net: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the network in evaluation mode, and copies of it on all other GPUs where it is on one."""
    import copy

    net, device = net.eval(), device_of(net)
    if device.type != "cuda":
        return [net]
    others = [d for d in range(torch.cuda.device_count()) if d != device.index]
    return [net, *(copy.deepcopy(net).to(f"cuda:{d}") for d in others)]


def device_of(net: torch.nn.Module) -> torch.device:
    """Return where the network's parameters lie."""
    return next((t.device for t in net.state_dict().values()), torch.device("cpu"))


def autocast(method: Any, device: torch.device) -> Any:
    """Return the context of the method's precision for evaluation."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(method.precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)
