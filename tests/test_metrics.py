"""The benchmark's figures: the paper's own tables, closed forms, missing scores, and intervals that behave."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.evaluation.metrics import STATISTICS, alignment, difference, improvement, kappa, measure

# Tables 1 and 2: AL(1) to AL(10), then average, IR, N-IR, R2, N-R2 as printed. The mixture of Table 2 is the row
# "SFT preferred" of Qwen2 once more.
TABLES = """
Qwen2 base: 2.87 2.94 2.88 3.10 3.65 4.13 4.50 4.65 4.63 4.70 | 3.81 0.254 0.138 0.917 0.918
Qwen2 ALOE: 4.05 4.26 4.66 4.86 4.93 4.95 4.98 4.98 4.98 4.98 | 4.76 0.093 0.099 0.695 0.693
Qwen2 SFT preferred: 4.12 4.18 4.38 4.52 4.53 4.56 4.81 4.90 4.86 4.83 | 4.57 0.089 0.114 0.912 0.914
Qwen2 SFT rejected: 3.80 3.82 4.04 4.11 4.16 4.25 4.43 4.46 4.14 4.35 | 4.16 0.063 0.095 0.690 0.692
Llama 3 base: 3.38 3.35 3.40 3.48 3.45 3.48 3.41 3.45 3.35 3.46 | 3.42 0.005 0.037 0.084 0.086
Llama 3 ALOE: 4.06 4.14 4.17 4.15 4.17 4.19 4.22 4.23 4.20 4.29 | 4.18 0.018 0.080 0.819 0.812
Llama 3 SFT preferred: 4.21 4.10 4.07 4.19 4.07 4.21 4.18 4.22 4.14 4.22 | 4.16 0.007 0.050 0.136 0.138
Llama 3 SFT rejected: 3.80 3.72 3.63 3.94 3.65 3.66 3.73 3.99 3.93 3.94 | 3.80 0.024 0.066 0.266 0.266
Mistral base: 3.40 3.62 3.62 3.47 3.38 3.43 3.35 3.54 3.61 3.68 | 3.51 0.011 0.032 0.072 0.070
Mistral ALOE: 3.85 3.85 3.98 3.91 4.26 4.17 4.35 4.52 4.57 4.60 | 4.21 0.095 0.127 0.932 0.933
Mistral SFT preferred: 3.64 3.69 3.75 3.75 3.88 3.89 3.85 4.03 3.93 4.08 | 3.85 0.045 0.102 0.890 0.888
Mistral SFT rejected: 3.59 3.40 3.69 3.36 3.35 3.32 3.36 3.56 3.68 3.78 | 3.51 0.018 0.040 0.103 0.104
OLMo base: 2.55 2.69 2.99 3.26 3.17 3.07 2.82 2.80 2.74 2.82 | 2.89 0.002 0.003 0.001 0.001
OLMo ALOE: 4.23 4.14 4.38 4.64 4.84 4.83 4.85 4.86 4.88 4.88 | 4.65 0.084 0.114 0.771 0.768
OLMo SFT preferred: 3.51 3.19 3.27 3.80 3.61 3.39 4.00 3.90 4.08 4.15 | 3.69 0.094 0.098 0.681 0.683
OLMo SFT rejected: 3.26 3.16 3.12 3.11 3.26 3.23 3.06 3.11 3.97 3.79 | 3.31 0.062 0.068 0.360 0.357
Qwen2 agent data: 2.63 2.60 2.61 2.79 3.15 3.62 3.98 4.12 4.20 4.27 | 3.40 0.228 0.136 0.931 0.931
Qwen2 preferred alone: 3.85 4.00 4.11 4.24 4.31 4.57 4.60 4.66 4.67 4.66 | 4.37 0.097 0.119 0.925 0.925
"""
ROWS = [
    (name, [float(v) for v in al.split()], [float(v) for v in printed.split()])
    for name, _, rest in (line.partition(":") for line in TABLES.strip().splitlines())
    for al, _, printed in [rest.partition("|")]
]
RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("name", "al", "printed"), ROWS, ids=[name for name, _, _ in ROWS])
def test_the_papers_tables_come_out_of_their_curves(name: str, al: list[float], printed: list[float]) -> None:
    assert len(al) == 10
    found = improvement(al)
    average, ir, n_ir, r2, n_r2 = printed
    assert found.average == pytest.approx(average, abs=0.006)
    assert found.ir == pytest.approx(ir, abs=0.0015)
    assert found.n_ir == pytest.approx(n_ir, abs=0.002)
    assert found.r2 == pytest.approx(r2, abs=0.012) and found.n_r2 == pytest.approx(n_r2, abs=0.012)
    assert found.n_r2 == pytest.approx(found.r2, abs=1e-9), "what is moved and stretched fits as well as before"


def test_there_are_eighteen_rows_and_the_running_form_is_not_what_was_printed() -> None:
    assert len(ROWS) == 18
    off = [abs(improvement(al, "running").n_ir - printed[2]) for _, al, printed in ROWS]
    assert sum(value > 0.01 for value in off) > 12


@given(st.lists(st.floats(1, 5), min_size=2, max_size=30))
@settings(deadline=None)
def test_the_line_is_the_least_squares_line(al: list[float]) -> None:
    found, turns = improvement(al), np.arange(1, len(al) + 1)
    slope, start = np.polyfit(turns, al, 1)
    assert found.ir == pytest.approx(slope, abs=1e-9) and found.average == pytest.approx(np.mean(al))
    if np.ptp(al) > 1e-3:
        residue = np.sum((np.array(al) - slope * turns - start) ** 2) / np.sum((np.array(al) - np.mean(al)) ** 2)
        assert found.r2 == pytest.approx(1 - residue, abs=1e-6)
        assert found.n_ir == pytest.approx(slope / np.ptp(al), rel=1e-6, abs=1e-9)


def test_a_flat_curve_has_no_fit_and_no_normalised_slope() -> None:
    found = improvement([3.0] * 10)
    assert (found.average, found.ir, found.n_ir) == (3.0, 0.0, 0.0)
    assert math.isnan(found.r2) and math.isnan(found.n_r2)


def test_one_turn_and_turns_without_scores() -> None:
    assert [math.isnan(value) for value in astuple(improvement([4.0]))] == [False, True, True, True, True]
    gap = improvement([1.0, math.nan, 3.0, math.nan, 5.0])
    assert [gap.average, gap.ir, gap.r2, gap.n_ir] == pytest.approx([3.0, 1.0, 1.0, 0.25])
    assert all(math.isnan(value) for value in astuple(improvement([math.nan, math.nan])))
    for wrong in ([], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="one row of alignment levels"):
            improvement(wrong)


def test_the_running_form_is_equation_four() -> None:
    al = [2.0, 4.0, 3.0, 5.0]
    wanted = [0.0, 1.0, 0.5, 1.0]  # each over the least and greatest so far
    assert improvement(al, "running").n_ir == pytest.approx(np.polyfit(range(4), wanted, 1)[0])
    assert improvement(al).n_ir == pytest.approx(np.polyfit(range(4), [0, 2 / 3, 1 / 3, 1], 1)[0])


def test_missing_scores_are_counted_and_not_filled_in() -> None:
    table = [[1.0, math.nan], [3.0, 5.0], [math.nan, math.nan]]
    al, counts = alignment(table)
    assert al.tolist() == [2.0, 5.0] and counts.tolist() == [2, 1]
    found = measure(table, draws=200)
    assert found.missing == 3 and found.scores == (2, 1)


def test_a_turn_without_any_score_has_no_level() -> None:
    al, counts = alignment([[1.0, math.nan], [3.0, math.nan]])
    assert al[0] == 2 and math.isnan(al[1]) and counts.tolist() == [2, 0]
    found = measure([[1.0, math.nan], [3.0, math.nan]], draws=200)
    assert math.isnan(found.al[1].value) and math.isnan(found.al[1].low) and math.isnan(found.al[1].high)
    assert found.statistics["average"].value == 2, "and not the mean with a 0 in it"
    assert math.isnan(found.statistics["ir"].value)


def test_only_scores_that_are_due_are_missing() -> None:
    table = [[1.0, math.nan], [3.0, math.nan]]
    assert measure(table, draws=10).missing == 2
    assert measure(table, draws=10, due=[[True, True], [True, False]]).missing == 1


def test_a_draw_weighs_only_the_scores_that_exist() -> None:
    found = measure([[1.0, 5.0], [3.0, math.nan], [2.0, math.nan]], draws=500)
    assert (found.al[1].value, found.al[1].low, found.al[1].high) == (5, 5, 5), "whoever is drawn, the only score is 5"
    gaps = np.array([[1.0, 2.0], [math.nan, 4.0], [3.0, math.nan], [5.0, 1.0]])
    drawn = np.random.default_rng(0).multinomial(4, np.full(4, 1 / 4), size=300)
    by_hand = [[_mean_of(gaps[:, k], weights) for k in range(2)] for weights in drawn]
    measured = measure(gaps, draws=300)
    for k in range(2):
        low, high = np.nanquantile([row[k] for row in by_hand], [0.025, 0.975])
        assert (measured.al[k].low, measured.al[k].high) == pytest.approx((low, high))


def _mean_of(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]], weights: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> float:
    held = [score for score, times in zip(scores, weights, strict=True) for _ in range(times) if not math.isnan(score)]
    return sum(held) / len(held) if held else math.nan


def test_intervals_cover_what_they_should() -> None:
    truth, covered = 3.0, 0
    for trial in range(200):
        scores = truth + np.random.default_rng(trial).standard_normal((40, 1))
        found = measure(scores, draws=400, seed=trial).al[0]
        covered += found.low <= truth <= found.high
    assert 176 <= covered <= 198  # 95 % of 200, give or take


def test_personas_that_share_a_profile_are_drawn_together() -> None:
    by_profile = np.repeat(RNG.normal(3, 1, 20), 5)[:, None] + 0.01 * RNG.standard_normal((100, 1))
    clusters = np.repeat(np.arange(20), 5).tolist()
    alone, together = (measure(by_profile, given).al[0] for given in (None, clusters))
    assert together.high - together.low > 1.7 * (alone.high - alone.low)
    assert repr(measure(by_profile, clusters)) == repr(measure(by_profile, clusters)), "the same draws every time"


def test_one_case_and_one_cluster_have_no_interval() -> None:
    for clusters in (None, ["a"]):
        found = measure([[3.0, 4.0, 4.0]], clusters)
        assert found.statistics["ir"].value == 0.5 and math.isnan(found.statistics["ir"].low)
    shared = measure([[3.0, 4.0], [1.0, 2.0]], ["a", "a"])
    assert math.isnan(shared.al[0].high)


def test_a_difference_is_paired() -> None:
    hard = RNG.normal(0, 1, (60, 1))  # some users are hard for everybody
    one, other = (3 + hard + lift + 0.1 * RNG.standard_normal((60, 10)) for lift in (0.2, 0.0))
    found = difference(one, other)
    assert set(found) == set(STATISTICS)
    assert found["average"].low > 0.15 and found["average"].high < 0.25 and found["average"].p < 0.001
    assert found["ir"].low < 0 < found["ir"].high and found["ir"].p > 0.05
    same = difference(one, one)["average"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="same shape"):
        difference(one, other[:50])


@given(st.integers(0, 10_000), st.floats(-2, 2), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_difference_lies_within_its_own_interval_and_is_the_first_minus_the_second(
    seed: int, lift: float, gaps: bool
) -> None:
    rng = np.random.default_rng(seed)
    one, other = 3 + lift + rng.standard_normal((30, 5)), 3 + rng.standard_normal((30, 5))
    if gaps:
        one[rng.random(one.shape) < 0.1] = math.nan
    found, turned = difference(one, other, draws=400), difference(other, one, draws=400)
    for name in ("average", "ir"):
        value = getattr(improvement(alignment(one)[0]), name) - getattr(improvement(alignment(other)[0]), name)
        assert found[name].value == pytest.approx(value)
        assert found[name].low <= found[name].value <= found[name].high
        assert (turned[name].low, turned[name].high) == pytest.approx((-found[name].high, -found[name].low))


def test_no_false_alarm_more_often_than_stated() -> None:
    alarms = 0
    for trial in range(200):
        rng = np.random.default_rng(1000 + trial)
        alarms += difference(rng.normal(3, 1, (50, 3)), rng.normal(3, 1, (50, 3)), draws=400)["average"].p < 0.05
    assert alarms <= 22


@pytest.mark.parametrize("wrong", [[], [[]], [1.0, 2.0]])
def test_what_is_no_table_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="table of cases and turns"):
        measure(wrong)
    with pytest.raises(ValueError, match="2 clusters given for 1 cases"):
        measure([[1.0]], ["a", "b"])


# --- agreement -------------------------------------------------------------------------------------------------------


def test_kappa_by_hand() -> None:
    one, other = [1, 1, 2, 2, 3], [1, 2, 2, 2, 1]
    seen, chance = 3 / 5, (2 * 2 + 2 * 3 + 1 * 0) / 25
    assert kappa(one, other) == pytest.approx((seen - chance) / (1 - chance))
    cost, expected = (0 + 1 + 0 + 0 + 4) / 5, sum((a - b) ** 2 for a in one for b in other) / 25
    assert kappa(one, other, "quadratic") == pytest.approx(1 - cost / expected)


def test_kappa_at_its_ends_and_beyond() -> None:
    assert kappa([1, 2, 5], [1, 2, 5]) == kappa([1, 2, 5], [1, 2, 5], "quadratic") == 1
    assert kappa([1, 5], [5, 1], "quadratic") == -1
    assert math.isnan(kappa([3, 3], [3, 3])) and math.isnan(kappa([], [])) and math.isnan(kappa([math.nan], [1]))
    assert kappa([1, 2, math.nan, 4], [1, 2, 3, 5]) == kappa([1, 2, 4], [1, 2, 5])
    with pytest.raises(ValueError, match="a rating must be one of 1, 2, 3, 4, 5"):
        kappa([1, 6], [1, 2])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=40))
@settings(deadline=None)
def test_kappa_knows_no_order_of_raters(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    for weights in (None, "quadratic"):
        found, turned = kappa(one, other, weights), kappa(other, one, weights)
        assert (math.isnan(found) and math.isnan(turned)) or (found == pytest.approx(turned) and found <= 1 + 1e-12)
