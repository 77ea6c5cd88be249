"""``aloe annotate``: sheets for human raters, and how far they agree with the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.annotation import RaterAgreement, agreements, draw_sheet, judged, read_sheet, to_csv
from aloe_agents.evaluation.rejudging import judges_in, one_run
from aloe_agents.evaluation.results import CANDIDATE, RESULTS_FILE, read_results
from aloe_agents.evaluation.scales import DEFAULT_SCALE, Scale, checked_scale
from aloe_agents.files import replacing
from aloe_agents.runs.reading import TREES
from aloe_agents.tree import Tree, read_trees


@click.group()
def command() -> None:
    """Have people score what the judge scored, blind, and see how far they agree (paper, section 5.4).

    \b
    aloe annotate sample evals/mine --out sheet.csv
    aloe annotate agree evals/mine ann.csv bob.csv
    """


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The sheet to write (CSV).")
@click.option("--per-turn", type=click.IntRange(1), default=5, show_default=True, help="Draw N answers from each turn.",
              metavar="N")  # fmt: skip
@click.option(
    "--label", default=CANDIDATE, show_default=True, help="Which answers: for training data, preferred or rejected."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the draw.")
@click.option(
    "--scale", nargs=2, metavar="LOW HIGH", help="The judge's scale, if there is no results.json. Default: 1 5."
)
def sample(directory: Path, out: Path, per_turn: int, label: str, seed: int, scale: tuple[str, str] | None) -> None:
    """Draw answers into a sheet without scores, models and turns. Give each rater a copy to fill in.

    \b
    aloe annotate sample evals/mine --out sheet.csv
    """
    rows = draw_sheet(_trees(directory), label, per_turn, seed)
    with replacing(out) as file:
        file.write(to_csv(rows).encode("utf-8-sig"))  # spreadsheets take plain UTF-8 for something else
    low, high = _scale(directory, None, scale)
    click.echo(f"{out}: {len(rows)} answers to score from {low} to {high} in the column score")


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("sheets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--judge", help="Compare the sheets with this judge's scores. Default: the only judge there is.")
@click.option(
    "--label", default=CANDIDATE, show_default=True, help="Which answers: for training data, preferred or rejected."
)
@click.option(
    "--scale", nargs=2, metavar="LOW HIGH", help="The judge's scale, if there is no results.json. Default: 1 5."
)
def agree(
    directory: Path, sheets: Sequence[Path], judge: str | None, label: str, scale: tuple[str, str] | None
) -> None:
    """Print Cohen's kappa, plain and with quadratic weights: each rater against the judge, and among themselves.

    \b
    aloe annotate agree evals/mine ann.csv bob.csv cleo.csv
    """
    trees = _trees(directory)
    judge = _judge(directory, trees, judge)
    used = _scale(directory, judge, scale)
    raters = [read_sheet(path, used) for path in sheets]
    with_judge, among = agreements(judged(trees, judge, label, used), raters)
    click.echo(f"{'':<32} {'items':>5}  {'kappa':>6}  {'quadratic':>9}  {'equal':>6}")
    for found in (with_judge, among):
        for one in found:
            _line(one.one + " and " + one.other, [one])
        if len(found) > 1:
            _line("mean", found)


def _judge(directory: Path, trees: Sequence[Tree], judge: str | None) -> str:
    """``judge``, or the only one whose scores the trees have."""
    known = sorted(judges_in(trees))
    if judge is None and len(known) != 1:
        raise ConfigError(f"{directory} has scores by {', '.join(known) or 'no judge'}; name one with --judge")
    if judge is not None and judge not in known:
        raise ConfigError(f"{directory} has no scores by {judge!r}; it has {', '.join(known)}")
    return judge or known[0]


def _scale(directory: Path, judge: str | None, given: tuple[str, str] | None) -> Scale:
    """The scale of a judge (None: of the first): as given, or as the results say."""
    if given:
        try:
            return checked_scale([float(end) if "." in end else int(end) for end in given])
        except ValueError:
            raise ConfigError(f"--scale needs two numbers, not {' '.join(given)}") from None
    if not (directory / RESULTS_FILE).exists():
        return DEFAULT_SCALE
    results = read_results(directory)
    return results.scale(judge or results.judges[0])


def _line(name: str, found: Sequence[RaterAgreement]) -> None:
    items = sum(one.items for one in found) // len(found)
    plain, quadratic, equal = (
        float(np.mean([getattr(one, part) for one in found])) for part in ("kappa", "quadratic", "equal")
    )
    click.echo(f"{name:<32} {items:>5}  {plain:>6.3f}  {quadratic:>9.3f}  {equal:>6.1%}")


def _trees(directory: Path) -> list[Tree]:
    return list(read_trees(one_run(directory) / TREES))
