"""``aloe personas import``: other people's files become a pool."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import POOL_ROLES, Config
from aloe_agents.errors import Fatal
from aloe_agents.pools.importing import Expanded, Imported, check_import, expand_items, import_items
from aloe_agents.pools.items import Item
from aloe_agents.runners.personas.common import (
    configured,
    embedder_of,
    embedding,
    folder_with,
    items_of,
    naming_options,
    skip_bad,
    stopping,
)
from aloe_agents.runners.terminal import interrupts, loop_runner, resume_line
from aloe_agents.runs.run import Run


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The pool; an existing one is added to.")
@click.option("--field", help="The field or column that holds the texts.")
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Drop items more similar than this (default: 0.6).")
@click.option(
    "--similarity",
    type=click.Choice(["centred", "raw", "off"]),
    help="How vectors are compared (default: centred); off drops equal texts only, and embeds nothing.",
)
@click.option("--expand", "sketched", is_flag=True, help="Expand personas in one sentence each to full profiles.")
@embedding
@skip_bad
def command(
    paths: Sequence[Path],
    out: Path,
    field: str | None,
    threshold: float | None,
    similarity: str | None,
    sketched: bool,
    config: Path | None,
    embedder: str | None,
    skip_bad: bool,
) -> int:
    """Read JSONL, JSON, CSV, TSV, Parquet or plain text (one item per line), drop what is too similar, write a pool.

    \b
    aloe personas import profile.jsonl --out pools/profiles.jsonl
    aloe personas import personas.csv --field persona --expand --config aloe.toml --out pools/profiles.jsonl
    """
    needed = POOL_ROLES if sketched else ()
    resolved = configured(config, needed, threshold=threshold, similarity=similarity, embedder=embedder)
    with naming_options(
        **{"into another pool": f"into another pool: aloe personas import {out} {paths[0]} --out ANOTHER"}
    ):
        check_import(out)
    given = _given(paths, field, skip_bad)
    failed = 0
    if sketched:
        expanded = _expanded(resolved, given, out, config)
        if expanded.stopped:
            click.echo(f"Resume with:  {resume_line()}")
            return 130
        given, failed = list(expanded.items), expanded.failed
        if failed:
            click.echo(f"aloe: {failed} could not be expanded; the same command tries again", err=True)
        if not given:
            return 1
    pool = resolved.pool
    how = embedder_of(out, resolved, config) if pool.similarity != "off" else None
    done = asyncio.run(import_items(given, out, embedder=how, similarity=pool.similarity, threshold=pool.threshold))
    click.echo(_summary(done))
    return 1 if failed else 0


def _given(paths: Sequence[Path], field: str | None, skip_bad: bool) -> list[Item]:
    """The items of all files, each with its source."""
    return [
        Item(text=item.text, id=item.id, source=item.source or path.name)
        for path in paths
        for item in items_of(path, field=field, skip_bad=skip_bad)
    ]


def _summary(done: Imported) -> str:
    reasons = Counter(drop.reason for drop in done.drops)
    why = f" ({', '.join(f'{count} {reason}' for reason, count in reasons.most_common())})" if reasons else ""
    return (
        f"{done.path}: kept {done.given - len(done.drops)} of {done.given}, dropped {len(done.drops)}{why}; "
        f"the pool has {len(done.items)} items"
    )


def _expanded(config: Config, sketches: Sequence[Item], out: Path, file: Path | None) -> Expanded:
    endpoints = building.build_endpoints(config)
    (generator,) = building.build_cast(config, endpoints, folder_with(file))
    runs: list[Run] = []

    async def expanded() -> Expanded:
        live = building.live(config, endpoints)
        task = asyncio.create_task(
            expand_items(generator, sketches, out, live=live, keep_open=False, on_open=runs.append)
        )
        with interrupts(stopping(runs), task):
            await asyncio.wait([task])
        return Expanded(items=(), failed=0, stopped=True) if task.cancelled() else task.result()

    with loop_runner() as runner:
        try:
            return runner.run(expanded())
        except Fatal as fatal:
            raise Fatal(f"{fatal}; all answers are kept: run the same command again") from None
