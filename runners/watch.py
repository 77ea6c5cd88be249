"""``aloe watch``: the picture of a run, from its journal; while it runs, from any terminal, and afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click

from aloe_agents.errors import ConfigError
from aloe_agents.runs.console import Terminal, follow, render, status_line, summary
from aloe_agents.runs.journal import JOURNAL_FILE
from aloe_agents.runs.progress import Snapshot
from aloe_agents.runs.reading import Reading


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print one picture and stop; a finished run is always shown this way.")
@click.option("--plain", is_flag=True, help="Print plain lines instead of the live display.")
def command(directory: Path, once: bool, plain: bool) -> None:
    """Show a running or finished run.

    \b
    aloe watch runs/first
    """
    console = Terminal(force_terminal=False if plain else None)
    with contextlib.closing(Reading(chosen(directory))) as reading:
        now = reading.snapshot()
        if not (now.finished or once):
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_follow(reading, console))
            now = reading.snapshot()
        if console.is_terminal:
            width, height = console.size
            console.print(render(now, width, height - 8), height=height - 8)
        else:
            console.print(status_line(now), soft_wrap=True, highlight=False)
        console.print(summary(reading.accounting(), reading.efficiency(), directory))


def chosen(directory: Path) -> Path:
    """``directory``, which holds a run. Raises ConfigError where it holds several, naming them."""
    if not (directory / JOURNAL_FILE).exists() and (
        runs := sorted(p.parent for p in directory.glob(f"*/{JOURNAL_FILE}"))
    ):
        raise ConfigError(f"{directory} holds several runs; name one of them: {', '.join(map(str, runs))}")
    return directory


async def _follow(reading: Reading, console: Terminal) -> None:
    over = asyncio.Event()

    def snapshot() -> Snapshot:
        now = reading.snapshot()
        if now.finished:
            over.set()
        return now

    await follow(console, snapshot, over)
