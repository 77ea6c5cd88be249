"""Several evaluations side by side, as in Table 1 of the paper: figures, intervals, and differences beyond chance.

1. Rows keep the order in which the evaluations were given. One of them is the baseline (default: the first).
2. Every other row is compared with the baseline, case by case, by a paired bootstrap over profiles.
3. If users left before the last turn, each row also says what share of them was still there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import (
    STATISTICS,
    Difference,
    Interval,
    Measured,
    Normalisation,
    Table,
    difference,
    measure,
)
from aloe_agents.evaluation.results import Results, find_results
from aloe_agents.evaluation.scales import DEFAULT_SCALE, Scale, in_words

HEADINGS = {"average": "average", "ir": "IR", "r2": "R²", "n_ir": "N-IR", "n_r2": "N-R²"}
ORDER = ("average", "ir", "n_ir", "r2", "n_r2")
"""The columns in the order of the paper."""
MARKS = ((0.01, "**"), (0.05, "*"))


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One model."""

    name: str
    measured: Measured
    against: Mapping[str, Difference] = field(default_factory=dict)
    """By statistic: this model minus the baseline; empty for the baseline itself."""
    present: tuple[float, ...] = ()
    """By turn: the share of the cases whose user is still there. Empty if nobody left."""
    due: int | None = None
    """How many scores should exist; None for one in every case and turn."""


@dataclass(frozen=True, slots=True)
class RowText:
    """The cells of one model, without its name."""

    name: str
    figures: tuple[str, ...]
    """AL(k), then the statistics with their marks."""
    intervals: tuple[str, ...]
    present: tuple[str, ...]
    """The share of users still there by turn; empty if nobody left."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table of evaluations: ``str(table)`` is Markdown, and so on for CSV and LaTeX."""

    judge: str
    turns: int
    cases: int
    rows: tuple[ComparisonRow, ...]
    baseline: str = ""
    """The name of the row that the others are compared with; empty for the first."""
    scale: Scale = DEFAULT_SCALE
    """The judge's lowest and highest score."""

    @property
    def missing(self) -> list[str]:
        """One remark for each model with missing scores."""
        return [
            f"{row.name}: {row.measured.missing} of {row.due or self.turns * self.cases} scores are missing"
            for row in self.rows
            if row.measured.missing
        ]

    @property
    def note(self) -> str:
        """What the marks and the brackets mean."""
        row = repr(self.baseline) if self.baseline else "the first row"
        return f"* p < 0.05, ** p < 0.01 against {row} (paired bootstrap over profiles, two-sided); [95 % interval]"

    @property
    def headings(self) -> list[str]:
        """Of the columns, the model's first."""
        return ["model", *(f"k={k}" for k in range(1, self.turns + 1)), *(HEADINGS[name] for name in ORDER)]

    def texts(self) -> Iterator[RowText]:
        """The cells of every row."""
        for row in self.rows:
            figures = [_figure(al.value, 2) for al in row.measured.al]
            figures += [
                _figure(row.measured.statistics[name].value, _places(name)) + _mark(row, name) for name in ORDER
            ]
            spread = [_spread(al, 2) for al in row.measured.al]
            spread += [_spread(row.measured.statistics[name], _places(name)) for name in ORDER]
            present = tuple(f"{share:.0%}" for share in row.present)
            yield RowText(row.name, tuple(figures), tuple(spread), present)

    def to_markdown(self) -> str:
        """The table in Markdown: figures, and their intervals below."""
        lines = [self.headings, ["---"] * len(self.headings)]
        for row in self.texts():
            lines += [[row.name, *row.figures], ["", *row.intervals]]
            if row.present:
                lines.append(["still there", *row.present, *[""] * len(ORDER)])
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """One line for each model: every figure, its interval and the p-value against the baseline, unrounded."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        turns = range(1, self.turns + 1)
        names = [*(f"al_{k}" for k in turns), *STATISTICS]
        columns = [f"{name}{part}" for name in names for part in ("", "_low", "_high")]
        columns += [f"{name}_{part}" for name in STATISTICS for part in ("difference", "p")]
        columns += [f"present_{k}" for k in turns]
        writer.writerow(["model", "judge", "cases", "missing", *columns])
        for row in self.rows:
            cells = ["" if not np.isfinite(value) else f"{value:.6g}" for value in _numbers(row, self.turns)]
            writer.writerow([row.name, self.judge, self.cases, row.measured.missing, *cells])
        return file.getvalue()

    def to_latex(self) -> str:
        """The table in LaTeX (booktabs) as the paper sets it: figures and marks, intervals in small type below."""
        headings = ["Model", *(f"$k={k}$" for k in range(1, self.turns + 1))]
        headings += ["Average", "IR", "N-IR", "$R^2$", "N-$R^2$"]
        lines = [f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", "\\toprule", _latex(headings), "\\midrule"]
        for row in self.texts():
            lines.append(_latex([_escaped(row.name), *(_marked(cell) for cell in row.figures)]))
            lines.append(_latex(["", *(_small(cell) for cell in row.intervals)]))
            if row.present:
                lines.append(_latex([_small("still there"), *map(_small, row.present), *[""] * len(ORDER)]))
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"

    def __str__(self) -> str:
        notes = [*self.missing, *([self.note] if len(self.rows) > 1 else [])]
        return "\n".join([f"{self.cases} cases, judge {self.judge}", "", self.to_markdown(), *notes]).rstrip("\n")


def compare(
    results: Sequence[Results | Path | str],
    judge: str | None = None,
    *,
    baseline: str | None = None,
    force: bool = False,
    normalisation: Normalisation = "all",
) -> Comparison:
    """Compare evaluations of the same cases by the scores of ``judge`` (default: the first that all of them have).

    ``results`` are evaluations, or paths of them; a folder of several stands for all in it, in the order in which they
    began. ``baseline`` is the model that the others are compared with (default: the first). Rows keep their order.

    Raises ConfigError, saying what differs, for evaluations of different cases, turns, users or judges. With ``force``
    they are compared on what they share.
    """
    found = _found(results)
    judge = _shared_judge(found, judge)
    reference = _reference(found, baseline)
    if (differing := _differing(found, judge)) and not force:
        raise Incomparable(f"these evaluations cannot be compared: {'; '.join(differing)}")
    shared = _Shared.of(found, judge)
    left = not all(due.all() for due in shared.dues)
    rows = []
    for n, name in enumerate(_distinct(found)):
        table, due = shared.tables[n], shared.dues[n]
        against = {} if n == reference else shared.difference(n, reference, normalisation)
        measured = measure(table, shared.clusters, normalisation=normalisation, due=due)
        rows.append(
            ComparisonRow(name, measured, against, tuple(due.mean(axis=0).tolist()) if left else (), int(due.sum()))
        )
    named = rows[reference].name if baseline is not None else ""
    scale = found[reference].scale(judge)
    return Comparison(judge, shared.turns, len(shared.clusters), tuple(rows), named, scale)


def _found(given: Sequence[Results | Path | str]) -> list[Results]:
    found = [one for place in given for one in ([place] if isinstance(place, Results) else find_results(place))]
    if not found:
        raise ConfigError("there is no evaluation to compare")
    return found


class Incomparable(ConfigError):
    """Evaluations of different cases, turns, users or judges; ``force`` compares what they share."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What evaluations share: cases and turns, and each one's scores there."""

    turns: int
    clusters: list[str]
    tables: list[Table]
    dues: list[NDArray[np.bool_]]

    @classmethod
    def of(cls, results: Sequence[Results], judge: str) -> _Shared:
        """Raises ConfigError if ``results`` share no case."""
        turns = min(one.record.turns for one in results)
        keys = [list(zip(one.cases, one.clusters, strict=True)) for one in results]
        everywhere = set(keys[0]).intersection(*keys)
        common = [key for key in keys[0] if key in everywhere]
        if not common:
            raise ConfigError("these evaluations share no case")
        tables, dues = [], []
        for one, own in zip(results, keys, strict=True):
            place = [own.index(key) for key in common]
            tables.append(one.scores(judge)[place, :turns])
            dues.append(one.present[place, :turns])
        return cls(turns, [cluster for _, cluster in common], tables, dues)

    def difference(self, one: int, other: int, normalisation: Normalisation) -> dict[str, Difference]:
        """Evaluation ``one`` minus evaluation ``other``."""
        return difference(self.tables[one], self.tables[other], self.clusters, normalisation=normalisation)


def _shared_judge(results: Sequence[Results], judge: str | None) -> str:
    """``judge``, or the first that scored all of ``results``."""
    if judge is not None:
        for one in results:
            one.scale(judge)  # which refuses a judge that it does not have
        return judge
    shared = [name for name in results[0].judges if all(name in one.judges for one in results)]
    if not shared:
        raise ConfigError(f"no judge scored all of them ({'; '.join(', '.join(one.judges) for one in results)})")
    return shared[0]


def _reference(results: Sequence[Results], baseline: str | None) -> int:
    """Which of ``results`` the others are compared with."""
    names = [one.name for one in results]
    if baseline is not None and baseline not in names:
        raise ConfigError(f"there is no evaluation of {baseline!r} among {', '.join(names)}")
    return names.index(baseline) if baseline is not None else 0


def _differing(results: Sequence[Results], judge: str) -> list[str]:
    """Why ``results`` cannot be compared, one remark each."""
    first = results[0]
    return [
        f"{first.place} and {other.place} {remark}" for other in results[1:] for remark in _between(first, other, judge)
    ]


def _between(first: Results, other: Results, judge: str) -> Iterator[str]:
    one, two = first.record, other.record
    if one.cases.digest != two.cases.digest:
        ours, theirs = set(first.cases), set(other.cases)
        told = f"{len(ours - theirs)} only in the first, {len(theirs - ours)} only in the second"
        yield f"have different cases ({told if ours != theirs else 'the same ids, other personas'})"
    if one.turns != two.turns:
        yield f"have {one.turns} and {two.turns} turns"
    if (scale := first.scale(judge)) != (others := other.scale(judge)):
        yield f"have scores from {in_words(scale)} and from {in_words(others)}"
    elif one.judged_by.get(judge, one.judged_by) != two.judged_by.get(judge, two.judged_by):
        yield f"differ in judge {judge!r}"
    if one.user != two.user:
        yield "differ in the simulated user"


def _distinct(results: Sequence[Results]) -> list[str]:
    """The models' names, with their place if two share one."""
    names = [one.name for one in results]
    return [f"{n} ({one.place})" if names.count(n) > 1 else n for n, one in zip(names, results, strict=True)]


def _numbers(row: ComparisonRow, turns: int) -> Iterator[float]:
    """The cells of a model's line in CSV."""
    for one in [*row.measured.al, *(row.measured.statistics[name] for name in STATISTICS)]:
        yield from (one.value, one.low, one.high)
    for name in STATISTICS:
        against = row.against.get(name)
        yield from (against.value, against.p) if against else (np.nan, np.nan)
    yield from row.present or [1.0] * turns


def _places(name: str) -> int:
    return 2 if name == "average" else 3


def _figure(value: float, places: int) -> str:
    return f"{value:.{places}f}" if np.isfinite(value) else "nan"


def _spread(one: Interval, places: int) -> str:
    return f"[{one.low:.{places}f}, {one.high:.{places}f}]" if np.isfinite(one.low) else ""


def _mark(row: ComparisonRow, name: str) -> str:
    found = row.against.get(name)
    return next((mark for bound, mark in MARKS if found is not None and found.p < bound), "")


def _latex(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _marked(cell: str) -> str:
    figure = cell.rstrip("*")
    return f"{figure}$^{{{cell[len(figure) :]}}}$" if figure != cell else cell


def _small(cell: str) -> str:
    return f"{{\\scriptsize {_escaped(cell)}}}" if cell else ""


def _escaped(cell: str) -> str:
    for character in "\\&%$#_{}":
        cell = cell.replace(character, "\\textbackslash{}" if character == "\\" else f"\\{character}")
    return cell
