"""XMedia's images and texts, as the MATLAB file of features that its authors release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, require

PARTS = {"train": Part("I_tr_CNN", "T_tr_BOW", "trImgCat"), "query": Part("I_te_CNN", "T_te_BOW", "teImgCat")}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the file's training and test part; retrieval is within the test part."""
    require("split", split, ("file",), "xmedia")
    require("image feature", image, ("cnn",), "xmedia")
    require("text feature", text, ("bow",), "xmedia")
    data = read_parts("xmedia", asset(assets, "mat", "xmedia"), PARTS, image=image, text=text)
    return data.replace(splits={**data.splits, "database": data.splits["query"]})
