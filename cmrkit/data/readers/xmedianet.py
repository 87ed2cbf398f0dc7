"""XMediaNet's images and texts, as a MATLAB file of features, already divided in three."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, require

PARTS = {
    role: Part(f"img_{name}", f"text_{name}", f"label_{name}")
    for role, name in (("train", "train"), ("val", "valid"), ("query", "test"))
}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the file's three parts; retrieval is within the test part."""
    require("split", split, ("file",), "xmedianet")
    require("image feature", image, ("file-image",), "xmedianet")
    require("text feature", text, ("doc2vec",), "xmedianet")
    data = read_parts("xmedianet", asset(assets, "mat", "xmedianet"), PARTS, image=image, text=text)
    return data.replace(splits={**data.splits, "database": data.splits["query"]})
