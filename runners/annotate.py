"""``aloe annotate``: sheets for people, and how far they agree with the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.annotation import Agreement, agreements, draw_sheet, judged, read_sheet, to_csv
from aloe_agents.evaluation.results import CANDIDATE
from aloe_agents.files import replacing
from aloe_agents.runs.reading import TREES
from aloe_agents.tree import Tree, read_trees


@click.group()
def command() -> None:
    """People score what the judge scored, blind; then see how far they agree (paper, section 5.4).

    \b
    aloe annotate sample evals/mine --out sheet.csv
    aloe annotate agree evals/mine ann.csv bob.csv
    """


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The sheet, CSV.")
@click.option("--per-turn", type=click.IntRange(1), default=5, show_default=True, help="Answers of every turn.")
@click.option("--label", default=CANDIDATE, show_default=True, help="Which answers: of data, preferred or rejected.")
@click.option("--seed", type=int, default=0, show_default=True)
def sample(directory: Path, out: Path, per_turn: int, label: str, seed: int) -> None:
    """Draw answers into a sheet without scores, models and turns. Give each annotator a copy to fill in.

    \b
    aloe annotate sample evals/mine --out sheet.csv
    """
    rows = draw_sheet(_trees(directory), label, per_turn, seed)
    with replacing(out) as file:
        file.write(to_csv(rows).encode("utf-8-sig"))  # spreadsheets take plain UTF-8 for something else
    click.echo(f"{out}: {len(rows)} answers to score from 1 to 5 in the column score")


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("sheets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--judge", help="Whose scores the sheets are compared with (default: the only judge there is).")
@click.option("--label", default=CANDIDATE, show_default=True)
def agree(directory: Path, sheets: Sequence[Path], judge: str | None, label: str) -> None:
    """Cohen's kappa, plain and with quadratic weights: each annotator against the judge, and among themselves.

    \b
    aloe annotate agree evals/mine ann.csv bob.csv cleo.csv
    """
    trees = _trees(directory)
    known = sorted({name for tree in trees for n in tree.turns for a in n.answers.values() for name in a.scores})
    if judge is None and len(known) != 1:
        raise ConfigError(f"{directory} has scores of {', '.join(known) or 'no judge'}; name one with --judge")
    if judge is not None and judge not in known:
        raise ConfigError(f"{directory} has no scores of {judge!r} (there are {', '.join(known)})")
    annotators = [read_sheet(path) for path in sheets]
    with_judge, among = agreements(judged(trees, judge or known[0], label), annotators)
    click.echo(f"{'':<32} {'items':>5}  {'kappa':>6}  {'quadratic':>9}  {'equal':>6}")
    for found in (with_judge, among):
        for one in found:
            _line(one.one + " and " + one.other, [one])
        if len(found) > 1:
            _line("mean", found)


def _line(name: str, found: Sequence[Agreement]) -> None:
    items = sum(one.items for one in found) // len(found)
    plain, quadratic, equal = (
        float(np.mean([getattr(one, part) for one in found])) for part in ("kappa", "quadratic", "equal")
    )
    click.echo(f"{name:<32} {items:>5}  {plain:>6.3f}  {quadratic:>9.3f}  {equal:>6.1%}")


def _trees(directory: Path) -> list[Tree]:
    if not (directory / TREES).is_file():
        raise ConfigError(f"{directory} holds no {TREES}: it is no finished run")
    return list(read_trees(directory / TREES))
