"""``aloe compare``: several evaluations side by side, as a table and as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.comparison import Comparison, Incomparable, compare
from aloe_agents.evaluation.metrics import Normalisation
from aloe_agents.files import replacing
from aloe_agents.text import inert

FORMS = {".md": Comparison.to_markdown, ".csv": Comparison.to_csv, ".tex": Comparison.to_latex}
CURVES = (".png", ".svg", ".pdf")


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--judge", help="Compare the scores of this judge. Default: the first that scored all of them.")
@click.option("--baseline", metavar="MODEL", help="Compare the others with MODEL. Default: the first.")
@click.option("--out", "outs", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Write the table (.md, .csv, .tex) or the curves (.png, .svg, .pdf). Repeat for several.")  # fmt: skip
@click.option("--normalisation", type=click.Choice(["all", "running"]), default="all", show_default=True,
              help="Scale AL by its extremes over all turns, or over the turns so far.")  # fmt: skip
@click.option("--force", is_flag=True, help="Compare what evaluations of different cases share.")
def command(
    directories: Sequence[Path],
    judge: str | None,
    baseline: str | None,
    outs: Sequence[Path],
    normalisation: Normalisation,
    force: bool,
) -> None:
    """Print Table 1 of the paper from finished evaluations, with intervals and marks for significant differences.

    \b
    aloe compare evals/one evals/two --out table.md --out table.tex --out curves.svg
    """
    if unknown := [out for out in outs if out.suffix not in (*FORMS, *CURVES)]:
        raise ConfigError(
            f"cannot write {unknown[0]}: a table ends in {', '.join(FORMS)}, curves in {', '.join(CURVES)}"
        )
    try:
        found = compare(directories, judge, baseline=baseline, force=force, normalisation=normalisation)
    except Incomparable as error:
        raise ConfigError(f"{error} (--force compares what they share)") from None
    for out in outs:
        _write(found, out)
    print_comparison(wide(), found)
    for out in outs:
        click.echo(str(out))


def wide() -> Console:
    """A console; if the output is not a terminal, one that does not fold tables."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def print_comparison(console: Console, found: Comparison) -> None:
    """Print a comparison as Table 1 of the paper has it, then the intervals, then who was still there and remarks."""
    curves = _table(f"{found.cases} cases, judge {found.judge}", found.headings)
    spreads = _table("\n95 % intervals", [found.headings[0], *found.headings[found.turns + 1 :]])
    present = _table("\nusers still there", found.headings[: found.turns + 1])
    for row in found.texts():
        _add(curves, row.name, row.figures)
        _add(spreads, row.name, row.intervals[found.turns :])
        _add(present, row.name, row.present)
    console.print(curves)
    console.print(spreads)
    if any(row.present for row in found.rows):
        console.print(present)
    for remark in [*found.missing, *([found.note] if len(found.rows) > 1 else [])]:
        console.print(Text(remark), soft_wrap=True)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for n, heading in enumerate(headings):
        table.add_column(Text(heading, style="bold"), justify="left" if n == 0 else "right", overflow="fold")
    return table


def _add(table: Table, name: str, cells: Sequence[str]) -> None:
    table.add_row(*(Text(inert(cell)) for cell in (name, *cells)))


def _write(found: Comparison, out: Path) -> None:
    if out.suffix in FORMS:
        with replacing(out) as file:
            file.write(FORMS[out.suffix](found).encode())
    else:
        from aloe_agents.evaluation.curves import plot_curves

        plot_curves(found, out)
