"""Scoring all pairs with ViLT: our evaluator beside a plain loop over transformers' ViltForImageAndTextRetrieval.

Both get the same random weights of ViLT-B/32, the same images (photographs' usual shapes at 384 pixels) and captions
(lengths as on Flickr30k), the same pairs in the same order, ``batch`` at a time. The plain loop hands the model every
pair whole: pixels padded to the largest image of its batch, captions padded to 40 tokens. Each runs in a process of
its own, one after the other, so that their peaks of memory can be told apart. On a CPU seconds are those of the
processor, which other processes do not lengthen. LayerNorms take the constant of transformers' model, 1e-12, not the
authors' 1e-6, which alone moves these scores by some 1e-5.

Run with ``python benchmarks/cross_encoder.py [images] [texts] [batch] [depth]``; CMRKIT_DEVICE chooses a device.
Target: three times the pairs a second, scores within 1e-5. Nine tenths of the work are products with weight matrices
over the tokens of a pair, which no model of one stream can share between pairs: in float32 what is left to save is
padding, the first layer's queries, keys and values, all but [CLS] of the last, and the attention's memory traffic.
By torch's FlopCounterMode the plain loop takes 45.0 GFLOP a pair here; ours takes 36 with captions of 14 tokens (the
recipe's gflop_per_pair): of 3 times, 1.25 is arithmetic.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import ViltConfig, ViltForImageAndTextRetrieval

from cmrkit.evaluation.reranking import score_all_pairs
from cmrkit.methods.deep import Spec
from cmrkit.methods.pairs import Scorer
from cmrkit.methods.vision_language.vilt import ViLT

SHAPES = ((384, 512), (512, 384), (384, 576), (384, 384))  # of 4:3, 3:4, 3:2 and square photographs
LENGTH, VOCABULARY, LONGEST = 40, 30522, 608
DEVICE = os.environ.get("CMRKIT_DEVICE", "cpu")
TARGET, TOLERANCE = 3.0, 1e-5


def now() -> float:
    """Return seconds: of the processor, or by the clock where an accelerator works."""
    return time.process_time() if DEVICE == "cpu" else time.perf_counter()


def inputs(images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (images, H, W, 4) uint8 and token ids (texts, 40), drawn from a seed."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((images, LONGEST, LONGEST, 4), np.uint8)
    for row in range(images):
        h, w = SHAPES[row % len(SHAPES)]
        pixels[row, :h, :w, :3], pixels[row, :h, :w, 3] = rng.integers(0, 256, (h, w, 3)), 255
    ids = np.zeros((texts, LENGTH), np.int64)
    for row in ids:
        length = int(np.clip(rng.normal(14, 4), 6, LENGTH))
        row[:length] = rng.integers(1000, VOCABULARY, length)
    return pixels, ids


def model(depth: int) -> ViltForImageAndTextRetrieval:
    """Return transformers' model with random weights, large enough that scores differ from pair to pair."""
    torch.manual_seed(0)
    config = ViltConfig(image_size=384, max_image_length=-1, num_hidden_layers=depth, initializer_range=0.03)
    return ViltForImageAndTextRetrieval(config).eval().to(DEVICE)


@torch.inference_mode()
def plain_loop(pixels: np.ndarray, ids: np.ndarray, batch: int, depth: int) -> tuple[np.ndarray, float]:
    """Return scores and seconds of the whole forward pass for every pair."""
    net, scores = model(depth), []
    start = now()
    pairs = np.divmod(np.arange(len(pixels) * len(ids)), len(ids))
    for begin in range(0, len(pairs[0]), batch):
        image_rows, text_rows = (rows[begin : begin + batch] for rows in pairs)
        x, y = (torch.from_numpy(a).to(DEVICE) for a in (cropped(pixels[image_rows]), ids[text_rows]))
        mask = (x[..., 3] > 0).long()
        x = (x[..., :3].movedim(3, 1).float() / 255 - 0.5) / 0.5 * mask[:, None]
        out = net(input_ids=y, attention_mask=(y != 0).long(), pixel_values=x, pixel_mask=mask)
        scores.append(out.logits[:, 0].cpu().numpy())
    return np.concatenate(scores).reshape(len(pixels), len(ids)), now() - start


def cropped(pixels: np.ndarray) -> np.ndarray:
    """Return images (b, H, W, 4) without the rows and columns that are padding in all of them."""
    inside = pixels[..., 3].any(0)
    return pixels[:, : inside.any(1).sum(), : inside.any(0).sum()]


def evaluator(pixels: np.ndarray, ids: np.ndarray, batch: int, depth: int) -> tuple[np.ndarray, float]:
    """Return scores and seconds of our ViLT in our evaluator, embedding included."""
    method = ViLT(depth=depth)
    spec = Spec(pixels.shape[1:], ids.shape[1:], 0, 0, None, VOCABULARY)
    net = method.build(spec)
    net.load_state_dict(method.convert(model(depth).state_dict()))
    for module in net.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    method.adopt(net.eval().to(DEVICE), spec)
    start = now()
    x, y = method._embedded("image", pixels), method._embedded("text", ids)
    with Scorer(method, x, y, size=batch) as scorer:
        scores = score_all_pairs(scorer, len(pixels), len(ids), block=scorer.block)
    return scores, now() - start


def peak_of(job: Callable[..., tuple[np.ndarray, float]], *arguments: object) -> tuple[np.ndarray, float, float, float]:
    """Return what ``job`` returns, and the most memory in GB that this process and its accelerator had in use."""
    scores, seconds = job(*arguments)
    device = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.startswith("cuda") else 0.0
    return scores, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, device


def main(images: int = 4, texts: int = 16, batch: int = 32, depth: int = 12) -> None:
    arguments = (*inputs(images, texts), batch, depth)
    found = {}
    for job in (plain_loop, evaluator):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[job.__name__] = pool.apply(peak_of, (job, *arguments))
    print(f"{images} images x {texts} texts, {batch} pairs at a time, ViLT-B/32 of {depth} layers, {DEVICE}")
    for name, (_, seconds, host, device) in found.items():
        print(
            f"  {name:12}{images * texts / seconds:10.2f} pairs/s {host:8.2f} GB of memory {device:8.2f} on the device"
        )
    theirs, ours = found["plain_loop"], found["evaluator"]
    ratio, off = theirs[1] / ours[1], np.abs(theirs[0] - ours[0]).max()
    print(f"  {ratio:.2f} times as fast (target {TARGET}): {'reached' if ratio >= TARGET else 'MISSED'}")
    print(f"  scores between {theirs[0].min():.4f} and {theirs[0].max():.4f}, largest difference {off:.1e}"
          f" (at most {TOLERANCE:.0e}): {'reached' if off <= TOLERANCE else 'MISSED'}")  # fmt: skip


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
