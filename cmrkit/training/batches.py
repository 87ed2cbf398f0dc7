"""From arrays of rows to batches on a device, in a given order, with or without threads that read ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmrkit.training.rows import ReadRows, Rows, TrainingSet

RESIDENT = 1 << 30  # bytes up to which a modality is held as one tensor on the device


@dataclass(frozen=True)
class Batch:
    """Aligned pairs: ``image`` (b, ...), ``text`` (b, ...), multi-hot ``labels`` (b, c) float32 or None.

    ``rows`` (b,) int64 are the rows of the pairs, which are those of the texts, in the training set; ``images``
    (b,) int64 are the rows of their images. Features are float32, token ids int64, pixels uint8.
    """

    image: Tensor
    text: Tensor
    labels: Tensor | None
    rows: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, parts: int) -> list[Batch]:
        """Return ``parts`` batches of nearly equal size, or as many as there are pairs."""
        parts = min(parts, len(self))
        if parts == 1:
            return [self]
        columns = [(None,) * parts if t is None else t.tensor_split(parts)
                   for t in (self.image, self.text, self.labels, self.rows, self.images)]  # fmt: skip
        return [Batch(*each) for each in zip(*columns, strict=True)]


def to_tensor(array: np.ndarray) -> Tensor:
    """Return rows as a network takes them: float features float32, token ids int64, (n, h, w, 3) pixels uint8."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    if array.dtype == np.uint8:
        return torch.from_numpy(np.require(array, np.uint8 if array.ndim == 4 else np.float32, ["C", "W"]))
    return torch.from_numpy(np.require(array, np.int64, ["C", "W"]))


class Feed:
    """Batches of a training set on ``device``. Small arrays are moved there whole, large ones are read by batch."""

    def __init__(self, data: TrainingSet, device: torch.device, workers: int | None = None):
        self.device = device
        self.image, self.text = _source(data.image, device), _source(data.text, device)
        self.labels = None if data.labels is None else torch.from_numpy(np.array(data.labels, np.float32)).to(device)
        self.pairs = torch.from_numpy(np.array(data.pairs, np.int64))
        resident = isinstance(self.image, Tensor) and isinstance(self.text, Tensor)
        self.workers = (0 if resident else 2) if workers is None else workers

    def start_epoch(self, epoch: int) -> None:
        """Let readers of random changes draw those of ``epoch``."""
        for source in (self.image, self.text):
            if isinstance(source, ReadRows):
                source.reader.epoch = epoch

    def batches(self, parts: list[Tensor]) -> Iterator[Batch]:
        """Yield the batch of each tensor of training rows, in order; how many threads read ahead changes nothing."""
        if not self.workers:
            yield from map(self.batch, parts)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            waiting, upcoming = deque(), iter(parts)
            try:
                for rows in upcoming:
                    waiting.append(pool.submit(self.batch, rows))
                    if len(waiting) > self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def batch(self, rows: Tensor) -> Batch:
        """Return the pairs of some training rows (b,)."""
        images = self.pairs[rows]
        on_device, images_on_device = self._move(rows), self._move(images)
        return Batch(
            self._pick(self.image, images, images_on_device),
            self._pick(self.text, rows, on_device),
            None if self.labels is None else self.labels[images_on_device],
            on_device,
            images_on_device,
        )

    def rows(self, modality: str, start: int, stop: int) -> Tensor:
        """Return a slice of all images or texts."""
        source = getattr(self, modality)
        return source[start:stop] if isinstance(source, Tensor) else self._move(to_tensor(source[start:stop]))

    def _pick(self, source: Tensor | Rows, rows: Tensor, on_device: Tensor) -> Tensor:
        return source[on_device] if isinstance(source, Tensor) else self._move(to_tensor(source[rows.numpy()]))

    def _move(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _source(rows: Rows | np.ndarray, device: torch.device) -> Tensor | Rows:
    rows = rows if isinstance(rows, Rows) else Rows(rows)
    return to_tensor(rows[:]).to(device) if rows.fixed and rows.nbytes <= RESIDENT else rows
