"""Part of a pool is held out: items far apart from each other, and unlike all that stay for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from aloe_agents.errors import ConfigError
from aloe_agents.personas import Persona, write_personas
from aloe_agents.pools.items import Item, write_items
from aloe_agents.pools.proposals import KINDS, Kind

if TYPE_CHECKING:
    from aloe_agents.pools.embedding import VectorStore  # numpy: not for those who only check sizes
    from aloe_agents.pools.similarity import Similarity, Vectors

EVALUATION = "eval.jsonl"
AT_MOST = 0.55
"""The default bound on the similarity of a held-out item to one that stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A pool that was split in two."""

    kind: Kind
    held: Sequence[Item]
    stay: Sequence[Item]
    to_rest: float
    """The highest similarity of a held-out item to one that stays."""
    among: float
    """The highest similarity of two held-out items; -1 for one alone."""


def shape_of(count: int, profiles: int | None = None, personalities: int | None = None) -> tuple[int, int]:
    """How many profiles and personalities to hold out for ``count`` pairs of them.

    Without a wish there are four profiles for each personality, as in the authors' benchmark. Raises ConfigError if the
    wished-for numbers make fewer pairs.
    """
    if profiles is None:
        personalities = personalities or max(1, round(math.sqrt(count / 4)))
        profiles = math.ceil(count / personalities)
    personalities = personalities or math.ceil(count / profiles)
    if profiles * personalities < count:
        raise ConfigError(
            f"{profiles} profiles with {personalities} personalities make {profiles * personalities} personas, not {count}"
        )
    return profiles, personalities


async def hold_out(
    kind: Kind,
    items: Sequence[Item],
    count: int,
    store: VectorStore,
    *,
    at_most: float = AT_MOST,
    similarity: Similarity = "centred",
) -> Part:
    """Hold ``count`` of a pool's items out. ``store`` has their vectors, or makes them.

    Raises ConfigError if the pool is too small, or its items too alike.
    """
    from aloe_agents.pools.similarity import directions, neighbours

    check_size(count, items, kind)  # before anything is embedded
    vectors = directions(await store.vectors([item.text for item in items]), similarity)
    rows = held_out(count, items, at_most, vectors, kind)
    stay = sorted({*range(len(items))}.difference(rows))
    among, _ = neighbours(vectors[rows])
    return Part(
        kind=kind,
        held=[items[row] for row in rows],
        stay=[items[row] for row in stay],
        to_rest=float((vectors[rows] @ vectors[stay].T).max()),
        among=float(among.max()),
    )


def write_split(out: Path | str, profiles: Part, personalities: Part, count: int) -> list[Persona]:
    """Write what stays as two pools, and ``count`` pairs of what was held out as personas, into the folder ``out``.

    The files are profiles.jsonl, personalities.jsonl and eval.jsonl. Raises ConfigError if one cannot be written.
    """
    out = Path(out)
    pairs = [(one.text, two.text) for one in profiles.held for two in personalities.held][:count]
    people = [Persona(id=f"e{n:05d}", profile=one, personality=two) for n, (one, two) in enumerate(pairs, 1)]
    for part in (profiles, personalities):
        write_items(out / f"{part.kind}.jsonl", part.stay)
    write_personas(out / EVALUATION, people)
    return people


def check_folder(out: Path | str, pools: Sequence[Path]) -> None:
    """Raise ConfigError if writing into the folder ``out`` would replace one of the ``pools`` that are split."""
    for path, kind in zip(pools, KINDS, strict=True):
        if (Path(out) / f"{kind}.jsonl").resolve() == path.resolve():
            raise ConfigError(f"writing to {out} would replace {path} with what stays of it; choose another directory")


def check_size(count: int, of: Sequence[Item], what: str) -> None:
    """Raise ConfigError if a pool is too small to hold ``count`` of its items out, whatever they are."""
    if count >= len(of):
        raise _too_small(count, what, f"it has {len(of)} items, and some must stay for training")


def held_out(count: int, of: Sequence[Item], at_most: float, vectors: Vectors, what: str) -> list[int]:
    """``count`` rows to hold out: far apart from each other, each at most ``at_most`` similar to any that stays.

    ``vectors`` (n, dimension) are the items' directions. Raises ConfigError if there are too few such rows.
    """
    from aloe_agents.pools.similarity import apart

    check_size(count, of, what)
    rows = list(islice(apart(vectors, at_most), count))
    if len(rows) < count:
        found = f"only {len(rows)} of its {len(of)} items are at most {at_most:g} similar to all that would stay"
        raise _too_small(count, what, found)
    return rows


def _too_small(count: int, what: str, why: str) -> ConfigError:
    return ConfigError(
        f"the pool of {what} is too small to hold {count} of them out: {why}. Let it grow, hold fewer out, or raise at_most"
    )
