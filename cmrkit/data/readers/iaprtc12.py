"""IAPR TC-12 as a MATLAB file that hashing codes pass on: two image features, tags, 255 labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, require

IMAGE = {"file-shallow": "I", "file-deep": "V"}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the file's own training and test part; the training part is the database."""
    require("split", split, ("file",), "iaprtc12")
    require("text feature", text, ("file-text",), "iaprtc12")
    letter = IMAGE[require("image feature", image, IMAGE, "iaprtc12")]
    parts = {role: Part(f"{letter}_{end}", f"T_{end}", f"L_{end}") for role, end in (("train", "tr"), ("query", "te"))}
    return read_parts("iaprtc12", asset(assets, "mat", "iaprtc12"), parts, image=image, text=text)
