"""Which texts are new to a pool, which are nearest to each other, which lie farthest apart: vectors in, indices out.

1. Vectors are normalised and kept in one float32 matrix that grows in place. A batch is compared by one product with
   it, a block of rows at a time, so that what comes out never leaves the processor's cache.
2. Centred similarity is the cosine after the pool's mean vector was taken off: texts of one kind share a common
   direction ("is a N-year-old ... enjoys"), which makes raw cosines of strangers exceed 0.6. The matrix stays raw; the
   mean enters as one more column of the product and a correction, which is exact.
3. The mean is taken when a batch begins, over the pool as it then is, and holds for the whole batch. Whoever adds
   batches in a fixed order therefore gets the same pool, whatever the timing.
4. Near the mean centred directions are noise, so whatever is ``SAME`` by raw cosine counts as similar, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aloe_agents.errors import ConfigError

Vectors = NDArray[np.float32]
Similarity = Literal["centred", "raw"]
THRESHOLD = 0.6
"""The paper's (section 2.1)."""
SAME = 0.95
"""Raw cosine above which two texts are one, wherever the mean lies."""
_BLOCK = 2048
_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a candidate is new to the pool, and what it is nearest to."""

    new: bool
    similarity: float
    """To its nearest member when it was compared; 0 where there was none."""
    nearest: int
    """The row of that member, which may have come with the same batch; -1 where there was none."""


class Novelty:
    """The greedy filter of section 2.1: a candidate joins unless its similarity to a member exceeds ``threshold``."""

    def __init__(self, threshold: float = THRESHOLD, similarity: Similarity = "centred") -> None:
        self.threshold = threshold
        self.centred = similarity == "centred"
        self._matrix: Vectors = np.empty((0, 0), np.float32)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Vectors:
        """The members' normalised vectors, (members, dimension): a view, in the order of joining."""
        return self._matrix[: self._count]

    def add(self, vectors: Vectors) -> None:
        """Let ``vectors`` (n, dimension) join without being compared."""
        for vector in normalised(vectors):
            self._join(vector)

    def mean(self, total: NDArray[np.float64] | None = None, count: int = 0) -> Vectors:
        """The members' mean vector; ``count`` others, whose normalised vectors sum to ``total``, count as members."""
        both = self._sum if total is None else total + self._sum if self._count else total
        return (both / max(self._count + count, 1)).astype(np.float32)

    def admit(self, batch: Vectors, mean: Vectors | None = None) -> list[Admission]:
        """Compare a batch (n, dimension) with the pool and, in its order, with what of it has joined before.

        ``mean`` replaces that of the pool: what is imported into an empty pool has no other mean than its own. Costs
        one product of the pool with n + 1 columns.
        """
        batch = normalised(batch)
        self._room_for(0, batch.shape[1])
        if mean is None or not self.centred:
            mean = self.mean() if self.centred else np.zeros(batch.shape[1], np.float32)
        columns, distance = _unit(batch - mean)
        similar, nearest = self._compare(columns, mean)
        if self.centred:  # elsewhere a raw cosine of SAME is a centred one above the threshold
            close = np.flatnonzero(distance < math.sqrt(2 * (1 - SAME) / max(1 - self.threshold**2, 1e-6)))
            if len(close):
                raw, where = self._compare(batch[close], np.zeros_like(mean))
                same = raw >= SAME
                similar[close[same]], nearest[close[same]] = raw[same], where[same]
        among, among_raw = columns @ columns.T, batch @ batch.T
        among = np.where(among_raw >= SAME, among_raw, among)
        verdicts: list[Admission] = []
        joined: list[int] = []
        for n in range(len(batch)):
            best, at = float(similar[n]), int(nearest[n])
            if joined:
                closest = int(among[n, joined].argmax())
                if among[n, joined[closest]] > best:
                    best, at = float(among[n, joined[closest]]), self._count - len(joined) + closest
            new = best <= self.threshold
            verdicts.append(Admission(new, best if at >= 0 else 0.0, at))
            if new:
                joined.append(n)
                self._join(batch[n])
        return verdicts

    def _compare(self, columns: Vectors, mean: Vectors) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """For each of the columns its highest similarity to a member, and that member's row (-1: no members)."""
        best = np.full(len(columns), -np.inf, np.float32)
        row = np.full(len(columns), -1)
        left = np.vstack([columns, mean]).astype(np.float32, copy=False)
        offset, length = columns @ mean, float(mean @ mean)
        for start in range(0, self._count, _BLOCK):
            products = left @ self._matrix[start : min(start + _BLOCK, self._count)].T
            similar, on_mean = products[:-1], products[-1]
            if length:  # (x - mean) . c / |x - mean|, of raw rows x of length 1
                squared = np.maximum(1 + length - 2 * on_mean, 1e-6)  # a member on the mean has no direction
                similar -= offset[:, None]
                similar *= 1 / np.sqrt(squared)
            at = similar.argmax(axis=1)
            found = similar[np.arange(len(columns)), at]
            better = found > best
            best[better], row[better] = found[better], at[better] + start
        return best, row

    def _join(self, vector: Vectors) -> None:
        self._room_for(1, len(vector))
        self._matrix[self._count] = vector
        self._sum += vector
        self._count += 1

    def _room_for(self, more: int, dimension: int) -> None:
        if self._matrix.shape[1] != dimension:
            if self._count:
                raise ConfigError(f"the pool's vectors have {self._matrix.shape[1]} dimensions, these {dimension}")
            self._matrix, self._sum = np.empty((64, dimension), np.float32), np.zeros(dimension)
        if self._count + more > len(self._matrix):  # in place: the pages are moved, not copied
            self._matrix.resize((int(_GROWTH * (self._count + more)) + 64, dimension), refcheck=False)


def normalised(vectors: Vectors) -> Vectors:
    """``vectors`` (n, dimension) with length 1 each; a zero vector stays one."""
    return _unit(np.asarray(vectors, np.float32))[0]


def centred(vectors: Vectors) -> Vectors:
    """``vectors`` (n, dimension), normalised, without their mean, normalised again: their products are the centred
    similarities.
    """
    unit = normalised(vectors)
    return _unit(unit - unit.mean(axis=0))[0]


def neighbours(vectors: Vectors, of: NDArray[np.intp] | None = None) -> tuple[Vectors, NDArray[np.intp]]:
    """For each row of ``vectors`` (n, dimension; or for the rows ``of`` alone) the highest product with another row,
    and that row. Quadratic in n, block by block.
    """
    rows = np.arange(len(vectors)) if of is None else of
    best, at = np.full(len(rows), -1, np.float32), np.full(len(rows), -1)
    if len(vectors) > 1:
        for start in range(0, len(rows), 512):
            block = rows[start : start + 512]
            products = vectors[block] @ vectors.T
            products[np.arange(len(block)), block] = -np.inf
            at[start : start + 512] = products.argmax(axis=1)
            best[start : start + 512] = products.max(axis=1)
    return best, at


def apart(vectors: Vectors, at_most: float) -> Iterator[int]:
    """Rows of ``vectors`` (n, dimension), each as far as can be from those before it (farthest-point sampling; the
    first is the one least like all the rest), and no more than ``at_most`` similar to any row that was not yielded.
    """
    if not len(vectors):
        return
    chosen = np.zeros(len(vectors), bool)
    refused = np.zeros(len(vectors), bool)
    closest = vectors @ vectors.sum(axis=0) / len(vectors)
    first = True
    while not (out := chosen | refused).all():
        row = int(np.where(out, np.inf, closest).argmin())
        similar = vectors @ vectors[row]
        others = ~chosen
        others[row] = False
        if (similar[others] > at_most).any():
            refused[row] = True
            continue
        chosen[row] = True
        closest = similar if first else np.maximum(closest, similar)
        first = False
        yield row


def _unit(vectors: Vectors) -> tuple[Vectors, NDArray[np.float32]]:
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors / np.maximum(lengths, 1e-12)[:, None], lengths
