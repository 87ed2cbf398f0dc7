"""Blocks made by hand: any distances, any relevance."""

import numpy as np

from cmrkit.evaluation.blocks import MatrixBlock
from cmrkit.evaluation.hamming import HammingBlock, check_codes
from cmrkit.evaluation.relevance import Relevance


class Given(Relevance):
    """Relevance, or grades, that stand in a matrix (q, n)."""

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix)

    def rows(self, rows):
        return self.matrix[rows] > 0

    def grades(self, rows):
        return self.matrix[rows].astype(np.int64)


def real_block(distances, relevance):
    return MatrixBlock(np.asarray(distances, float), Given(relevance), slice(None))


def hamming_block(distances, relevance, bits):
    """One block per query: a code of zeros, and items with as many ones as they are far away."""
    code = check_codes("query", np.zeros((1, bits)))
    items = check_codes("database", (np.arange(bits) < np.asarray(distances)[:, None]).astype(int))
    return HammingBlock(code, items, Given(np.asarray(relevance)[None]), slice(None))
