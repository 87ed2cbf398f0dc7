"""The compiled loops: everything that touches each pair of a query and a database item, once.

Numba compiles these functions on first use and keeps the machine code beside this file (or in NUMBA_CACHE_DIR).
Queries are shared out over the processor's cores; items are read in order, in chunks that stay in its cache, so
time is linear in pairs and memory does not grow with the database.

The relevance of a pair is told in one of three ways, the ``mode``: both sides' packed labels share a bit
(SHARED), both sides' ids are the same (EQUAL), or it stands in a matrix (DENSE). Arrays that a mode does not
read are empty.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable

import numba
import numpy as np
from numba import njit, prange
from numba.extending import intrinsic

# Of Numba's thread pools the OpenMP one would change how many threads torch trains with in the same process. This one
# does not, but must not be entered twice at once: hence the lock.
numba.config.THREADING_LAYER = "workqueue"
THREADS = min(int(os.environ.get("OMP_NUM_THREADS") or numba.config.NUMBA_NUM_THREADS), numba.config.NUMBA_NUM_THREADS)
_one_at_a_time = threading.Lock()

SHARED, EQUAL, DENSE = 0, 1, 2
CHUNK = 2048  # items whose codes, labels and cells fit the first-level cache together
STRIP = 2048  # columns of a matrix whose values and counts fit the first-level cache together
JOINT_CELLS = 1 << 16  # the joint histogram is indexed by 16 bits


def _shared_out(loop: Callable) -> Callable:
    """Compile a loop whose queries are shared out over the processor's cores."""
    compiled = njit(loop, cache=True, nogil=True, parallel=True)

    @functools.wraps(loop)
    def call(*arrays) -> None:
        with _one_at_a_time:
            numba.set_num_threads(THREADS)
            compiled(*arrays)

    return call


@intrinsic
def _popcount(typingctx, word):
    """Count the set bits of an unsigned word."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), generate


@njit(cache=True, nogil=True)
def _cells(cells, i, query, database, mode, query_relevance, item_relevance, dense, start, stop):
    """Fill ``cells[: stop - start]`` with 2 * distance + relevance of query ``i`` and the items from ``start``."""
    code = query[0, i]
    items = database[0, start:stop]
    if mode == SHARED and len(query) == 1 and len(query_relevance) == 1:  # the usual case, in one loop
        label = query_relevance[0, i]
        labels = item_relevance[0, start:stop]
        for j in range(stop - start):
            shares = np.uint16((label & labels[j]) != 0)
            cells[j] = np.uint16(_popcount(code ^ items[j]) << np.uint64(1)) | shares
        return
    for j in range(stop - start):
        cells[j] = np.uint16(_popcount(code ^ items[j]) << np.uint64(1))
    for word in range(1, len(query)):
        code = query[word, i]
        items = database[word, start:stop]
        for j in range(stop - start):
            cells[j] += np.uint16(_popcount(code ^ items[j]) << np.uint64(1))
    if mode == SHARED:
        for word in range(len(query_relevance)):
            label = query_relevance[word, i]
            labels = item_relevance[word, start:stop]
            for j in range(stop - start):
                cells[j] |= np.uint16((label & labels[j]) != 0)
    elif mode == EQUAL:
        label = query_relevance[0, i]
        labels = item_relevance[0, start:stop]
        for j in range(stop - start):
            cells[j] |= np.uint16(label == labels[j])
    else:
        for j in range(stop - start):
            cells[j] |= np.uint16(dense[i, start + j])


@njit(cache=True, nogil=True)
def _count_jointly(counts, i, query, database, mode, query_relevance, item_relevance, dense, begin, end):
    # Adding to a counter in memory costs more than the distance itself. Two items a counter: the pair of their
    # cells is one index into a joint histogram, whose two marginals add up to the plain one.
    width = len(counts)
    joint = np.zeros((width, width), np.uint32)
    flat = joint.reshape(width * width)
    cells = np.empty(CHUNK, np.uint16)
    half = CHUNK // 2
    whole = end - (end - begin) % CHUNK
    for start in range(begin, whole, CHUNK):
        _cells(cells, i, query, database, mode, query_relevance, item_relevance, dense, start, start + CHUNK)
        for j in range(half):
            cells[j] = cells[j] * np.uint16(width) + cells[half + j]
        for j in range(half):
            flat[cells[j]] += np.uint32(1)
    _cells(cells, i, query, database, mode, query_relevance, item_relevance, dense, whole, end)
    for j in range(end - whole):
        counts[cells[j]] += np.uint32(1)
    for first in range(width):
        row = joint[first]
        total = np.uint32(0)
        for second in range(width):
            total += row[second]
        if total:
            counts[first] += total
            for second in range(width):
                counts[second] += row[second]


@njit(cache=True, nogil=True)
def _count_singly(counts, i, query, database, mode, query_relevance, item_relevance, dense, begin, end):
    # Four tables, so that neighbours of one cell do not wait for each other's counter.
    width = len(counts)
    tables = np.zeros((4, width), np.uint32)
    cells = np.empty(CHUNK, np.uint16)
    for start in range(begin, end, CHUNK):
        stop = min(start + CHUNK, end)
        _cells(cells, i, query, database, mode, query_relevance, item_relevance, dense, start, stop)
        fours = (stop - start) // 4 * 4
        for j in range(0, fours, 4):
            tables[0, cells[j]] += np.uint32(1)
            tables[1, cells[j + 1]] += np.uint32(1)
            tables[2, cells[j + 2]] += np.uint32(1)
            tables[3, cells[j + 3]] += np.uint32(1)
        for j in range(fours, stop - start):
            tables[0, cells[j]] += np.uint32(1)
    for table in range(4):
        for cell in range(width):
            counts[cell] += tables[table, cell]


@_shared_out
def count_cells(histogram, query, database, mode, query_relevance, item_relevance, dense, begin, end, joint):
    """Add to ``histogram`` int64 (queries, levels, 2) the irrelevant and relevant items from ``begin`` to ``end``.

    ``query`` (words, queries) and ``database`` (words, items < 2**32) are packed codes of uint64;
    ``query_relevance`` and ``item_relevance`` packed labels or ids likewise, or ``dense`` uint8 (queries, items).
    ``joint`` counts two items at a time, which pays for databases well above (2 * levels)**2 items.
    """
    levels = histogram.shape[1]
    for i in prange(query.shape[1]):
        counts = np.zeros(2 * levels, np.uint32)
        if joint:
            _count_jointly(counts, i, query, database, mode, query_relevance, item_relevance, dense, begin, end)
        else:
            _count_singly(counts, i, query, database, mode, query_relevance, item_relevance, dense, begin, end)
        for level in range(levels):
            histogram[i, level, 0] += counts[2 * level]
            histogram[i, level, 1] += counts[2 * level + 1]


@_shared_out
def stable_ranks(ranks, first, start, before, query, database, mode, query_relevance, item_relevance, dense):
    """Write the rank from 0 of every relevant item where items at one distance keep the database's order.

    ``start`` and ``before`` int64 (queries, levels): the items, and the relevant items, nearer than each level.
    ``ranks`` int64 (relevant pairs,): those of query i from ``first[i]`` on, in the order of the ranking. The
    ranking is never sorted: an item's rank is its level's start and those of the level already met.
    """
    n = database.shape[1]
    for i in prange(query.shape[1]):
        met, met_relevant = start[i].copy(), before[i] + first[i]
        cells = np.empty(CHUNK, np.uint16)
        for chunk in range(0, n, CHUNK):
            stop = min(chunk + CHUNK, n)
            _cells(cells, i, query, database, mode, query_relevance, item_relevance, dense, chunk, stop)
            for j in range(stop - chunk):
                level = cells[j] >> np.uint16(1)
                if cells[j] & np.uint16(1):
                    ranks[met_relevant[level]] = met[level]
                    met_relevant[level] += 1
                met[level] += 1


@_shared_out
def count_grades(histogram, query, database, query_labels, item_labels):
    """Count items by distance and grade into ``histogram`` int64 (queries, levels, grades).

    The grade of an item is the number of labels that it shares with the query; packed labels as in SHARED.
    """
    for i in prange(query.shape[1]):
        for j in range(database.shape[1]):
            distance, grade = np.uint64(0), np.uint64(0)
            for word in range(len(query)):
                distance += _popcount(query[word, i] ^ database[word, j])
            for word in range(len(query_labels)):
                grade += _popcount(query_labels[word, i] & item_labels[word, j])
            histogram[i, distance, grade] += 1


@_shared_out
def count_ranks(distances, first, items, start, end, tied_before):
    """Count where each relevant item stands: one pass over its query's distances, nothing is sorted.

    ``distances`` (queries, n) floats; the relevant ``items`` of query i are those from ``first[i]`` to
    ``first[i + 1]``. Writes, aligned with ``items``: ``start``, the items that are nearer; ``end``, those and the
    ones at the same distance; ``tied_before``, the ones at the same distance that precede it in the database.
    """
    n = distances.shape[1]
    for i in prange(distances.shape[0]):
        row = distances[i]
        for k in range(first[i], first[i + 1]):
            own = row[items[k]]
            nearer, level, ahead = 0, 0, 0
            for j in range(n):
                nearer += row[j] < own
                level += row[j] <= own
            if level - nearer > 1:
                for j in range(items[k]):
                    ahead += row[j] == own
            start[k], end[k], tied_before[k] = nearer, level, ahead


@_shared_out
def count_ranks_by_column(matrix, column, first, items, start, end, tied_before):
    """Do as ``count_ranks`` where the distances of query i are the column ``column + i`` of ``matrix`` (n, columns).

    The matrix is read row by row, as it lies in memory, a strip of columns at a time: no copy is turned around.
    """
    queries, n = len(first) - 1, matrix.shape[0]
    strips = (queries + STRIP - 1) // STRIP
    for strip in prange(strips):
        low, high = strip * STRIP, min((strip + 1) * STRIP, queries)
        most = 0
        for i in range(low, high):
            most = max(most, first[i + 1] - first[i])
        for slot in range(most):  # the first relevant item of every query, then the second ..
            own = np.full(high - low, np.inf, matrix.dtype)
            for i in range(low, high):
                if first[i] + slot < first[i + 1]:
                    own[i - low] = matrix[items[first[i] + slot], column + i]
            nearer, level = np.zeros(high - low, np.int32), np.zeros(high - low, np.int32)
            for j in range(n):
                row = matrix[j, column + low : column + high]
                for i in range(high - low):
                    nearer[i] += np.int32(row[i] < own[i])
                    level[i] += np.int32(row[i] <= own[i])
            for i in range(low, high):
                k = first[i] + slot
                if k < first[i + 1]:
                    ahead = 0
                    if level[i - low] - nearer[i - low] > 1:
                        for j in range(items[k]):
                            ahead += matrix[j, column + i] == own[i - low]
                    start[k], end[k], tied_before[k] = nearer[i - low], level[i - low], ahead


@njit(cache=True, nogil=True)
def hits_along(hits, first, starts, sizes, relevant, ranks):
    """Write the expected number of relevant items above each of the ascending ``ranks`` into ``hits`` (q, ranks).

    The tie groups of query i are those from ``first[i]`` to ``first[i + 1]``, nearest first; the places within a
    group are equally likely to hold its relevant items.
    """
    for i in range(hits.shape[0]):
        k, found = first[i], 0.0
        for r in range(len(ranks)):
            rank = ranks[r]
            while k < first[i + 1] and starts[k] + sizes[k] <= rank:
                found += relevant[k]
                k += 1
            share = 0.0
            if k < first[i + 1] and starts[k] < rank:
                share = relevant[k] * (rank - starts[k]) / sizes[k]
            hits[i, r] = found + share


@njit(cache=True, nogil=True)
def precision_sums(sums, first, starts, sizes, before_first, per_place, per_item, harmonic, k):
    """Write, per query, the expected sum over relevant places of (what lies above, itself included) / rank.

    Place i = 1..size of a group counts with the weight ``per_place``, and what then lies at or above it is
    ``before_first + per_item * (i - 1)``; ``k`` (queries,) cuts the ranking; ``harmonic[n]`` = 1 + 1/2 + .. + 1/n.
    """
    for i in range(len(sums)):
        total = 0.0
        for g in range(first[i], first[i + 1]):
            start = starts[g]
            length = min(sizes[g], k[i] - start)
            if length <= 0:
                break
            reach = 1 / (start + 1) if length == 1 else harmonic[start + length] - harmonic[start]
            slope = per_item[g]
            total += per_place[g] * (slope * length + (before_first[g] - slope * (start + 1)) * reach)
        sums[i] = total


@njit(cache=True, nogil=True)
def hits_within(hits, first, starts, sizes, relevant, k):
    """Write the expected relevant items among the first ``k[i]`` of each query; groups as in ``hits_along``."""
    for i in range(len(hits)):
        found = 0.0
        for g in range(first[i], first[i + 1]):
            above = k[i] - starts[g]
            if above <= 0:
                break
            found += relevant[g] if above >= sizes[g] else relevant[g] * above / sizes[g]
        hits[i] = found


@njit(cache=True, nogil=True)
def cut_precision_sums(sums, first, starts, sizes, relevant, harmonic, k):
    """Write the expected sum of the precisions at the relevant items among the first ``k[i]`` of each query.

    A place of a group is relevant by the chance relevant / size, and each place above it in the group then by the
    chance (relevant - 1) / (size - 1). Groups as in ``hits_along``, ``harmonic`` as in ``precision_sums``.
    """
    for i in range(len(sums)):
        total, before = 0.0, 0
        for g in range(first[i], first[i + 1]):
            start, size = starts[g], sizes[g]
            length = min(size, k[i] - start)
            if length <= 0:
                break
            reach = 1 / (start + 1) if length == 1 else harmonic[start + length] - harmonic[start]
            slope = (relevant[g] - 1) / max(size - 1, 1)
            total += relevant[g] / size * (slope * length + (before + 1 - slope * (start + 1)) * reach)
            before += relevant[g]
        sums[i] = total


@njit(cache=True, nogil=True)
def interpolated_sums(sums, first, starts, relevant, total, points):
    """Write the sum, over recalls 0 .. 1 in ``points`` even steps, of the largest precision at each or beyond.

    Relevant items stand on the first places of their groups. The ranking is walked from its end, with the largest
    precision so far; the recall of point p is reached by the hit number ceil(p total / (points - 1)), at least 1.
    """
    for i in range(len(sums)):
        hit = 0
        for g in range(first[i], first[i + 1]):
            hit += relevant[g]
        point, best, value = points - 1, 0.0, 0.0
        for g in range(first[i + 1] - 1, first[i] - 1, -1):
            for place in range(relevant[g] - 1, -1, -1):
                best = max(best, hit / (starts[g] + place + 1))
                while point >= 0 and max((point * total[i] + points - 2) // (points - 1), 1) >= hit:
                    if max((point * total[i] + points - 2) // (points - 1), 1) == hit:
                        value += best
                    point -= 1
                hit -= 1
        sums[i] = value
