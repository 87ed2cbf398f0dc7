"""Image features by pretrained networks, and the pixels themselves for networks that are trained here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.features.base import Extracted, Job, require_images
from cmrkit.features.encoders import Framing, build_encoder
from cmrkit.features.growing import grow_from_images


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return "pixels", or what a network of "timm" or "torchvision" makes of them.

    Options of "pixels": ``size`` of the square images (224), ``crop``, the share of the shorter side that the
    middle square keeps, or None for the whole image without its proportions. Options of the networks:
    ``layout``, "pooled" for (n, d) float32 or "grid" for (n, regions, d) float16, the feature map before
    pooling, row after row; ``crop``, whether the middle is cut out as the network's authors evaluate it, or
    the whole image is squeezed into a square; ``size`` where it is not the network's own; ``model``,
    ``weights``, ``config`` and ``node`` say which network, see `encoders`.

    Raises CmrkitError naming an image that cannot be read or weights that do not fit.
    """
    images = require_images(name, data)
    if name == "pixels":
        options = job.choose(name, size=224, crop=None)
        framing = Framing(**options)
        encode, dtype, kind = np.asarray, "uint8", "pixels"
    else:
        encoder, options = build_encoder(name, job)
        framing, encode, job = encoder.framing, encoder.encode, replace(job, device=encoder.device.type)
        # Half precision keeps 11 bits of each number and halves what would be gigabytes.
        dtype, kind = ("float16", "regions") if options["layout"] == "grid" else ("float32", "vectors")
    about = {"data": data.name, "extractor": name, "options": options}
    matrix, skipped, _ = grow_from_images(images, framing, encode, job, size=framing.size, dtype=dtype, about=about)
    return Extracted("image", matrix, kind=kind, skipped=skipped)
