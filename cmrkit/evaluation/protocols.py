"""Evaluation protocols: everything that decides a number besides the codes, named and hashed."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass, fields, replace

from cmrkit.errors import UsageError

VERSION = 1  # raised when a metric's definition changes, so that stored results can be told apart

CHOICES = {
    "ties": ("expected", "worst", "best", "stable"),
    "database": ("learned", "hashed", "unified"),
    "items": ("database", "query"),
    "relevance": ("labels", "pairs"),
    "without_relevant": ("zero", "skip"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How codes or embeddings are turned into numbers.

    ``ties``: the order of items at one distance (see ``ranking``). ``database``: whose codes the items carry:
    *learned* in training, *hashed* by the encoders, or *unified* for both modalities. ``items``: rank the
    database, or the other modality's query set. ``relevance``: a shared label, or the pairs.
    ``similarity``: of real-valued spaces; None is the space's own, and Hamming in Hamming space.
    ``without_relevant``: queries without relevant items count 0, or are left out of the mean.
    """

    name: str
    definition: str
    reference: str
    used_by: tuple[str, ...]
    metrics: tuple[str, ...]
    hamming: bool | None  # whether it ranks by Hamming distance; None: in any space
    ties: str = "expected"
    database: str = "hashed"
    items: str = "database"
    relevance: str = "labels"
    similarity: str | None = None
    without_relevant: str = "zero"

    def __post_init__(self):
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise UsageError(f"protocol {self.name}: {field} is {value!r}; choose from {', '.join(allowed)}")

    @property
    def digest(self) -> str:
        """The SHA-256 of what decides the numbers: every field but the name and the prose."""
        prose = {"name", "definition", "reference", "used_by"}
        deciding = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in prose}
        return hashlib.sha256(json.dumps([VERSION, deciding], sort_keys=True).encode()).hexdigest()

    def changed(self, **changes) -> Protocol:
        """Return this protocol with some fields changed; those given as None stay."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


def find_protocol(name: str) -> Protocol:
    """Return a protocol by its name. Raises UsageError with the nearest one."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(str(name), PROTOCOLS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(f"unknown protocol {name!r}{hint}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


_HAMMING_MAP = Protocol(
    name="hamming-map",
    definition="Rank the other modality's database by Hamming distance; an item is relevant when it shares a label. "
    "Mean average precision over all queries, ties averaged exactly.",
    reference="McSherry & Najork, ECIR 2008, for ties; the hashing papers for the rest",
    used_by=("perf_metric4Label.m of the shallow hashing papers, which breaks ties by database order",),
    metrics=("map@all", "map@50", "precision@100", "pr_curve"),
    hamming=True,
    database="learned",
)

_NAMED = (
    _HAMMING_MAP,
    replace(
        _HAMMING_MAP,
        name="hamming-map-stable",
        definition=_HAMMING_MAP.definition.replace("ties averaged exactly", "ties in the database's own order"),
        reference="the stable sort of MATLAB",
        used_by=("perf_metric4Label.m of the shallow hashing papers",),
        ties="stable",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-map-first-relevant",
        definition="As hamming-map, but the cut at k keeps the first min(k, R) relevant items, wherever they rank, and "
        "averages the precision at each.",
        reference="Jiang & Li, Deep Cross-Modal Hashing, CVPR 2017",
        used_by=("calc_map_k of DCMH's Python code and of the deep hashing papers that took it over",),
        metrics=("map@all", "map@50:first-relevant", "map@100:first-relevant"),
        database="hashed",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-lookup",
        definition="Retrieve all items within a Hamming radius; precision and recall averaged over queries, where a "
        "query that retrieves nothing has precision 0.",
        reference="the hash-lookup protocol of the hashing papers",
        used_by=("the precision-recall curves and radius-2 precisions of the hashing papers",),
        metrics=("precision@2:radius", "recall@2:radius", "pr_curve"),
    ),
    Protocol(
        name="real-map",
        definition="Rank the other modality's database by the space's similarity; an item is relevant when it shares "
        "a label. Mean average precision over all queries.",
        reference="Rasiwasia et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM MM 2010",
        used_by=("the CCA and common-subspace papers, mostly over the test set (items=query)",),
        metrics=("map@all", "map@50", "precision@100", "pr_curve"),
        hamming=False,
    ),
    Protocol(
        name="recall",
        definition="Rank all texts for an image and all images for a text; a query is answered by the best placed "
        "item of its pairs. Per cent of queries answered within K, and ranks from 1.",
        reference="Karpathy & Fei-Fei, CVPR 2015, for split and measure; Faghri et al., VSE++, BMVC 2018, for rsum",
        used_by=("the image-text matching papers on Flickr30k and MS-COCO",),
        metrics=("r@1", "r@5", "r@10", "medr", "meanr", "rsum"),
        hamming=None,
        items="query",
        relevance="pairs",
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in _NAMED}
