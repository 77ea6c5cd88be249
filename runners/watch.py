"""``aloe watch``: the picture of a run, from its journal; while it runs, from any terminal, and afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click

from aloe_agents.runs.console import Terminal, follow, render, status_line, summary
from aloe_agents.runs.progress import Snapshot
from aloe_agents.runs.reading import Reading


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="One picture, then stop; a finished run is always shown so.")
@click.option("--plain", is_flag=True, help="Lines instead of the picture.")
def command(directory: Path, once: bool, plain: bool) -> None:
    """Show a running or finished run.

    \b
    aloe watch runs/first
    """
    console = Terminal(force_terminal=False if plain else None)
    with contextlib.closing(Reading(directory)) as reading:
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
        accounting = reading.accounting()
        console.print(summary(accounting, reading.efficiency(), directory))


async def _follow(reading: Reading, console: Terminal) -> None:
    over = asyncio.Event()

    def snapshot() -> Snapshot:
        now = reading.snapshot()
        if now.finished:
            over.set()
        return now

    await follow(console, snapshot, over)
