"""``aloe compare``: several evaluations side by side, as a table and as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.comparison import as_csv, as_latex, as_markdown, compare
from aloe_agents.evaluation.results import RESULTS_FILE, read_results
from aloe_agents.files import replacing
from aloe_agents.runners.evaluate import print_comparison, wide

FORMS = {".md": as_markdown, ".csv": as_csv, ".tex": as_latex}


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--judge", help="Whose scores (default: the first that all were scored by).")
@click.option("--baseline", metavar="MODEL", help="What the others are compared with (default: the first).")
@click.option("--out", "outs", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Write the table (.md, .csv, .tex) or the curves (.png, .svg, .pdf); may be given several times.")  # fmt: skip
@click.option("--normalisation", type=click.Choice(["all", "running"]), default="all", show_default=True)
@click.option("--force", is_flag=True, help="Compare what evaluations of different cases share.")
def command(
    directories: Sequence[Path],
    judge: str | None,
    baseline: str | None,
    outs: Sequence[Path],
    normalisation: Any,
    force: bool,
) -> None:
    """Table 1 of the paper from finished evaluations, with intervals and marks for what differs beyond chance.

    \b
    aloe compare evals/one evals/two --out table.md --out table.tex --out curves.svg
    """
    if unknown := [out for out in outs if out.suffix not in (*FORMS, ".png", ".svg", ".pdf")]:
        raise ConfigError(f"{unknown[0]}: a table ends in {', '.join(FORMS)}, curves end in .png, .svg or .pdf")
    results = [read_results(place) for directory in directories for place in _places(directory)]
    if baseline is not None:
        if baseline not in (names := [one.name for one in results]):
            raise ConfigError(f"no evaluation of {baseline!r} is among them (there are {', '.join(names)})")
        results.sort(key=lambda one: one.name != baseline)
    found = compare(results, judge, force=force, normalisation=normalisation)
    for out in outs:
        if out.suffix in FORMS:
            with replacing(out) as file:
                file.write(FORMS[out.suffix](found).encode())
        else:
            from aloe_agents.evaluation.curves import plot_curves

            plot_curves(found, out)
    print_comparison(wide(), found)
    for out in outs:
        click.echo(str(out))


def _places(directory: Path) -> list[Path]:
    """The evaluation in ``directory``, or those in the folders in it."""
    if directory.is_file() or (directory / RESULTS_FILE).exists():
        return [directory]
    inside = sorted(place for place in directory.glob("*") if (place / RESULTS_FILE).exists())
    if not inside:
        raise ConfigError(f"{directory} holds no {RESULTS_FILE}: it is no finished evaluation")
    return inside
