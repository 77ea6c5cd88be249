"""``aloe personas import``: other people's files become a pool."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import POOL_ROLES, Config
from aloe_agents.engine.bus import Bus
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.pools.growth import expand
from aloe_agents.pools.items import DROPPED, Drop, Item, folder_of, ids_after, read_items, write_items
from aloe_agents.pools.proposals import likeness
from aloe_agents.pools.review import ids_decided
from aloe_agents.pools.similarity import Admission, Novelty
from aloe_agents.runners.personas.common import configured, embedding, items_of, skip_bad, the_file, vectors_of
from aloe_agents.runners.terminal import interrupts, loop_runner, resume_line
from aloe_agents.runs.journal import JOURNAL_FILE, Journal
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.run import describe

AT_ONCE = 1000
"""Items compared by one product; the mean is the same for all."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The pool; one that is there is added to.")
@click.option("--field", help="The field or column with the texts.")
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Similarity above which an item is dropped: 0.6.")
@click.option(
    "--similarity",
    type=click.Choice(["centred", "raw", "off"]),
    help="Of vectors (default: centred); off drops equal texts only, and embeds nothing.",
)
@click.option("--expand", "sketched", is_flag=True, help="The items are personas in a sentence: make full profiles.")
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
    """Read JSONL, JSON, CSV, TSV, Parquet or plain text (an item a line), drop what is too similar, write a pool.

    \b
    aloe personas import profile.jsonl --out pools/profiles.jsonl
    aloe personas import personas.csv --field persona --expand --config aloe.toml --out pools/profiles.jsonl
    """
    needed = POOL_ROLES if sketched else ()
    resolved = configured(config, needed, threshold=threshold, similarity=similarity, embedder=embedder)
    folder = config.parent.absolute() if config else None
    if (folder_of(the_file(out)) / JOURNAL_FILE).exists():
        raise ConfigError(f"{out} was grown, and growing on would write it anew; import into another pool, with it: "
                          f"aloe personas import {out} {paths[0]} --out ANOTHER")  # fmt: skip
    given = [
        Item(text=item.text, id=item.id, source=item.source or path.name)
        for path in paths
        for item in items_of(path, field=field, skip_bad=skip_bad)
    ]
    failed = 0
    if sketched:
        texts = _expanded(resolved, [item.text for item in given], out, folder)
        if texts is None:
            click.echo(f"Resume with:  {resume_line()}")
            return 130
        failed = texts.count(None)
        given = [
            Item(text=text, id=item.id, source=item.source)
            for item, text in zip(given, texts, strict=True)
            if text is not None
        ]
        if failed:
            click.echo(f"aloe: {failed} could not be expanded; the same command tries again", err=True)
        if not given:
            return 1
    members = read_items(out)[0] if out.exists() else []
    drops = _join(resolved, members, given, out, folder)
    write_items(out, members)
    write_items(folder_of(out) / DROPPED, drops)
    reasons = Counter(drop.reason for drop in drops)
    why = f" ({', '.join(f'{count} {reason}' for reason, count in reasons.most_common())})" if drops else ""
    click.echo(f"{out}: kept {len(given) - len(drops)} of {len(given)}, dropped {len(drops)}{why}; "
               f"the pool has {len(members)} items")  # fmt: skip
    return 1 if failed else 0


def _join(config: Config, members: list[Item], given: Sequence[Item], out: Path, folder: Path | None) -> list[Drop]:
    """Let ``given`` join ``members`` unless one is similar to a member; what did not."""
    known = {likeness(item.text) for item in members}
    fresh: list[Item] = []
    drops: list[Drop] = []
    for item in given:
        if likeness(item.text) in known:
            drops.append(Drop(text=item.text, reason="repeated", source=item.source))
        else:
            known.add(likeness(item.text))
            fresh.append(item)
    verdicts = [] if config.pool.similarity == "off" else asyncio.run(_compared(config, members, fresh, out, folder))
    texts = [item.text for item in members]
    ids = ids_after([*(item.id for item in members), *ids_decided(folder_of(out))])
    for n, item in enumerate(fresh):
        if not verdicts or verdicts[n].new:
            texts.append(item.text)
            members.append(Item(text=item.text, id=next(ids), source=item.source))
        else:
            like, near = round(verdicts[n].similarity, 4), texts[verdicts[n].nearest]
            drops.append(Drop(text=item.text, reason="similar", source=item.source, similarity=like, nearest=near))
    return drops


async def _compared(
    config: Config, members: Sequence[Item], fresh: Sequence[Item], out: Path, folder: Path | None
) -> list[Admission]:
    """Which of ``fresh`` are new. The mean is taken once, over members and all that is imported."""
    novelty = Novelty(config.pool.threshold, "raw" if config.pool.similarity == "raw" else "centred")
    texts = [item.text for item in fresh]
    with vectors_of(out, config, folder) as store:
        async for piece in store.pieces([item.text for item in members]):
            novelty.add(piece)
        sums = [piece.sum(axis=0, dtype="float64") async for piece in store.pieces(texts)]
        mean = novelty.mean(sum(sums), len(texts))
        return [verdict async for piece in store.pieces(texts, AT_ONCE) for verdict in novelty.admit(piece, mean)]


def _expanded(config: Config, sketches: Sequence[str], out: Path, folder: Path | None) -> list[str | None] | None:
    """Full profiles of ``sketches``; None if it was interrupted. Answers are kept, so the same command resumes."""
    digest = hashlib.sha256("\0".join(sketches).encode()).hexdigest()[:12]
    endpoints = building.build_endpoints(config)
    (generator,) = building.build_cast(config, endpoints, folder)
    settings = {**building.role_settings(config), "sketches": digest}
    described = {name: describe(endpoint) for name, endpoint in endpoints.items()}

    async def run(journal: Journal) -> list[str | None] | None:
        await journal.claim(seed=0, turns=1, requested=len(sketches), settings=settings, endpoints=described)
        buses: list[Bus] = []
        task = asyncio.create_task(
            expand(generator, sketches, live=building.live(config, endpoints), recorder=Recorder(journal),
                   on_bus=buses.append)
        )  # fmt: skip
        try:
            with interrupts(lambda: buses[0].stop(), task):
                await asyncio.wait([task])
            await journal.commit()
            if task.cancelled() or (not task.exception() and buses[0].stopped):
                return None
            return task.result()
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()

    with contextlib.closing(Journal(folder_of(out) / f"expanded-{digest}")) as journal, loop_runner() as runner:
        try:
            return runner.run(run(journal))
        except Fatal as fatal:
            raise Fatal(f"{fatal}; what was answered is kept: run the same command again") from None
