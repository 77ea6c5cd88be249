"""How diverse a pool is: nearest neighbours, words, topics, a map. Texts and vectors go in, figures come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aloe_agents.errors import ConfigError
from aloe_agents.pools.similarity import Vectors, neighbours
from aloe_agents.text import telling_words

LOOKED_AT = 5000
"""How many items get a nearest neighbour. A larger pool is sampled, since the search is quadratic."""
TOPICS = 8
PAIRS = 10


@dataclass(frozen=True, slots=True)
class ClosestPair:
    """Two items and how similar they are."""

    one: int
    other: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of items that lie close together, and the words that set it apart."""

    size: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """The figures of one pool."""

    items: int
    words: int
    """Words in all items together."""
    vocabulary: int
    """How many different telling words the pool has."""
    frequent: tuple[tuple[str, int], ...]
    """The words found in most items, each with its number of items."""
    nearest: NDArray[np.float32] = field(repr=False)
    """Similarity to the nearest neighbour, one figure for each item of the sample."""
    pairs: tuple[ClosestPair, ...]
    """The most similar pairs."""
    vendi: float
    """How many items with nothing in common would be as diverse: the Vendi score (Friedman and Dieng, 2023)."""
    topics: tuple[Topic, ...]
    topic_of: NDArray[np.intp] = field(repr=False)
    """The topic of each item, by its place in ``topics``."""


def measure_diversity(texts: Sequence[str], vectors: Vectors) -> Diversity:
    """The figures of a pool with n texts and their vectors (n, dimension): :func:`directions` of either similarity."""
    told = [telling_words(text) for text in texts]
    in_items = Counter(word for words in told for word in set(words))
    rows = np.sort(np.random.default_rng(0).permutation(len(texts))[:LOOKED_AT])
    nearest, at = neighbours(vectors, rows)
    pairs = {(min(row, other), max(row, other)): like for row, other, like in zip(rows, at, nearest, strict=True)}
    most = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS] if len(texts) > 1 else []
    topic_of = _topics(vectors, min(TOPICS, len(texts)))
    return Diversity(
        items=len(texts),
        words=sum(len(text.split()) for text in texts),
        vocabulary=len(in_items),
        frequent=tuple(in_items.most_common(12)),
        nearest=nearest,
        pairs=tuple(ClosestPair(int(one), int(other), float(like)) for (one, other), like in most),
        vendi=_vendi(vectors),
        topics=_named(told, in_items, topic_of),
        topic_of=topic_of,
    )


def flat(vectors: Vectors) -> NDArray[np.float64]:
    """A map (n, 2) of the vectors (n, dimension): their two principal components."""
    offset = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(offset.T.astype(np.float64) @ offset)
    plane: NDArray[np.float64] = offset @ axes[:, ::-1][:, :2]
    return plane


def umap_of(vectors: Vectors) -> NDArray[np.float64]:
    """A map (n, 2) of the vectors (n, dimension), made by UMAP. Raises ConfigError if umap-learn is not installed."""
    try:
        import umap
    except ImportError:
        raise ConfigError("a map laid out by UMAP needs umap-learn: pip install umap-learn") from None
    plane: NDArray[np.float64] = umap.UMAP(n_components=2, metric="cosine", random_state=0).fit_transform(vectors)
    return plane


def _vendi(vectors: Vectors) -> float:
    """The exponential of the entropy of the similarity matrix's eigenvalues, computed from the smaller covariance matrix."""
    spectrum = np.linalg.eigvalsh(vectors.T.astype(np.float64) @ vectors / max(len(vectors), 1))
    spectrum = spectrum[spectrum > 1e-12]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def _topics(vectors: Vectors, count: int) -> NDArray[np.intp]:
    """The group of each row (n,): spherical k-means that starts from rows far apart, so it is always the same."""
    centres = [int((vectors @ vectors.sum(axis=0)).argmax())] if len(vectors) else []
    while len(centres) < count:
        centres.append(int((vectors @ vectors[centres].T).max(axis=1).argmin()))
    means = vectors[centres]
    group = np.zeros(len(vectors), np.intp)
    for _ in range(30 if count else 0):
        now = (vectors @ means.T).argmax(axis=1)
        if (now == group).all():
            break
        group = now
        sums = np.stack([vectors[group == n].sum(axis=0) for n in range(len(means))])
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return group


def _named(told: Sequence[Sequence[str]], in_items: Counter[str], group: NDArray[np.intp]) -> tuple[Topic, ...]:
    """Each group with the words that occur in it most, and elsewhere least."""
    topics = []
    for n in sorted(set(group.tolist())):
        rows = np.flatnonzero(group == n)
        inside = Counter(word for row in rows for word in set(told[row]))
        words = sorted(inside, key=lambda word: (-inside[word] * inside[word] / in_items[word], word))[:5]
        topics.append(Topic(len(rows), tuple(words)))
    return tuple(topics)
