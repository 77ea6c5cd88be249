"""``aloe personas stats``: how large, how new, how diverse a pool is."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import orjson
from rich.console import Console
from rich.text import Text

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.pools.diversity import Diversity, flat, measure_diversity
from aloe_agents.pools.items import DROPPED, Item, folder_of
from aloe_agents.pools.page import page
from aloe_agents.pools.similarity import centred, normalised
from aloe_agents.runners.personas.common import configured, embedding, items_of, skip_bad, vectors_of
from aloe_agents.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aloe_agents.pools.similarity import Vectors

BAR = 40


@click.command()
@click.argument("pool", type=click.Path(path_type=Path))
@click.option("--html", "html_page", type=click.Path(path_type=Path), help="Write a page with a map of the pool.")
@click.option("--map", "layout", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="How the map is laid out; umap needs umap-learn.")  # fmt: skip
@click.option("--similarity", type=click.Choice(["centred", "raw"]), help="pool.similarity")
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
    """Sizes, accepted per round, nearest neighbours, the most similar pairs, words and topics.

    \b
    aloe personas stats pools/profiles.jsonl --html profiles.html
    """
    resolved = configured(config, similarity=similarity, embedder=embedder)
    items = items_of(pool, skip_bad=skip_bad)
    with vectors_of(pool, resolved, config.parent.absolute() if config else None) as store:
        raw = asyncio.run(store.vectors([item.text for item in items]))
        embedded_by = store.embedder.name
    kind = "raw" if resolved.pool.similarity == "raw" else "centred"
    vectors = normalised(raw) if kind == "raw" else centred(raw)
    found = measure_diversity([item.text for item in items], vectors)
    facts = _facts(pool, items, found, f"{kind}, {embedded_by}")
    _print(Console(), pool, items, facts, found)
    if html_page:
        plane = flat(vectors) if layout == "pca" else _umap(vectors)
        with replacing(html_page) as file:
            file.write(page(str(pool), items, facts, found, plane).encode())
        click.echo(f"\n{html_page}")


def _facts(pool: Path, items: list[Item], found: Diversity, measured: str) -> list[tuple[str, str]]:
    """The figures that are one line each, by name."""
    sources = Counter(item.source for item in items)
    rounds = sorted((int(source.split()[1]), count) for source, count in sources.items() if _is_round(source))
    others = [(source, count) for source, count in sources.most_common(5) if source and not _is_round(source)]
    quantiles = np.quantile(found.nearest, [0.1, 0.5, 0.9, 1.0]) if len(found.nearest) else np.zeros(4)
    facts = [
        ("items", f"{found.items}, {found.words / found.items:.0f} words each"),
        ("come from", ", ".join(f"{count} {source}" for source, count in others)),
        ("accepted per round", " ".join(str(count) for _, count in rounds)),
        ("dropped", ", ".join(f"{count} {reason}" for reason, count in _dropped(pool).most_common())),
        ("similarity", measured),
        ("nearest neighbour", "median {1:.2f}, tenth {0:.2f} to {2:.2f}, highest {3:.2f}".format(*quantiles)),
        ("as diverse as", f"{found.vendi:.0f} items that share nothing (Vendi score)"),
        ("vocabulary", f"{found.vocabulary} words, {found.vocabulary / max(found.items, 1):.1f} an item"),
        ("in most items", ", ".join(f"{word} {count}" for word, count in found.frequent)),
    ]
    return [(name, value) for name, value in facts if value]


def _is_round(source: str) -> bool:
    return source.startswith("round ") and source[6:].isdigit()


def _dropped(pool: Path) -> Counter[str]:
    file = folder_of(pool) / DROPPED
    if not file.exists():
        return Counter()
    return Counter(str(orjson.loads(line)["reason"]) for line in file.read_bytes().splitlines())


def _print(console: Console, pool: Path, items: list[Item], facts: list[tuple[str, str]], found: Diversity) -> None:
    console.print(Text(str(pool), style="bold"))
    for name, value in facts:
        console.print(Text(f"{name:<19} {value}"), soft_wrap=not console.is_terminal)
    counts, edges = np.histogram(found.nearest, bins=10, range=(min(0.0, float(found.nearest.min())), 1.0))
    console.print(Text("\nsimilarity to the nearest neighbour", style="bold"))
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        console.print(
            Text(f"{low:5.2f} to {high:4.2f} {'█' * round(BAR * count / max(counts.max(), 1)):<{BAR}} {count}")
        )
    console.print(Text("\ntopics (groups that lie together)", style="bold"))
    for topic in sorted(found.topics, key=lambda topic: -topic.size):
        console.print(Text(f"{topic.size:>7}  {', '.join(topic.words)}"))
    console.print(Text("\nmost similar pairs", style="bold"))
    for pair in found.pairs[:5]:
        for label, row in ((f"{pair.similarity:.2f}", pair.one), ("", pair.other)):
            console.print(
                Text(f"{label:>7}  {items[row].id}  {one_line(items[row].text, max(40, console.width - 18))}")
            )


def _umap(vectors: Vectors) -> NDArray[np.float64]:
    try:
        import umap
    except ImportError:
        raise ConfigError("--map umap needs umap-learn; install it with: pip install umap-learn") from None
    plane: NDArray[np.float64] = umap.UMAP(n_components=2, metric="cosine", random_state=0).fit_transform(vectors)
    return plane
