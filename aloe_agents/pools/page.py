"""The page of a pool: its figures, and a map on which every item can be read."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import orjson
from numpy.typing import NDArray

from aloe_agents.pools.diversity import Diversity
from aloe_agents.pools.items import Item
from aloe_agents.text import inert

BINS = 20


def page(
    title: str, items: Sequence[Item], facts: Sequence[tuple[str, str]], found: Diversity, plane: NDArray[np.float64]
) -> str:
    """The page as HTML. ``plane`` (n, 2) is where the items lie; ``facts`` are lines for its head, name and value."""
    span = np.abs(plane).max() if len(plane) else 1.0
    points = [
        [
            round(float(x), 4),
            round(float(y), 4),
            int(topic),
            inert(item.text),
            inert(f"{item.id} {item.source}".strip()),
        ]
        for item, (x, y), topic in zip(items, plane / (span or 1.0), found.topic_of, strict=True)
    ]
    low = min(0.0, float(found.nearest.min())) if len(found.nearest) else 0.0
    counts, edges = np.histogram(found.nearest, bins=BINS, range=(low, 1.0))
    data = {
        "points": points,
        "topics": [", ".join(topic.words) for topic in found.topics],
        "sizes": [topic.size for topic in found.topics],
        "counts": counts.tolist(),
        "edges": [round(float(edge), 3) for edge in edges],
    }
    pairs = "".join(
        f"<tr><td>{pair.similarity:.2f}</td><td>{_text(items[pair.one])}</td><td>{_text(items[pair.other])}</td></tr>"
        for pair in found.pairs
    )
    fields = {
        "TITLE": html.escape(inert(title)),
        "FACTS": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(inert(value))}</dd>" for name, value in facts),
        "PAIRS": pairs,
        "DATA": orjson.dumps(data).decode().replace("<", "\\u003c"),  # so that no text ends the script
    }
    head, *parts = (files(__package__) / "page.html").read_text(encoding="utf-8").split("@@")
    return head + "".join(fields.get(part, part) for part in parts)


def _text(item: Item) -> str:
    return html.escape(inert(item.text))
