"""``aloe status``: the accounting of a run; completed + failed + pending = requested."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from aloe_agents.runs.reading import Reading


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(directory: Path, as_json: bool) -> None:
    """Count what was asked for, what was done and what it took.

    \b
    aloe status runs/first --json
    """
    with contextlib.closing(Reading(directory)) as reading:
        accounting, efficiency = reading.accounting(), reading.efficiency()
    if as_json:
        figures = None if efficiency is None else {**asdict(efficiency), "ratio": efficiency.ratio}
        click.echo(orjson.dumps({**accounting, "efficiency": figures}, option=orjson.OPT_INDENT_2))
        return
    for name, value in accounting.items():
        shown = value
        if name == "roles":
            shown = "; ".join(f"{role} {_tokens(counts)}" for role, counts in value.items())
        elif isinstance(value, dict):
            shown = ", ".join(f"{count} {reason}" for reason, count in value.items()) or 0
        click.echo(f"{name.replace('_', ' '):<18} {shown}")
    if efficiency is not None:
        click.echo(f"{'efficiency':<18} {efficiency}")


def _tokens(counts: dict[str, int]) -> str:
    cached = f", {counts['cached_tokens']} from cache" if counts["cached_tokens"] else ""
    return f"{counts['calls']} calls, {counts['prompt_tokens']} + {counts['completion_tokens']} tokens{cached}"
