"""NUS-WIDE with its ten most frequent concepts, as a MATLAB file that hashing codes pass on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, require

PARTS = {"train": Part("I_tr", "T_tr", "L_tr"), "query": Part("I_te", "T_te", "L_te")}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the file's own training and test part; the training part is the database."""
    require("split", split, ("file",), "nuswide-tc10")
    require("image feature", image, ("file-image",), "nuswide-tc10")
    require("text feature", text, ("file-tags",), "nuswide-tc10")
    return read_parts("nuswide-tc10", asset(assets, "mat", "nuswide-tc10"), PARTS, image=image, text=text)
