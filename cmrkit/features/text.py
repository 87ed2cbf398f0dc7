"""Classic text features, whose vocabulary and weights come from the training texts alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_TERMS = 1000
MIN_TEXTS = 2


def bow(captions: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return word counts, float32 (n, d), and the vocabulary of d words in column order.

    ``train`` are the rows of the training texts. Words are lower-case runs of letters and digits; the 1,000
    most frequent ones of the training texts that occur in at least two of them are kept. A text without any
    of them is a zero row.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    return _vectorised(CountVectorizer(**_options()), captions, train)


def tfidf(captions: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return TF-IDF weights, float32 (n, d), with rows of length 1, and the vocabulary in column order.

    The vocabulary is that of `bow`. A word that t of the N training texts contain has the smoothed weight
    log((1 + N) / (1 + t)) + 1.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return _vectorised(TfidfVectorizer(**_options(), norm="l2", smooth_idf=True), captions, train)


def _options() -> dict[str, object]:
    return {
        "lowercase": True,
        "token_pattern": r"[a-z0-9]+",
        "max_features": MAX_TERMS,
        "min_df": MIN_TEXTS,
        "dtype": np.float32,
    }


def _vectorised(vectorizer, captions: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    vectorizer.fit([captions[row] for row in train])
    return vectorizer.transform(captions).toarray(), vectorizer.get_feature_names_out().tolist()
