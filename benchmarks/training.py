"""Items per second of the training loop beside a bare PyTorch loop: the same network, batches and optimiser.

Run ``python benchmarks/training.py``; it exits with 1 where the loop is more than 5 % slower. Both run on one
thread and are timed by the processor time they take, which a busy machine disturbs less than the clock on the
wall; rounds alternate, and each side is judged by its median round.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from cmrkit.methods.real_supervised_deep.dscmr import DSCMR
from cmrkit.training.loop import Loop
from cmrkit.training.options import Options
from cmrkit.training.rows import TrainingSet

PAIRS, IMAGE, TEXT, CLASSES, BATCH, EPOCHS = 4000, 512, 128, 10, 100, 2
ROUNDS = {"small": 11, "paper": 3}
SIZES = {"small": {"hidden": 256, "dim": 64}, "paper": {"hidden": 2048, "dim": 1024}}


def bare(method: DSCMR, data: TrainingSet, seed: int) -> float:
    """Train as one would by hand, and return the seconds of the epochs."""
    torch.manual_seed(seed)
    net = method.build(data.spec)
    optimizer = torch.optim.Adam(net.parameters(), lr=method.lr, betas=method.betas)
    image, text = torch.from_numpy(data.image), torch.from_numpy(data.text)
    labels = torch.from_numpy(data.labels).float()
    generator = torch.Generator().manual_seed(seed)
    started = time.process_time()
    for _ in range(EPOCHS):
        for rows in torch.randperm(PAIRS, generator=generator).split(BATCH):
            optimizer.zero_grad()
            U, V, L = method.embed_image(net, image[rows]), method.embed_text(net, text[rows]), labels[rows]
            loss = method.objective(net, U, V, L)
            loss.backward()
            optimizer.step()
    return time.process_time() - started


def looped(method: DSCMR, data: TrainingSet) -> float:
    """Train by the loop, and return the seconds from the first step to the last."""
    loop = Loop(method, data, Options(device="cpu"))
    started = []
    method.epoch_start = lambda net, loop: started.append(time.process_time())
    loop.run()
    return time.process_time() - started[0]


def main() -> int:
    """Measure both and print their ratio."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(PAIRS, d)).astype(np.float32) for d in (IMAGE, TEXT))
    labels = np.eye(CLASSES, dtype=np.uint8)[rng.integers(CLASSES, size=PAIRS)]
    data = TrainingSet(image, text, np.arange(PAIRS), labels)
    slow = False
    for name, size in SIZES.items():
        seconds = {"bare": [], "loop": []}
        for round_ in range(ROUNDS[name]):
            seconds["bare"].append(bare(DSCMR(epochs=EPOCHS, batch_size=BATCH, **size), data, round_))
            seconds["loop"].append(looped(DSCMR(epochs=EPOCHS, batch_size=BATCH, seed=round_, **size), data))
        rates = {side: PAIRS * EPOCHS / statistics.median(s) for side, s in seconds.items()}
        ratio = rates["loop"] / rates["bare"]
        slow |= ratio < 0.95
        print(f"{name:6} bare {rates['bare']:9.0f} pairs/s   loop {rates['loop']:9.0f} pairs/s   ratio {ratio:.3f}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
