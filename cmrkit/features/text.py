"""Classic text features, whose vocabulary and weights come from the training texts alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmrkit.errors import UsageError

MAX_TERMS = 1000
MIN_TEXTS = 2
WORD = r"[a-z0-9]+"


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


def tfidf_lsa(captions: Sequence[str], train: np.ndarray, dim: int, min_count: int) -> np.ndarray:
    """Return latent semantic coordinates, float32 (n, dim): TF-IDF rows on their first singular directions.

    Words are those that at least ``min_count`` training texts contain; a count c weighs 1 + log c, with the
    document frequencies of `tfidf`. The directions are those of the training texts, found by randomised SVD
    (Halko et al. 2011) from a fixed start. Rows have length 1; a text without any known word is a zero row.
    Raises UsageError where the training texts have fewer words, or are fewer, than ``dim``.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    options = {"lowercase": True, "token_pattern": WORD, "min_df": min_count, "sublinear_tf": True}
    vectorizer = TfidfVectorizer(**options)
    weights = vectorizer.fit_transform([captions[row] for row in train])
    if min(weights.shape) < dim:
        texts, words = weights.shape
        raise UsageError(f"{dim} latent directions are wanted, but {texts} training texts have only {words} words")
    svd = TruncatedSVD(dim, n_iter=7, random_state=0).fit(weights)
    return normalize(svd.transform(vectorizer.transform(captions))).astype(np.float32)


def lda(captions: Sequence[str], train: np.ndarray, topics: int) -> np.ndarray:
    """Return topic proportions, float32 (n, topics), by latent Dirichlet allocation (Blei et al. 2003).

    Topics are those of the training texts: variational Bayes over the vocabulary of `bow` without English stop
    words, ten passes in mini-batches (Hoffman et al. 2010), from a fixed start. Rows sum to 1.
    """
    from sklearn.decomposition import LatentDirichletAllocation
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(**_options(), stop_words="english")
    counts = vectorizer.fit_transform([captions[row] for row in train])
    model = LatentDirichletAllocation(topics, learning_method="online", batch_size=1024, max_iter=10, random_state=0)
    model.fit(counts)
    return model.transform(vectorizer.transform(captions)).astype(np.float32)


def _options() -> dict[str, object]:
    return {
        "lowercase": True,
        "token_pattern": WORD,
        "max_features": MAX_TERMS,
        "min_df": MIN_TEXTS,
        "dtype": np.float32,
    }


def _vectorised(vectorizer, captions: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    vectorizer.fit([captions[row] for row in train])
    return vectorizer.transform(captions).toarray(), vectorizer.get_feature_names_out().tolist()
