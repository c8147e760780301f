"""Clusters of similar texts: hierarchical clustering of vectors of their words.

SCoTD (section 4) clusters S-BERT embeddings. Here a text is the vector of its word and word-pair counts, which needs no
second model; linkage and distance are ours too: average linkage, cosine distance.
"""

import collections
import itertools
from collections.abc import Sequence

import numpy as np

from scotd_jax.rationales.words import words


def cluster_texts(texts: Sequence[str], count: int) -> list[int]:
    """Returns the cluster of each text, a number from 0 to `count` - 1.

    The clusters of a larger count are parts of those of a smaller one.

    Args:
      texts: at least two texts.
      count: number of clusters, from 1 to the number of texts.
    """
    vectors = ngram_vectors(texts)
    return cluster(1 - vectors @ vectors.T, count)


def ngram_vectors(texts: Sequence[str]) -> np.ndarray:
    """Returns the counts of words and pairs of words as unit vectors, float64[texts, n-grams]; zeros without words."""
    counts = [collections.Counter((*tokens, *itertools.pairwise(tokens))) for tokens in map(words, texts)]
    column = {ngram: i for i, ngram in enumerate(dict.fromkeys(itertools.chain(*counts)))}
    vectors = np.zeros((len(texts), max(1, len(column))))
    for vector, of_text in zip(vectors, counts, strict=True):
        vector[[column[ngram] for ngram in of_text]] = list(of_text.values())
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cluster(distances: np.ndarray, count: int) -> list[int]:
    """Returns the cluster of each item: the two nearest clusters are merged until `count` are left (average linkage).

    Args:
      distances: symmetric distances of at least two items, [items, items].
      count: number of clusters.
    """
    from scipy.cluster import hierarchy  # loaded by worker processes only if a corpus needs it

    # Rounded, so that the order of a sum of products does not decide between equal distances.
    above_diagonal = np.round(distances[np.triu_indices(len(distances), 1)], 9)
    merges = hierarchy.linkage(np.maximum(above_diagonal, 0), "average")[: len(distances) - count]
    clusters = {i: [i] for i in range(len(distances))}
    for number, (one, other, *_) in enumerate(merges, len(distances)):
        clusters[number] = clusters.pop(int(one)) + clusters.pop(int(other))
    label_of = {item: label for label, items in enumerate(clusters.values()) for item in items}
    return [label_of[i] for i in range(len(distances))]
