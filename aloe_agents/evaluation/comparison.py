"""Several evaluations side by side, as in Table 1 of the paper: figures, intervals, and what differs beyond chance.

Every model but the first is compared with the first, case by case, by a paired bootstrap over profiles.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import (
    STATISTICS,
    Difference,
    Interval,
    Measured,
    Normalisation,
    difference,
    measure,
)
from aloe_agents.evaluation.results import Results

HEADINGS = {"average": "average", "ir": "IR", "r2": "R²", "n_ir": "N-IR", "n_r2": "N-R²"}
ORDER = ("average", "ir", "n_ir", "r2", "n_r2")
"""Of the columns, as the paper has them."""
MARKS = ((0.01, "**"), (0.05, "*"))
NOTE = "* p < 0.05, ** p < 0.01 against the first row (paired bootstrap over profiles, two-sided); [95 % interval]"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One model."""

    name: str
    measured: Measured
    against: dict[str, Difference]
    """By statistic: this model minus the first; empty for the first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared, by whose scores, and the rows."""

    judge: str
    turns: int
    cases: int
    rows: tuple[ComparisonRow, ...]

    @property
    def missing(self) -> list[str]:
        """A remark for each model of which scores are missing."""
        planned = self.turns * self.cases
        return [
            f"{row.name}: {row.measured.missing} of {planned} scores are missing"
            for row in self.rows
            if row.measured.missing
        ]


def compare(
    results: Sequence[Results],
    judge: str | None = None,
    *,
    force: bool = False,
    normalisation: Normalisation = "all",
) -> Comparison:
    """Compare evaluations of the same cases by the scores of ``judge`` (default: the first that all of them have).

    Raises ConfigError, saying what differs, for evaluations of different cases or turns, or by different judges; with
    ``force`` what they share is compared.
    """
    shared = [name for name in results[0].judges if all(name in one.judges for one in results)]
    if judge is None and not shared:
        raise ConfigError(f"no judge scored all of them ({'; '.join(', '.join(one.judges) for one in results)})")
    judge = judge or shared[0]
    for one in results:
        if judge not in one.judges:
            raise ConfigError(f"{one.path} has no scores of the judge {judge!r} (there are {', '.join(one.judges)})")
    if (differing := _differing(results, judge)) and not force:
        raise ConfigError(
            f"these evaluations cannot be compared: {'; '.join(differing)} (--force compares what they share)"
        )
    turns = min(int(one.body["turns"]) for one in results)
    keys = [list(zip(one.cases, one.clusters, strict=True)) for one in results]
    common = [key for key in keys[0] if all(key in set(others) for others in keys[1:])]
    if not common:
        raise ConfigError("these evaluations share no case")
    tables = [one.scores(judge)[[keys[n].index(key) for key in common], :turns] for n, one in enumerate(results)]
    clusters = [cluster for _, cluster in common]
    names = _distinct(results)
    rows = [
        ComparisonRow(
            name,
            measure(table, clusters, normalisation=normalisation),
            difference(table, tables[0], clusters, normalisation=normalisation) if n else {},
        )
        for n, (name, table) in enumerate(zip(names, tables, strict=True))
    ]
    return Comparison(judge, turns, len(common), tuple(rows))


def text(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table: figures with marks, and intervals in a row of their own below."""
    headings = ["model", *(f"k={k}" for k in range(1, found.turns + 1)), *(HEADINGS[name] for name in ORDER)]
    cells = []
    for row in found.rows:
        figures = [_figure(al.value, 2) for al in row.measured.al]
        figures += [_figure(row.measured.statistics[name].value, _places(name)) + _mark(row, name) for name in ORDER]
        spread = [_spread(al, 2) for al in row.measured.al]
        spread += [_spread(row.measured.statistics[name], _places(name)) for name in ORDER]
        cells += [[row.name, *figures], ["", *spread]]
    return headings, cells


def as_markdown(found: Comparison) -> str:
    """The table in Markdown."""
    headings, cells = text(found)
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def as_csv(found: Comparison) -> str:
    """One line a model, with every figure, its interval, and the p-value against the first, unrounded."""
    file = io.StringIO()
    names = [*(f"al_{k}" for k in range(1, found.turns + 1)), *STATISTICS]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["model", "judge", "cases", "missing", *(f"{name}{part}" for name in names for part in ("", "_low", "_high")),
         *(f"{name}_{part}" for name in STATISTICS for part in ("difference", "p"))]
    )  # fmt: skip
    for row in found.rows:
        intervals = [*row.measured.al, *(row.measured.statistics[name] for name in STATISTICS)]
        figures = [value for one in intervals for value in (one.value, one.low, one.high)]
        against = [row.against.get(name) for name in STATISTICS]
        figures += [value for one in against for value in ((one.value, one.p) if one else (np.nan, np.nan))]
        written = ["" if not np.isfinite(value) else f"{value:.6g}" for value in figures]
        writer.writerow([row.name, found.judge, found.cases, row.measured.missing, *written])
    return file.getvalue()


def as_latex(found: Comparison) -> str:
    """The table in LaTeX (booktabs), as the paper sets it: figures and marks, intervals in small type below."""
    headings = ["Model", *(f"$k={k}$" for k in range(1, found.turns + 1)), "Average", "IR", "N-IR", "$R^2$", "N-$R^2$"]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        "\\toprule",
        " & ".join(headings) + " \\\\",
        "\\midrule",
    ]
    _, cells = text(found)
    for n, line in enumerate(cells):
        shown = [_escaped(cell) for cell in line]
        if n % 2:
            shown = [f"{{\\scriptsize {cell}}}" if cell else "" for cell in shown]
        else:
            shown = [cell.replace("**", "$^{**}$") if "**" in cell else cell.replace("*", "$^{*}$") for cell in shown]
        lines.append(" & ".join(shown) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _differing(results: Sequence[Results], judge: str) -> list[str]:
    """What stands in the way of comparing, one remark each."""
    found = []
    first = results[0]
    for other in results[1:]:
        pair = f"{first.path.parent} and {other.path.parent}"
        if first.body["cases"]["digest"] != other.body["cases"]["digest"]:
            ours, theirs = set(first.cases), set(other.cases)
            told = f"{len(ours - theirs)} only in the first, {len(theirs - ours)} only in the second"
            found.append(f"{pair} have different cases ({told if ours != theirs else 'the same ids, other personas'})")
        if first.body["turns"] != other.body["turns"]:
            found.append(f"{pair} have {first.body['turns']} and {other.body['turns']} turns")
        for what in ("judged_by", "user"):
            one, two = (result.body.get(what, {}) for result in (first, other))
            one, two = (given.get(judge, given) if what == "judged_by" else given for given in (one, two))
            if one != two:
                found.append(
                    f"{pair} differ in {'judge ' + repr(judge) if what == 'judged_by' else 'the simulated user'}"
                )
    return found


def _distinct(results: Sequence[Results]) -> list[str]:
    """Names of the models; with their directory where two share one."""
    names = [one.name for one in results]
    return [f"{n} ({one.path.parent})" if names.count(n) > 1 else n for n, one in zip(names, results, strict=True)]


def _places(name: str) -> int:
    return 2 if name == "average" else 3


def _figure(value: float, places: int) -> str:
    return f"{value:.{places}f}" if np.isfinite(value) else "nan"


def _spread(one: Interval, places: int) -> str:
    return f"[{one.low:.{places}f}, {one.high:.{places}f}]" if np.isfinite(one.low) else ""


def _mark(row: ComparisonRow, name: str) -> str:
    found = row.against.get(name)
    return next((mark for bound, mark in MARKS if found is not None and found.p < bound), "")


def _escaped(cell: str) -> str:
    for character in "\\&%$#_{}":
        cell = cell.replace(character, "\\textbackslash{}" if character == "\\" else f"\\{character}")
    return cell
