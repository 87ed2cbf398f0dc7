"""INRIA-Websearch as a MATLAB file of features, already divided in three."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, require

PARTS = {
    role: Part(f"{short}_img", f"{short}_txt", f"{short}_img_lab")
    for role, short in (("train", "tr"), ("val", "val"), ("query", "te"))
}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the file's three parts; retrieval is within the test part."""
    require("split", split, ("file",), "inria-websearch")
    require("image feature", image, ("file-image",), "inria-websearch")
    require("text feature", text, ("file-text",), "inria-websearch")
    path = asset(assets, "mat", "inria-websearch")
    data = read_parts("inria-websearch", path, PARTS, image=image, text=text)
    return data.replace(splits={**data.splits, "database": data.splits["query"]})
