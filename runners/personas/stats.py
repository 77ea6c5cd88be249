"""``aloe personas stats``: how large, how new, how diverse a pool is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from aloe_agents.pools.diversity import flat, umap_of
from aloe_agents.pools.page import Portrait, portray, write_page
from aloe_agents.runners.personas.common import compared_by, configured, embedding, items_of, skip_bad, vectors_of
from aloe_agents.text import one_line

BAR = 40


@click.command()
@click.argument("pool", type=click.Path(path_type=Path))
@click.option("--html", "html_page", type=click.Path(path_type=Path), help="Write a page with a map of the pool.")
@click.option("--map", "layout", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="Layout of the map; umap needs umap-learn.")  # fmt: skip
@click.option("--similarity", type=click.Choice(["centred", "raw"]), help="How vectors are compared (pool.similarity).")
@embedding
@skip_bad
def command(
    pool: Path,
    html_page: Path | None,
    layout: str,
    similarity: str | None,
    config: Path | None,
    embedder: str | None,
    skip_bad: bool,
) -> None:
    """Print sizes, items accepted per round, nearest neighbours, the most similar pairs, words and topics.

    \b
    aloe personas stats pools/profiles.jsonl --html profiles.html
    """
    resolved = configured(config, similarity=similarity, embedder=embedder)
    items = items_of(pool, skip_bad=skip_bad)
    with vectors_of(pool, resolved, config) as store:
        portrait = asyncio.run(portray(pool, items, store, compared_by(resolved)))
    _print(Console(), portrait)
    if html_page:
        write_page(html_page, portrait, flat(portrait.vectors) if layout == "pca" else umap_of(portrait.vectors))
        click.echo(f"\n{html_page}")


def _print(console: Console, portrait: Portrait) -> None:
    found = portrait.found
    console.print(Text(str(portrait.pool), style="bold"))
    for name, value in portrait.facts:
        console.print(Text(f"{name:<19} {value}"), soft_wrap=not console.is_terminal)
    counts, edges = np.histogram(found.nearest, bins=10, range=(min(0.0, float(found.nearest.min())), 1.0))
    console.print(Text("\nsimilarity to the nearest neighbour", style="bold"))
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "█" * round(BAR * count / max(counts.max(), 1))
        console.print(Text(f"{low:5.2f} to {high:4.2f} {bar:<{BAR}} {count}"))
    console.print(Text("\ntopics (groups that lie together)", style="bold"))
    for topic in sorted(found.topics, key=lambda topic: -topic.size):
        console.print(Text(f"{topic.size:>7}  {', '.join(topic.words)}"))
    console.print(Text("\nmost similar pairs", style="bold"))
    for pair in found.pairs[:5]:
        for label, row in ((f"{pair.similarity:.2f}", pair.one), ("", pair.other)):
            item = portrait.items[row]
            console.print(Text(f"{label:>7}  {item.id}  {one_line(item.text, max(40, console.width - 18))}"))
