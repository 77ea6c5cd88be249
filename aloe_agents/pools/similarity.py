"""Which texts are new to a pool, which are nearest to each other, which lie farthest apart: vectors in, indices out.

1. Vectors are normalised and kept in one float32 matrix that grows in place. A batch is compared by one product with
   the matrix, a block of rows at a time, so that intermediate results never leave the processor's cache.
2. Centred similarity is the cosine after subtracting the pool's mean vector. Texts of one kind share a common
   direction ("is a N-year-old ... enjoys"), which lifts the raw cosines of strangers above 0.6. The matrix stays raw;
   the mean enters as one more column of the product and a correction, which is exact.
3. The mean is taken when a batch begins, over the pool at that moment, and holds for the whole batch. So whoever adds
   batches in a fixed order gets the same pool, whatever the timing.
4. Near the mean, centred directions are noise. So two texts whose raw cosine reaches ``SAME`` count as similar as well.
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
"""The paper's threshold (section 2.1)."""
SAME = 0.95
"""Raw cosine from which two texts count as one, wherever the mean lies."""
_BLOCK = 2048
_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a candidate is new to the pool, and which member is nearest to it."""

    new: bool
    similarity: float
    """Similarity to the nearest member when the candidate was compared; 0 if the pool was empty."""
    nearest: int
    """The row of that member, which may come from the same batch; -1 if the pool was empty."""


class Novelty:
    """The greedy filter of the paper, section 2.1: a candidate joins unless it is too similar to a member.

    ``threshold`` is the highest similarity to any member with which a candidate still joins.
    """

    def __init__(self, threshold: float = THRESHOLD, similarity: Similarity = "centred") -> None:
        self.threshold = threshold
        self.centred = similarity == "centred"
        self._matrix: Vectors = np.empty((0, 0), np.float32)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, vectors: Vectors) -> None:
        """Let all of ``vectors`` (n, dimension) join, without comparing them."""
        for vector in normalised(vectors):
            self._join(vector)

    def mean(self, total: NDArray[np.float64] | None = None, count: int = 0) -> Vectors:
        """The mean (dimension,) of the members' normalised vectors.

        ``count`` more vectors count as members, too: ``total`` (dimension,) is the sum of their normalised vectors.
        """
        both = self._sum if total is None else total + self._sum if self._count else total
        return (both / max(self._count + count, 1)).astype(np.float32)

    def admit(self, batch: Vectors, mean: Vectors | None = None) -> list[Admission]:
        """Compare each vector of a batch (n, dimension) with the pool and with those of the batch that joined before it.

        ``mean`` (dimension,) replaces the pool's: an import into an empty pool has no mean but its own. The cost is one
        product of the pool with n + 1 columns.
        """
        batch = normalised(batch)
        self._room_for(0, batch.shape[1])
        if not self.centred:
            mean = np.zeros(batch.shape[1], np.float32)
        elif mean is None:
            mean = self.mean()
        columns, distance = _unit(batch - mean)
        similar, nearest = self._compare(columns, mean)
        if self.centred:  # raw cosines need no second look: one that reaches SAME exceeds the threshold anyway
            self._look_near_the_mean(batch, distance, similar, nearest)
        raw = batch @ batch.T
        return self._in_order(batch, similar, nearest, np.where(raw >= SAME, raw, columns @ columns.T))

    def _look_near_the_mean(
        self, batch: Vectors, distance: Vectors, similar: Vectors, nearest: NDArray[np.intp]
    ) -> None:
        """Correct ``similar`` and ``nearest`` where a member's raw cosine reaches SAME, which centring may hide.

        Farther from the mean than this distance, a raw cosine of SAME is a centred one above the threshold anyway.
        """
        close = np.flatnonzero(distance < math.sqrt(2 * (1 - SAME) / max(1 - self.threshold**2, 1e-6)))
        if len(close):
            raw, where = self._compare(batch[close], np.zeros(batch.shape[1], np.float32))
            same = raw >= SAME
            similar[close[same]], nearest[close[same]] = raw[same], where[same]

    def _in_order(self, batch: Vectors, similar: Vectors, nearest: NDArray[np.intp], among: Vectors) -> list[Admission]:
        """Let the batch join one by one. ``similar`` and ``nearest`` (n,) are about the pool, ``among`` (n, n) the batch."""
        verdicts: list[Admission] = []
        joined: list[int] = []
        for n, vector in enumerate(batch):
            best, at = float(similar[n]), int(nearest[n])
            if joined:
                closest = int(among[n, joined].argmax())
                if among[n, joined[closest]] > best:
                    best, at = float(among[n, joined[closest]]), self._count - len(joined) + closest
            new = best <= self.threshold
            verdicts.append(Admission(new, best if at >= 0 else 0.0, at))
            if new:
                joined.append(n)
                self._join(vector)
        return verdicts

    def _compare(self, columns: Vectors, mean: Vectors) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """For each column (n, dimension) its highest similarity to a member (n,), and that member's row (-1: no members)."""
        best = np.full(len(columns), -np.inf, np.float32)
        row = np.full(len(columns), -1)
        left = np.vstack([columns, mean]).astype(np.float32, copy=False)
        offset, length = columns @ mean, float(mean @ mean)
        for start in range(0, self._count, _BLOCK):
            products = left @ self._matrix[start : min(start + _BLOCK, self._count)].T
            similar, on_mean = products[:-1], products[-1]
            if length:  # (x - mean) . c / |x - mean|, for raw rows x of length 1
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
                raise ConfigError(
                    f"the pool's vectors have {self._matrix.shape[1]} dimensions, but these have {dimension}"
                )
            self._matrix, self._sum = np.empty((64, dimension), np.float32), np.zeros(dimension)
        if self._count + more > len(self._matrix):  # in place: pages are moved, not copied
            self._matrix.resize((int(_GROWTH * (self._count + more)) + 64, dimension), refcheck=False)


def normalised(vectors: Vectors) -> Vectors:
    """``vectors`` (n, dimension), each scaled to length 1; a zero vector stays zero."""
    return _unit(np.asarray(vectors, np.float32))[0]


def centred(vectors: Vectors) -> Vectors:
    """``vectors`` (n, dimension), normalised, minus their mean, normalised again.

    The products of the result's rows are the centred similarities.
    """
    unit = normalised(vectors)
    return _unit(unit - unit.mean(axis=0))[0]


def directions(vectors: Vectors, similarity: Similarity) -> Vectors:
    """``vectors`` (n, dimension) scaled so that the products of rows are similarities of this kind."""
    return normalised(vectors) if similarity == "raw" else centred(vectors)


def neighbours(vectors: Vectors, of: NDArray[np.intp] | None = None) -> tuple[Vectors, NDArray[np.intp]]:
    """For each row of ``vectors`` (n, dimension) the highest product with another row, and that row's number.

    ``of`` limits this to some rows. Quadratic in n, block by block.
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
    """Rows of ``vectors`` (n, dimension), each as far as possible from those before it (farthest-point sampling).

    The first row is the one least like all the rest. A row more than ``at_most`` similar to a row that was not chosen
    is passed over.
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
