"""Evaluation protocols: everything that decides a number besides the codes, named and hashed."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass, fields, replace

from cmrkit.errors import UsageError

VERSION = 2  # raised when a metric's definition changes, so that stored results can be told apart

CHOICES = {
    "ties": ("expected", "worst", "best", "stable"),
    "database": ("learned", "hashed", "unified"),
    "items": ("database", "query"),
    "relevance": ("labels", "pairs", "positives", "label-distance"),
    "without_relevant": ("zero", "skip"),
    "averaging": ("macro", "micro"),
    "normalisation": (None, "is", "dis", "csls", "gc"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How codes or embeddings are turned into numbers.

    ``ties``: the order of items at one distance (see ``ranking``). ``database``: whose codes the items carry:
    *learned* in training, *hashed* by the encoders, or *unified* for both modalities. ``items``: rank the
    database, or the other modality's query set. ``relevance``: a shared label, the pairs, listed positives, or
    labels that differ in at most 0, 1 and 2 classes (the mean of the three). ``similarity``: of real-valued spaces;
    None is the space's own, and Hamming in Hamming space. ``normalisation``: a correction of it for hubs.
    ``without_relevant``: queries without relevant items count 0, or are left out of the mean. ``averaging``: the
    mean over queries (macro), or summed numerators over summed denominators (micro). ``folds``: how many equal
    parts the images are cut into, in order, with the texts of each; the mean over the parts is reported.
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
    normalisation: str | None = None
    without_relevant: str = "zero"
    averaging: str = "macro"
    folds: int = 1

    def __post_init__(self):
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                choices = ", ".join(str(choice) for choice in allowed if choice)
                raise UsageError(f"protocol {self.name}: {field} is {value!r}; choose from {choices}")
        if self.folds < 1:
            raise UsageError(f"protocol {self.name}: {self.folds} folds; there is at least one")

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
    used_by=("no published code: it breaks ties by whatever its sort does, of which this is the expectation",),
    metrics=("map@all", "map@50", "precision@100", "pr_curve"),
    hamming=True,
    database="learned",
)
_RECALL = Protocol(
    name="recall",
    definition="Rank all texts for an image and all images for a text; a query is answered by the best placed "
    "item of its pairs. Per cent of queries answered within K, and ranks from 1. On MS-COCO's 5,000 test images this "
    "is the 5K setting.",
    reference="Karpathy & Fei-Fei, CVPR 2015, for split and measure; Faghri et al., VSE++, BMVC 2018, for rsum",
    used_by=("VSE++, SCAN, VSRN, IMRAM, CAMP and the other image-text matching papers, by a sort of NumPy's",),
    metrics=("r@1", "r@5", "r@10", "medr", "meanr", "rsum"),
    hamming=None,
    items="query",
    relevance="pairs",
)

_NAMED = (
    _HAMMING_MAP,
    replace(
        _HAMMING_MAP,
        name="hamming-map-stable",
        definition=_HAMMING_MAP.definition.replace("ties averaged exactly", "ties in the database's own order")
        + " Queries without relevant items are left out of the mean.",
        reference="the stable sort of MATLAB; NumPy's and torch's default sorts are not stable, so that no rule "
        "reproduces what code built on them does with ties",
        used_by=("perf_metric4Label.m of the shallow hashing papers (SCM, CMFH, LSSH, BATCH, DCH, SePH and others)",),
        ties="stable",
        without_relevant="skip",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-map-first-relevant",
        definition="As hamming-map, but the cut at k keeps the first min(k, R) relevant items, wherever they rank, and "
        "averages the precision at each.",
        reference="calc_map_k of a PyTorch port of DCMH (Jiang & Li, CVPR 2017; the authors' own code has no such "
        "function and cuts the list)",
        used_by=("AGAH, CPAH, DADH, DCHMT and torchcmh, which took calc_map_k over; most call it without k: map@all",),
        metrics=("map@all", "map@50:first-relevant", "map@100:first-relevant"),
        database="hashed",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-map-cut",
        definition="As hamming-map, but the list is cut at k and the precisions at the relevant items found are "
        "divided by their number.",
        reference="the evaluation scripts of the papers named",
        used_by=("mAP.m with R = 50, DJSRH, JDSH, DSAH, DGCPN, topkMap of DCMH and DLFH, ACMR",),
        metrics=("map@50", "map@100", "map@500"),
        database="hashed",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-11-point",
        definition="Interpolated mean average precision at the recalls 0, .1, .. 1, ties in the database's own order.",
        reference="Salton & McGill, Introduction to Modern Information Retrieval, 1983",
        used_by=("the retrieval script of GMA, for real-valued scores",),
        metrics=("map@all:11-point",),
        ties="stable",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-lookup",
        definition="Retrieve all items within a Hamming radius; precision and recall averaged over queries, where a "
        "query that retrieves nothing has precision 0.",
        reference="the hash-lookup protocol of the hashing papers",
        used_by=("CPAH, DCHMT, DLFH: radius-2 precision and precision-recall curves, empty queries at 0",),
        metrics=("precision@2:radius", "precision@2:radius-found", "recall@2:radius", "pr_curve"),
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-lookup-pooled",
        definition="Retrieve all items within a Hamming radius; hits of all queries over items retrieved by all "
        "queries, so that queries that retrieve much weigh more.",
        reference="the hash-lookup protocol, pooled",
        used_by=("the authors' code of DCMH and DLFH, LGCNH, RaHH: precision-recall curves",),
        metrics=("precision@2:radius", "recall@2:radius", "pr_curve"),
        averaging="micro",
    ),
    replace(
        _HAMMING_MAP,
        name="hamming-graded",
        definition="Rank by Hamming distance; an item counts by the number of labels that it shares with the query.",
        reference="Zhao et al., Deep Semantic Ranking Based Hashing, CVPR 2015, for acg and wmap; Burges et al., ICML "
        "2005, for the gain of ndcg",
        used_by=("RoPH, TANSS: ndcg; the authors' code of Zhao et al.: acg and wmap",),
        metrics=("ndcg@100", "acg@100", "wmap@all"),
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
    _RECALL,
    replace(
        _RECALL,
        name="recall-folds",
        definition="recall on each of five equal parts of the images, in their order, with the texts of each part; the "
        "mean over the parts. On MS-COCO's 5,000 test images this is the 1K setting.",
        used_by=("VSE++, SCAN and the other papers that report MS-COCO 1K",),
        folds=5,
    ),
    replace(
        _RECALL,
        name="cxc",
        definition="Recall on MS-COCO's test images and the first five captions of each, where the relevant items are "
        "those that raters of Crisscrossed Captions found alike.",
        reference="Parekh et al., Crisscrossed Captions, EACL 2021; data as in the eccv_caption package",
        used_by=("the eccv_caption package",),
        metrics=("r@1", "r@5", "r@10"),
        relevance="positives",
        without_relevant="skip",
    ),
    replace(
        _RECALL,
        name="eccv-caption",
        definition="1,261 image and 1,332 caption queries of MS-COCO's test images with all their plausible matches: "
        "average precision and precision down to rank R, and recall at 1.",
        reference="Chun et al., ECCV Caption, ECCV 2022; map@r: Musgrave et al., A Metric Learning Reality Check, 2020",
        used_by=("the eccv_caption package",),
        metrics=("map@r", "r-precision", "r@1"),
        relevance="positives",
        without_relevant="skip",
    ),
    replace(
        _RECALL,
        name="pmrp",
        definition="Plausible match R-precision: an item is relevant when its image's labels differ from the query's "
        "in at most 0, 1 or 2 classes; the mean over the three. Images without a label are left out.",
        reference="Chun et al., Probabilistic Embeddings for Cross-Modal Retrieval, CVPR 2021",
        used_by=("PCME's code, on the instance categories of MS-COCO, in per cent",),
        metrics=("r-precision",),
        relevance="label-distance",
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in _NAMED}
