"""How well a model adapts to users: alignment levels, their improvement, intervals, differences, agreement.

1. Scores are a table (cases, turns) with nan where there is none. AL(k) is the mean of the scores at turn k (section 3),
   and is reported with their number. Nothing is filled in.
2. IR is the slope of the least-squares line through AL(1), ..., AL(K) (equation 3), and R2 its coefficient of
   determination. N-IR and N-R2 are the same after scaling AL to 0..1 by its lowest and highest value. Taken over all
   turns, they reproduce Tables 1 and 2; equation 4 is printed with the extremes of the turns so far.
3. A flat curve has R2 and N-R2 nan, since there is nothing to explain, and N-IR 0. Turns without a score are left out
   of the line. With fewer than two turns left, IR and the rest are nan.
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
    """The figures of one curve AL(1..K)."""

    average: float
    ir: float
    r2: float
    n_ir: float
    n_r2: float


STATISTICS = tuple(field.name for field in fields(Improvement))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its confidence interval, which is nan if there are too few clusters."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All figures of one table of scores."""

    al: tuple[Interval, ...]
    """AL(k) by turn."""
    scores: tuple[int, ...]
    """How many scores each AL(k) is the mean of."""
    missing: int
    """Scores that should exist and do not."""
    statistics: dict[str, Interval]
    """By the field names of :class:`Improvement`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure of one model minus the same figure of another, on the same cases."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided: twice the share of the draws, the same for both models, that lie on the other side of 0."""


def improvement(al: ArrayLike, normalisation: Normalisation = "all") -> Improvement:
    """The figures of one curve AL(1..K), with nan for turns without a score.

    Raises ValueError for anything but one row of at least one level.
    """
    curve = np.asarray(al, np.float64)
    if curve.ndim != 1 or not len(curve):
        raise ValueError(f"a curve must be one row of alignment levels, not an array of shape {curve.shape}")
    return Improvement(*(float(row[0]) for row in _statistics(curve[None], normalisation)))


def alignment(scores: ArrayLike) -> tuple[Table, NDArray[np.int64]]:
    """AL(k) of a table (cases, turns), nan for a turn without scores, and how many scores each is the mean of."""
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
    due: ArrayLike | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Measured:
    """All figures of a table (cases, turns), with bootstrap intervals over ``clusters`` (default: each case is one).

    ``due`` (cases, turns) says which scores should exist (default: all); the others do not count as missing.

    Raises ValueError for a table without a case or a turn, or if the number of clusters is not that of the cases.
    """
    table = _table(scores)
    wanted = np.ones(table.shape, np.bool_) if due is None else np.asarray(due, np.bool_)
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
        missing=int((wanted & ~np.isfinite(table)).sum()),
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
    """``one`` minus ``other`` in every statistic, by a paired bootstrap: row n of both tables is the same case.

    Raises ValueError for tables of different shapes.
    """
    first, second = _table(one), _table(other)
    if first.shape != second.shape:
        raise ValueError(f"both tables must have the same shape, not {first.shape} and {second.shape}")
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
    ratings: Sequence[float] | None = (1, 2, 3, 4, 5),
) -> float:
    """Cohen's kappa of two raters of the same items; an item that either rated nan is left out.

    ``weights="quadratic"`` weighs a disagreement by its squared distance. ``ratings`` are the possible ones, in rising
    order; None takes the values that occur, for scales that are wide or have fractions.

    The result is nan if chance alone explains everything (both raters gave every item the same one rating) or no item
    is left. Raises ValueError for a rating that is not among ``ratings``.
    """
    pairs = np.stack([np.asarray(one, np.float64), np.asarray(other, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    known = np.unique(pairs) if ratings is None else np.asarray(ratings, np.float64)
    if ratings is not None and not np.isin(pairs, known).all():
        raise ValueError(f"a rating must be one of {', '.join(map(str, ratings))}")
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
        raise ValueError(f"scores must be a table of cases and turns, not an array of shape {table.shape}")
    return table


def _weights(clusters: Sequence[Hashable] | None, cases: int, draws: int, seed: int) -> Table | None:
    """How often each case is in each draw (draws, cases); None if there are too few clusters to draw from."""
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
    """Slope and coefficient of determination of each curve, over the turns that have a value."""
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
