"""``aloe personas split``: personas for evaluation whose profiles and personalities nobody trains on."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import click
import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.personas import Persona, write_personas
from aloe_agents.pools.items import write_items
from aloe_agents.pools.proposals import KINDS
from aloe_agents.pools.similarity import centred, neighbours, normalised
from aloe_agents.pools.split import check_size, held_out
from aloe_agents.runners.personas.common import configured, embedding, items_of, two_pools, vectors_of


@click.command()
@two_pools
@click.option("--eval", "count", type=click.IntRange(1), default=100, show_default=True, help="Personas to hold out.")
@click.option("--eval-profiles", type=click.IntRange(1), help="Profiles to hold out (default: four for a personality).")
@click.option("--eval-personalities", type=click.IntRange(1), help="Personalities to hold out.")
@click.option("--at-most", type=click.FloatRange(-1, 1), default=0.55, show_default=True,
              help="Similarity of a held-out item to any that stays.")  # fmt: skip
@click.option("--similarity", type=click.Choice(["centred", "raw"]), help="pool.similarity")
@embedding
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A directory for what is written.")
def command(
    profiles: Path,
    personalities: Path,
    skip_bad: bool,
    count: int,
    eval_profiles: int | None,
    eval_personalities: int | None,
    at_most: float,
    similarity: str | None,
    config: Path | None,
    embedder: str | None,
    out: Path,
) -> None:
    """Hold out a diverse set: its profiles and personalities lie far apart (farthest-point sampling) and are unlike
    all that stay. Writes profiles.jsonl and personalities.jsonl for training, and eval.jsonl with the personas.

    \b
    aloe personas split --profiles profiles.jsonl --personalities personalities.jsonl --eval 100 --out data
    """
    for path, kind in zip((profiles, personalities), KINDS, strict=True):
        if (out / f"{kind}.jsonl").resolve() == path.resolve():
            raise ConfigError(f"--out {out} would put what stays in place of {path}; choose another directory")
    resolved = configured(config, similarity=similarity, embedder=embedder)
    shape = _shape(count, eval_profiles, eval_personalities)
    held, kept, notes = [], [], []
    for path, wanted, kind in zip((profiles, personalities), shape, KINDS, strict=True):
        items = items_of(path, skip_bad=skip_bad)
        check_size(wanted, items, kind)
        with vectors_of(path, resolved, config.parent.absolute() if config else None) as store:
            raw = asyncio.run(store.vectors([item.text for item in items]))
        vectors = normalised(raw) if resolved.pool.similarity == "raw" else centred(raw)
        rows = held_out(wanted, items, at_most, vectors, kind)
        rest = np.setdiff1d(np.arange(len(items)), rows)
        among, _ = neighbours(vectors[rows])
        to_rest = (vectors[rows] @ vectors[rest].T).max()
        held.append([items[row].text for row in rows])
        kept.append([items[row] for row in rest])
        notes.append(
            f"{kind:<13} {len(rest)} stay, {len(rows)} held out: at most {to_rest:.2f} similar to one that stays, "
            f"at most {among.max():.2f} to each other"
        )
    pairs = [(profile, personality) for profile in held[0] for personality in held[1]][:count]
    for kind, items in zip(KINDS, kept, strict=True):
        write_items(out / f"{kind}.jsonl", items)
    people = [Persona(id=f"e{n:05d}", profile=one, personality=two) for n, (one, two) in enumerate(pairs, 1)]
    write_personas(out / "eval.jsonl", people)
    click.echo("\n".join([*notes, f"{out / 'eval.jsonl'}: {len(people)} personas"]))


def _shape(count: int, profiles: int | None, personalities: int | None) -> tuple[int, int]:
    """How many profiles and personalities make ``count`` pairs: the authors' benchmark has four profiles for each
    personality.
    """
    if profiles is None:
        personalities = personalities or max(1, round(math.sqrt(count / 4)))
        profiles = math.ceil(count / personalities)
    personalities = personalities or math.ceil(count / profiles)
    if profiles * personalities < count:
        raise ConfigError(
            f"{profiles} profiles with {personalities} personalities make {profiles * personalities} personas, not "
            f"{count} (--eval)"
        )
    return profiles, personalities
