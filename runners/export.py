"""``aloe export``: a run's trees in another form."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.export import to_authors
from aloe_agents.files import replacing
from aloe_agents.reading import Reading


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(["aloe"]), required=True, help="aloe: the paper's authors' form.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write (JSONL).")
def command(directory: Path, form: str, out: Path) -> None:
    """Write the trees of a run for other programs.

    \b
    aloe export runs/first --to aloe --out conversations.jsonl
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a directory; --out names a file")
    count = left_out = 0
    with contextlib.closing(Reading(directory)) as reading, replacing(out) as file:
        for tree in reading.trees():
            value, gaps = to_authors(tree)
            left_out += gaps
            if value["conversations"]:
                file.write(orjson.dumps(value) + b"\n")
                count += 1
    click.echo(
        f"{count} conversations in {out}" + (f"; {left_out} turns left out (gaps, branches)" if left_out else "")
    )
