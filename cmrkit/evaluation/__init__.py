"""Evaluation: arrays of codes, embeddings or similarities in, retrieval metrics out.

The room knows no method and no dataset. ``evaluate`` scores under one named protocol and
``evaluate_variants`` under all; ``read_codes`` reads what somebody else made.
"""

from cmrkit.evaluation.evaluator import evaluate, evaluate_matrix, evaluate_variants, resolve
from cmrkit.evaluation.files import read_codes
from cmrkit.evaluation.inputs import check_inputs
from cmrkit.evaluation.protocols import PROTOCOLS, Protocol, find_protocol

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "check_inputs",
    "evaluate",
    "evaluate_matrix",
    "evaluate_variants",
    "find_protocol",
    "read_codes",
    "resolve",
]
