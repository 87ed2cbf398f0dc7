"""How much of an encoder's own speed is left when images come from their archive.

Usage: OMP_NUM_THREADS=1 python benchmarks/features.py [--images 192] [--rounds 5] [--device cpu] [--encoder NAME]
(needs CMRKIT_MIRROR with Flickr8k and the weights)

The encoder alone works on batches that lie decoded in memory; the extraction reads, decodes, encodes and writes
to a file. Both run in turn, several times, and medians are compared, since other processes may come and go. On
a processor, decoding competes with the network for cores: with a core to spare it costs nothing, and where
there is none, the share of processor time printed last is the limit, whatever the order of work.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmrkit.data.images import find_images, member_names
from cmrkit.features.base import Job
from cmrkit.features.encoders import build_encoder
from cmrkit.features.growing import batch_bounds, grow_from_images
from cmrkit.features.loading import default_workers
from cmrkit.recipe.library import load_manifest


def measured(work: Callable[[], object], n: int) -> tuple[float, float]:
    """Return images per second by the clock, and milliseconds of processor time per image."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return n / (time.perf_counter() - clock), 1000 * (time.process_time() - processor) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="mobilenetv2-pooled-224")
    parser.add_argument("--batch", type=int)
    asked = parser.parse_args()
    mirror = Path(os.environ["CMRKIT_MIRROR"])
    manifest = load_manifest("flickr8k")
    feature = manifest.features.image[asked.encoder]
    assets = {name: mirror / manifest.assets[name].path for name in feature.assets}
    archive = next(path for path in assets.values() if path.suffix == ".zip")
    names = [name for name in member_names(archive) if name.endswith(".jpg")][: asked.images]
    images, n = find_images(names, {"images": archive}), len(names)
    job = Job(feature.options, assets, device=asked.device, batch=asked.batch)
    encoder, _ = build_encoder(feature.extractor, job)
    pixels = np.stack([encoder.framing(image) for image in images])
    batches = [pixels[start:end] for start, end in batch_bounds(0, n, job.batch_size)]

    def decode() -> None:
        for image in images:
            encoder.framing(image)

    def alone() -> None:
        for batch in batches:
            encoder.encode(batch)

    def extraction() -> None:
        with tempfile.TemporaryDirectory() as folder:
            into = Job(feature.options, assets, Path(folder), asked.device, batch=asked.batch)
            grow_from_images(
                images, encoder.framing, encoder.encode, into, size=encoder.framing.size, dtype="float32", about={}
            )

    alone()
    rounds = [[measured(work, n) for work in (decode, alone, extraction)] for _ in range(asked.rounds)]
    (decoding, decode_cost), (own, own_cost), (whole, whole_cost) = (
        tuple(statistics.median(values) for values in zip(*column, strict=True)) for column in zip(*rounds, strict=True)
    )
    print(f"{asked.encoder} on {asked.device}: {n} images, batches of {job.batch_size}, {asked.rounds} rounds")
    print(f"cores usable: {len(os.sched_getaffinity(0))}; decoding threads: {default_workers()}")
    print(f"decoding alone, one thread   {decoding:8.1f} images/s   {decode_cost:6.2f} ms of processor time each")
    print(f"encoder on in-memory batches {own:8.1f} images/s   {own_cost:6.2f} ms")
    print(f"whole extraction             {whole:8.1f} images/s   {whole_cost:6.2f} ms")
    ratio = statistics.median(row[2][0] / row[1][0] for row in rounds)
    print(f"extraction / encoder         {100 * ratio:8.1f} %   (median of rounds)")
    if asked.device == "cpu":
        print(f"limit without a spare core   {100 * own_cost / whole_cost:8.1f} %   by processor time")


if __name__ == "__main__":
    main()
