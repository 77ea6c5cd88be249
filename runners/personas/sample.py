"""``aloe personas sample``: draw personas from two pools."""

from __future__ import annotations

from pathlib import Path

import click

from aloe_agents.personas import sample_personas, write_personas
from aloe_agents.runners.personas.common import items_of, two_pools


@click.command()
@two_pools
@click.option("--count", type=click.IntRange(1), required=True, help="How many personas to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file of personas, JSONL.")
def command(profiles: Path, personalities: Path, skip_bad: bool, count: int, seed: int, out: Path) -> None:
    """Draw distinct pairs of a profile and a personality. Each profile and personality is used as evenly as possible.

    \b
    aloe personas sample --profiles profiles.jsonl --personalities personalities.jsonl --count 3310 --out personas.jsonl
    """
    pools = [[item.text for item in items_of(path, skip_bad=skip_bad)] for path in (profiles, personalities)]
    write_personas(out, sample_personas(pools[0], pools[1], count, seed))
    uses = " and ".join(
        f"each {what} {count // len(pool)}{f' or {count // len(pool) + 1}' if count % len(pool) else ''} times"
        for what, pool in zip(("profile", "personality"), pools, strict=True)
    )
    click.echo(f"{out}: {count} personas of {len(pools[0])} profiles and {len(pools[1])} personalities; {uses}")
