"""``aloe personas split``: hold out personas for evaluation whose profiles and personalities are never trained on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from aloe_agents.pools.proposals import KINDS
from aloe_agents.pools.split import AT_MOST, EVALUATION, Part, check_folder, check_size, hold_out, shape_of, write_split
from aloe_agents.runners.personas.common import (
    compared_by,
    configured,
    embedding,
    items_of,
    naming_options,
    two_pools,
    vectors_of,
)


@click.command()
@two_pools
@click.option("--eval", "count", type=click.IntRange(1), default=100, show_default=True, help="Personas to hold out.")
@click.option("--eval-profiles", type=click.IntRange(1), help="Profiles to hold out (default: four per personality).")
@click.option("--eval-personalities", type=click.IntRange(1), help="Personalities to hold out.")
@click.option("--at-most", type=click.FloatRange(-1, 1), default=AT_MOST, show_default=True,
              help="Highest similarity of a held-out item to one that stays.")  # fmt: skip
@click.option("--similarity", type=click.Choice(["centred", "raw"]), help="How vectors are compared (pool.similarity).")
@embedding
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the three files.")
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
    """Hold out a diverse set of personas. Their profiles and personalities lie far apart (farthest-point sampling) and
    are unlike all that stay. Writes profiles.jsonl and personalities.jsonl for training, and eval.jsonl.

    \b
    aloe personas split --profiles profiles.jsonl --personalities personalities.jsonl --eval 100 --out data
    """
    with naming_options(**{"at_most": "--at-most", "fewer out": "fewer out (--eval)", "writing to": "--out"}):
        check_folder(out, (profiles, personalities))
        resolved = configured(config, similarity=similarity, embedder=embedder)
        parts: list[Part] = []
        shape = shape_of(count, eval_profiles, eval_personalities)
        for path, wanted, kind in zip((profiles, personalities), shape, KINDS, strict=True):
            items = items_of(path, skip_bad=skip_bad)
            check_size(wanted, items, kind)
            with vectors_of(path, resolved, config) as store:
                held = hold_out(kind, items, wanted, store, at_most=at_most, similarity=compared_by(resolved))
                parts.append(asyncio.run(held))
        people = write_split(out, parts[0], parts[1], count)
    for part in parts:
        click.echo(
            f"{part.kind:<13} {len(part.stay)} stay, {len(part.held)} held out: at most {part.to_rest:.2f} similar to one "
            f"that stays, at most {part.among:.2f} to each other"
        )
    click.echo(f"{out / EVALUATION}: {len(people)} personas")
