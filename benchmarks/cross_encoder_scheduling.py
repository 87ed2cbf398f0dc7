"""What scheduling a cross-encoder costs beside the same forward passes called in a bare loop.

The scorer multiplies fixed matrices for some milliseconds a block, far less than a real cross-encoder, and
so leaves little to hide behind. Run with ``python benchmarks/cross_encoder_scheduling.py [block]``. Two
ratios: processor time over that of the bare loop, the median of interleaved rounds; and wall time over that
spent inside the scorer in the same run, which counts waiting for the disk and heeds no other process.
Target: both below 1.03.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from cmrkit.evaluation.reranking import rerank, score_all_pairs, shortlist

IMAGES, TEXTS, K, WIDTH, ROUNDS = 100, 1000, 64, 768, 5
TARGET = 1.03


class Scorer:
    """Dot products of an image and a text feature after two dense layers on the text."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.image, self.text = (rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (IMAGES, TEXTS))
        self.inside = 0.0  # seconds of wall time spent in calls
        self.first, self.second = (rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH for _ in range(2))

    def __call__(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        hidden = np.maximum(self.text[text_rows] @ self.first, 0) @ self.second
        scores = np.einsum("ij,ij->i", hidden, self.image[image_rows])
        self.inside += time.perf_counter() - start
        return scores


def bare_loop(scorer: Scorer, calls: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [scorer(*rows) for rows in calls]


def calls_of(pairs: tuple[np.ndarray, np.ndarray], block: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [tuple(rows[start : start + block] for rows in pairs) for start in range(0, len(pairs[0]), block)]


def resumable(work: Callable[..., object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work(resume=folder, key="benchmark")


def timed(job: Callable[[], object], scorer: Scorer) -> tuple[float, float]:
    """Return processor seconds, and wall seconds over those inside the scorer."""
    scorer.inside, wall, cpu = 0.0, time.perf_counter(), time.process_time()
    job()
    return time.process_time() - cpu, (time.perf_counter() - wall) / scorer.inside


def ratios(jobs: dict[str, Callable[[], object]], scorer: Scorer) -> tuple[float, dict[str, list[float]]]:
    """Return the bare loop's best processor seconds, and each other job's two median ratios."""
    rounds = [{name: timed(job, scorer) for name, job in jobs.items()} for _ in range(ROUNDS)]
    medians = {
        name: np.median([(r[name][0] / r["bare loop"][0], r[name][1]) for r in rounds], axis=0).tolist()
        for name in jobs
    }
    return min(r["bare loop"][0] for r in rounds), medians


def main(block: int = 256) -> None:
    scorer = Scorer()
    similarity = np.random.default_rng(1).normal(size=(IMAGES, TEXTS)).astype(np.float32)
    listed = np.nonzero(shortlist(similarity, K) | shortlist(similarity.T, K).T)
    every = np.divmod(np.arange(IMAGES * TEXTS), TEXTS)

    def all_pairs(**options) -> object:
        return score_all_pairs(scorer, IMAGES, TEXTS, block=block, **options)

    def top_k(**options) -> object:
        return rerank(scorer, similarity, K, block=block, **options)

    for name, pairs, work in (("all", every, all_pairs), (f"top {K}", listed, top_k)):
        calls = calls_of(pairs, block)
        jobs = {
            "bare loop": lambda c=calls: bare_loop(scorer, c),
            "in memory": work,
            "resumable": lambda w=work: resumable(w),
        }
        seconds, found = ratios(jobs, scorer)
        print(f"{name} pairs: {len(pairs[0])} in {len(calls)} blocks of {1e3 * seconds / len(calls):.2f} ms")
        for job, (processor, wall) in found.items():
            verdict = "" if job == "bare loop" else "within" if max(processor, wall) < TARGET else "BEYOND"
            print(f"  {job:12}processor {processor:.4f}   wall {wall:.4f}   {verdict}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
