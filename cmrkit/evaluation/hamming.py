"""The Hamming core: packed codes, integer distances by popcount, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block, row_blocks


@dataclass(frozen=True)
class Codes:
    """Binary codes packed into unsigned words (n, words); the padding bits are zero in every row."""

    words: np.ndarray
    bits: int

    def __len__(self) -> int:
        return len(self.words)


def check_codes(name: str, codes: np.ndarray) -> Codes:
    """Check codes (n, bits) of -1/+1 or of 0/1, any numeric dtype, and pack them.

    Raises UsageError naming the array and the first offending row.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "biuf":
        raise UsageError(f"{name} must be numeric codes (n, bits), not {codes.dtype} of shape {codes.shape}")
    if codes.size == 0:
        raise UsageError(f"{name} is empty: its shape is {codes.shape}")
    ones, zeros, minus = codes == 1, codes == 0, codes == -1
    good = (ones | minus) if minus.any() else (ones | zeros)
    if not good.all():
        row, bit = np.argwhere(~good)[0]
        raise UsageError(
            f"{name} row {row} holds {codes[row, bit]} at bit {bit}, but codes are -1 and +1, or 0 and 1, throughout "
            "an array; real-valued embeddings need another space, such as 'cosine'"
        )
    return Codes(pack(ones), codes.shape[1])


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack bool (n, bits) into the narrowest unsigned words that hold a row, or into 64-bit words."""
    packed = np.packbits(bits, axis=1)
    width = next((w for w in (1, 2, 4, 8) if packed.shape[1] <= w), 8)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % width)))
    return np.ascontiguousarray(padded).view(f"u{width}")


def hamming_distances(query: np.ndarray, database: np.ndarray, bits: int) -> np.ndarray:
    """Return the distances (q, n) between packed codes, as uint8 up to 255 bits and uint16 beyond."""
    total = np.zeros((len(query), len(database)), dtype=np.uint8 if bits < 256 else np.uint16)
    for word in range(query.shape[1]):
        total += np.bitwise_count(query[:, word, None] ^ database[None, :, word])
    return total


def hamming_blocks(query: Codes, database: Codes, relevance) -> Iterator[Block]:
    """Yield, for block after block of queries, their distances to the database and its relevance.

    This is all that the rest of the room knows of Hamming space. ``relevance.rows(slice)`` gives bool
    (q, n). Raises UsageError where the codes differ in length.
    """
    if query.bits != database.bits:
        raise UsageError(f"the query codes have {query.bits} bits, the database codes {database.bits}")
    for rows in row_blocks(len(query), len(database)):
        distances = hamming_distances(query.words[rows], database.words, query.bits)
        yield Block(distances, relevance.rows(rows), levels=query.bits + 1)
