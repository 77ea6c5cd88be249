"""What there is to say about one pool: its figures, line by line, and a page with a map on which every item can be read."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from aloe_agents.files import replacing
from aloe_agents.pools.diversity import Diversity, measure_diversity
from aloe_agents.pools.embedding import VectorStore
from aloe_agents.pools.items import DROPPED, Item, folder_of
from aloe_agents.pools.similarity import Similarity, Vectors, directions
from aloe_agents.text import inert

BINS = 20
Facts = Sequence[tuple[str, str]]
"""Figures that fit on one line each: name and value."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """A pool that was measured."""

    pool: Path
    items: Sequence[Item]
    vectors: Vectors
    """The items' directions (n, dimension), as they were compared."""
    found: Diversity
    facts: Facts


async def portray(
    pool: Path | str, items: Sequence[Item], store: VectorStore, similarity: Similarity = "centred"
) -> Portrait:
    """Measure the pool that holds ``items``. ``store`` has their vectors, or makes them."""
    vectors = directions(await store.vectors([item.text for item in items]), similarity)
    found = measure_diversity([item.text for item in items], vectors)
    facts = facts_of(pool, items, found, f"{similarity}, {store.embedder.name}")
    return Portrait(Path(pool), items, vectors, found, facts)


def facts_of(pool: Path | str, items: Sequence[Item], found: Diversity, measured: str) -> Facts:
    """The one-line figures of a pool. ``measured`` says how similarity was measured."""
    others, rounds = _sources(items)
    dropped = _dropped(folder_of(pool) / DROPPED).most_common()
    quantiles = np.quantile(found.nearest, [0.1, 0.5, 0.9, 1.0]) if len(found.nearest) else np.zeros(4)
    facts = [
        ("items", f"{found.items}, {found.words / found.items:.0f} words each"),
        ("come from", others),
        ("accepted per round", rounds),
        ("dropped", ", ".join(f"{count} {reason}" for reason, count in dropped)),
        ("similarity", measured),
        ("nearest neighbour", "median {1:.2f}, tenth {0:.2f} to {2:.2f}, highest {3:.2f}".format(*quantiles)),
        ("as diverse as", f"{found.vendi:.0f} items that share nothing (Vendi score)"),
        ("vocabulary", f"{found.vocabulary} words, {found.vocabulary / max(found.items, 1):.1f} per item"),
        ("in most items", ", ".join(f"{word} {count}" for word, count in found.frequent)),
    ]
    return [(name, value) for name, value in facts if value]


def write_page(path: Path | str, portrait: Portrait, plane: NDArray[np.float64]) -> None:
    """Write the page of a pool. ``plane`` (n, 2) says where the items lie on the map.

    Raises ConfigError if it cannot be written.
    """
    with replacing(path) as file:
        file.write(page(portrait, plane).encode())


def page(portrait: Portrait, plane: NDArray[np.float64]) -> str:
    """The page as HTML. ``plane`` (n, 2) says where the items lie on the map."""
    items, found = portrait.items, portrait.found
    fields = {
        "TITLE": html.escape(inert(str(portrait.pool))),
        "FACTS": "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(inert(value))}</dd>" for name, value in portrait.facts
        ),
        "PAIRS": "".join(
            f"<tr><td>{pair.similarity:.2f}</td><td>{_text(items[pair.one])}</td><td>{_text(items[pair.other])}</td></tr>"
            for pair in found.pairs
        ),
        "DATA": _data(items, found, plane),
    }
    head, *parts = (files(__package__) / "page.html").read_text(encoding="utf-8").split("@@")
    return head + "".join(fields.get(part, part) for part in parts)


def _data(items: Sequence[Item], found: Diversity, plane: NDArray[np.float64]) -> str:
    """What the page's script draws, as JSON that cannot end the script."""
    span = float(np.abs(plane).max()) if len(plane) else 1.0
    low = min(0.0, float(found.nearest.min())) if len(found.nearest) else 0.0
    counts, edges = np.histogram(found.nearest, bins=BINS, range=(low, 1.0))
    data = {
        "points": [
            [
                round(float(x), 4),
                round(float(y), 4),
                int(topic),
                inert(item.text),
                inert(f"{item.id} {item.source}".strip()),
            ]
            for item, (x, y), topic in zip(items, plane / (span or 1.0), found.topic_of, strict=True)
        ],
        "topics": [", ".join(topic.words) for topic in found.topics],
        "sizes": [topic.size for topic in found.topics],
        "counts": counts.tolist(),
        "edges": [round(float(edge), 3) for edge in edges],
    }
    return orjson.dumps(data).decode().replace("<", "\\u003c")


def _sources(items: Sequence[Item]) -> tuple[str, str]:
    """Where items come from, but for rounds; and how many joined in each round."""
    sources = Counter(item.source for item in items)
    rounds = sorted((int(source.split()[1]), count) for source, count in sources.items() if _is_round(source))
    others = [f"{count} {source}" for source, count in sources.most_common(5) if source and not _is_round(source)]
    return ", ".join(others), " ".join(str(count) for _, count in rounds)


def _is_round(source: str) -> bool:
    return source.startswith("round ") and source[6:].isdigit()


def _dropped(file: Path) -> Counter[str]:
    if not file.exists():
        return Counter()
    return Counter(str(orjson.loads(line)["reason"]) for line in file.read_bytes().splitlines())


def _text(item: Item) -> str:
    return html.escape(inert(item.text))
