"""How well a model adapts to users: alignment levels, their improvement, intervals, differences, agreement.

1. Scores are a table (cases, turns) with nan where one is missing. AL(k) is the mean of what is there at turn k
   (section 3); how many scores stand behind it is reported beside it, and nothing is filled in.
2. IR is the slope of the least-squares line through AL(1), ..., AL(K) (equation 3), R2 its coefficient of
   determination. N-IR and N-R2 are the same after AL was put between 0 and 1 by its least and greatest value: over all
   turns, with which the figures of Tables 1 and 2 come out, or over the turns so far, as equation 4 is printed.
3. A curve without range has R2 and N-R2 nan (there is nothing to explain) and N-AL, so N-IR, 0. Turns without a score
   are left out of the line; with fewer than two left, IR and the rest are nan.
4. Intervals are percentile bootstrap over clusters: personas that share a profile are drawn together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.float64]
Normalisation = Literal["all", "running"]
DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Improvement:
    """What a curve AL(1..K) comes to."""

    average: float
    ir: float
    r2: float
    n_ir: float
    n_r2: float


STATISTICS = tuple(field.name for field in fields(Improvement))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its confidence interval; nan where there are too few clusters to tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All figures of one table of scores."""

    al: tuple[Interval, ...]
    """AL(k) by turn."""
    scores: tuple[int, ...]
    """How many scores stand behind each AL(k)."""
    missing: int
    """Scores that should be there and are not."""
    statistics: dict[str, Interval]
    """By the names of :class:`Improvement`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure of one model minus the same of another, on the same cases."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, from the same draws for both: the share that lies on the other side of 0, twice."""


def improvement(al: ArrayLike, normalisation: Normalisation = "all") -> Improvement:
    """The figures of one curve AL(1..K), nan where a turn has none.

    Raises ValueError for what is no curve.
    """
    curve = np.asarray(al, np.float64)
    if curve.ndim != 1 or not len(curve):
        raise ValueError(f"a curve is one row of alignment levels, not an array of shape {curve.shape}")
    return Improvement(*(float(row[0]) for row in _statistics(curve[None], normalisation)))


def alignment(scores: ArrayLike) -> tuple[Table, NDArray[np.int64]]:
    """AL(k) of a table (cases, turns), and how many scores stand behind each; nan where none does."""
    table = np.asarray(scores, np.float64)
    there = np.isfinite(table)
    counts = there.sum(axis=0)
    total = np.where(there, table, 0.0).sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan), counts


def measure(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    normalisation: Normalisation = "all",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Measured:
    """All figures of a table (cases, turns), with bootstrap intervals over ``clusters`` (default: each case is one).

    Raises ValueError for a table without a case or a turn, or with another number of clusters than cases.
    """
    table = _table(scores)
    al, counts = alignment(table)
    drawn = _drawn(table, _weights(clusters, len(table), draws, seed))
    curves = [_interval(value, drawn[:, k], level) for k, value in enumerate(al)]
    point = astuple(improvement(al, normalisation))
    spread = _statistics(drawn, normalisation)
    statistics = {
        name: _interval(value, column, level) for name, value, column in zip(STATISTICS, point, spread, strict=True)
    }
    return Measured(
        al=tuple(curves),
        scores=tuple(int(count) for count in counts),
        missing=int(table.size - counts.sum()),
        statistics=statistics,
    )


def difference(
    one: ArrayLike,
    other: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    normalisation: Normalisation = "all",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """``one`` minus ``other`` in every statistic, by a paired bootstrap: row n of both is the same case.

    Raises ValueError for tables of different shape.
    """
    first, second = _table(one), _table(other)
    if first.shape != second.shape:
        raise ValueError(f"tables of the same cases have the same shape, not {first.shape} and {second.shape}")
    weights = _weights(clusters, len(first), draws, seed)
    spreads = zip(*(_statistics(_drawn(table, weights), normalisation) for table in (first, second)), strict=True)
    points = zip(*(astuple(improvement(alignment(table)[0], normalisation)) for table in (first, second)), strict=True)
    found = {}
    for name, (a, b), (draws_a, draws_b) in zip(STATISTICS, points, spreads, strict=True):
        apart = draws_a - draws_b
        apart = apart[np.isfinite(apart)]
        around = _interval(a - b, apart, level)
        beyond = min((apart <= 0).mean(), (apart >= 0).mean()) if len(apart) > 1 else np.nan
        p = float(min(1.0, max(2 * beyond, 1 / max(len(apart), 1)))) if np.isfinite(beyond) else float("nan")
        found[name] = Difference(value=a - b, low=around.low, high=around.high, p=p)
    return found


def kappa(
    one: ArrayLike,
    other: ArrayLike,
    weights: Literal["quadratic"] | None = None,
    ratings: Sequence[int] = (1, 2, 3, 4, 5),
) -> float:
    """Cohen's kappa of two raters on the same things; nan in either leaves a thing out.

    ``weights="quadratic"`` counts a disagreement by the square of its distance. nan where chance alone explains
    everything (both raters always say the same one thing), or nothing is left. Raises ValueError for a rating that is
    none of ``ratings``.
    """
    pairs = np.stack([np.asarray(one, np.float64), np.asarray(other, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    known = np.asarray(ratings, np.float64)
    if not np.isin(pairs, known).all():
        raise ValueError(f"a rating is one of {', '.join(map(str, ratings))}")
    seen = np.zeros((len(known), len(known)))
    np.add.at(seen, (np.searchsorted(known, pairs[0]), np.searchsorted(known, pairs[1])), 1)
    if not seen.sum():
        return float("nan")
    seen /= seen.sum()
    chance = np.outer(seen.sum(axis=1), seen.sum(axis=0))
    apart = np.subtract.outer(known, known)
    cost = apart**2 if weights == "quadratic" else (apart != 0).astype(np.float64)
    expected = float((cost * chance).sum())
    return float(1 - (cost * seen).sum() / expected) if expected else float("nan")


def _table(scores: ArrayLike) -> Table:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"scores are a table of cases and turns, not an array of shape {table.shape}")
    return table


def _weights(clusters: Sequence[Hashable] | None, cases: int, draws: int, seed: int) -> Table | None:
    """How often each case is in each draw (draws, cases); None where there are too few clusters to draw from."""
    if clusters is not None and len(clusters) != cases:
        raise ValueError(f"{len(clusters)} clusters given for {cases} cases")
    names = list(dict.fromkeys(clusters if clusters is not None else range(cases)))
    if len(names) < 2:
        return None
    place = {name: n for n, name in enumerate(names)}
    member = np.array([place[name] for name in (clusters if clusters is not None else range(cases))])
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    weights: Table = drawn[:, member].astype(np.float64)
    return weights


def _drawn(table: Table, weights: Table | None) -> Table:
    """AL(k) in every draw (draws, turns)."""
    if weights is None:
        return np.empty((0, table.shape[1]))
    there = np.isfinite(table).astype(np.float64)
    counts = weights @ there
    total = weights @ np.where(there > 0, table, 0.0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _statistics(curves: Table, normalisation: Normalisation) -> tuple[Table, Table, Table, Table, Table]:
    """Average, IR, R2, N-IR and N-R2 of many curves (curves, turns)."""
    counts = np.isfinite(curves).sum(axis=1)
    average = np.where(counts > 0, np.nansum(curves, axis=1) / np.maximum(counts, 1), np.nan)
    return (average, *_line(curves), *_line(_normalised(curves, normalisation)))


def _line(curves: Table) -> tuple[Table, Table]:
    """Slope and coefficient of determination of each curve over its turns that have a value."""
    there = np.isfinite(curves)
    counts = there.sum(axis=1)
    safe = np.maximum(counts, 1)
    turns = np.where(there, np.arange(1.0, curves.shape[1] + 1), 0.0)
    values = np.where(there, curves, 0.0)
    x = np.where(there, turns - (turns.sum(axis=1) / safe)[:, None], 0.0)
    y = np.where(there, values - (values.sum(axis=1) / safe)[:, None], 0.0)
    xx, xy, yy = (x * x).sum(axis=1), (x * y).sum(axis=1), (y * y).sum(axis=1)
    enough = counts > 1
    slope = np.where(enough, xy / np.where(enough, xx, 1.0), np.nan)
    ranges = enough & (yy > 1e-18 * safe)
    return slope, np.where(ranges, xy**2 / np.where(ranges, xx * yy, 1.0), np.nan)


def _normalised(curves: Table, normalisation: Normalisation) -> Table:
    if normalisation == "running":
        low = np.fmin.accumulate(curves, axis=1)
        high = np.fmax.accumulate(curves, axis=1)
    else:
        there = np.isfinite(curves)
        low = np.where(there, curves, np.inf).min(axis=1, keepdims=True)
        high = np.where(there, curves, -np.inf).max(axis=1, keepdims=True)
    spread = high - low
    flat = ~(spread > 1e-9)
    return np.where(np.isfinite(curves), np.where(flat, 0.0, (curves - low) / np.where(flat, 1.0, spread)), np.nan)


def _interval(value: float, draws: Table, level: float) -> Interval:
    found = draws[np.isfinite(draws)]
    if not len(found):
        return Interval(value=float(value), low=float("nan"), high=float("nan"))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))
