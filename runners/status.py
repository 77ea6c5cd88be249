"""``aloe status``: the accounting of a run; completed + failed + pending = requested."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import orjson

from aloe_agents.reading import Reading


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(directory: Path, as_json: bool) -> None:
    """Count what was asked for, what was done and what it took.

    \b
    aloe status runs/first --json
    """
    with contextlib.closing(Reading(directory)) as reading:
        accounting = reading.accounting()
    if as_json:
        click.echo(orjson.dumps(accounting, option=orjson.OPT_INDENT_2))
        return
    for name, value in accounting.items():
        shown = ", ".join(f"{count} {reason}" for reason, count in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name.replace('_', ' '):<18} {shown if shown != '' else 0}")
