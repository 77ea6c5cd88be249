"""How diverse a pool is: nearest neighbours, words, topics, a map. Texts and vectors in, figures out; it prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aloe_agents.pools.similarity import Vectors, neighbours
from aloe_agents.text import telling_words

LOOKED_AT = 5000
"""Items whose nearest neighbour is looked for; of a larger pool a sample, since looking is quadratic."""
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
    """A group of items that lie together, and the words that tell it from the rest."""

    size: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """The figures of one pool."""

    items: int
    words: int
    """In all."""
    vocabulary: int
    """Different words that tell something."""
    frequent: tuple[tuple[str, int], ...]
    """Words that stand in most items, and in how many."""
    nearest: NDArray[np.float32] = field(repr=False)
    """The similarity of each item that was looked at to its nearest neighbour."""
    pairs: tuple[ClosestPair, ...]
    """The most similar ones."""
    vendi: float
    """How many wholly different items would be as diverse: the Vendi score (Friedman and Dieng, 2023)."""
    topics: tuple[Topic, ...]
    topic_of: NDArray[np.intp] = field(repr=False)


def measure_diversity(texts: Sequence[str], vectors: Vectors) -> Diversity:
    """The figures of a pool with these texts and vectors (n, dimension), normalised, centred or raw."""
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
    """The vectors (n, dimension) on a plane (n, 2): their two principal components."""
    offset = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(offset.T.astype(np.float64) @ offset)
    plane: NDArray[np.float64] = offset @ axes[:, ::-1][:, :2]
    return plane


def _vendi(vectors: Vectors) -> float:
    """The exponential of the entropy of the similarity matrix's eigenvalues, got from the smaller covariance."""
    spectrum = np.linalg.eigvalsh(vectors.T.astype(np.float64) @ vectors / max(len(vectors), 1))
    spectrum = spectrum[spectrum > 1e-12]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def _topics(vectors: Vectors, count: int) -> NDArray[np.intp]:
    """The group of each row: spherical k-means, begun with rows far apart, so that it is the same every time."""
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
    """Each group with the words that most of all stand in it and not elsewhere."""
    topics = []
    for n in sorted(set(group.tolist())):
        rows = np.flatnonzero(group == n)
        inside = Counter(word for row in rows for word in set(told[row]))
        words = sorted(inside, key=lambda word: (-inside[word] * inside[word] / in_items[word], word))[:5]
        topics.append(Topic(len(rows), tuple(words)))
    return tuple(topics)
