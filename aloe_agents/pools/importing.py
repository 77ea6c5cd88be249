"""Other people's files become a pool: texts join unless one is like a member; sketches are expanded to full profiles."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Bus, Observer
from aloe_agents.errors import ConfigError
from aloe_agents.messages import SketchGiven
from aloe_agents.pools.embedding import Embedder, VectorStore
from aloe_agents.pools.items import DROPPED, Drop, Item, check_place, folder_of, ids_after, read_items, write_items
from aloe_agents.pools.proposals import likeness
from aloe_agents.pools.review import ids_decided
from aloe_agents.pools.rounds import bus_for, propose
from aloe_agents.pools.similarity import THRESHOLD, Admission, Novelty, Similarity
from aloe_agents.runs.journal import JOURNAL_FILE
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.run import Run, live_for
from aloe_agents.runs.settings import cast_settings, endpoints_of

AT_ONCE = 1000
"""How many items are compared by one product; the mean is the same for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A pool after an import."""

    path: Path
    items: Sequence[Item]
    """All members, old and new."""
    drops: Sequence[Drop]
    """What did not join."""
    given: int
    """How many items were to be imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """Full profiles of personas in a sentence each."""

    items: Sequence[Item]
    """Those that could be expanded, in their order."""
    failed: int
    """How many could not; the same call tries again."""
    stopped: bool
    """Whether the run was stopped before all were expanded; the same call resumes."""


def check_import(out: Path | str) -> Path:
    """``out`` as a path. Raises ConfigError if nothing can be imported into it."""
    out = check_place(out)
    if (folder_of(out) / JOURNAL_FILE).exists():
        raise ConfigError(
            f"{out} was grown, and growing on would write it anew; import it and the new files into another pool"
        )
    return out


async def import_items(
    given: Sequence[Item],
    out: Path | str,
    *,
    embedder: Embedder | None = None,
    similarity: Similarity | Literal["off"] = "centred",
    threshold: float = THRESHOLD,
) -> Imported:
    """Let ``given`` join the pool ``out``, which may be new, except what is too similar to a member, and write it.

    ``similarity="off"`` drops equal texts only. Raises ConfigError if the pool was grown, or cannot be written.
    """
    out = check_import(out)
    members = read_items(out)[0] if out.exists() else []
    drops: list[Drop] = []
    fresh = _unequal(members, given, drops)
    verdicts = [Admission(True, 0.0, -1)] * len(fresh)
    if similarity != "off":
        with closing(VectorStore.beside(out, embedder, similarity)) as store:
            verdicts = await compared(members, fresh, store, Novelty(threshold, similarity))
    texts = [item.text for item in members]
    ids = ids_after([*(item.id for item in members), *ids_decided(folder_of(out))])
    for item, verdict in zip(fresh, verdicts, strict=True):
        if verdict.new:
            texts.append(item.text)
            members.append(replace(item, id=next(ids)))
        else:
            like, nearest = round(verdict.similarity, 4), texts[verdict.nearest]
            drops.append(Drop(text=item.text, reason="similar", source=item.source, similarity=like, nearest=nearest))
    write_items(out, members)
    write_items(folder_of(out) / DROPPED, drops)
    return Imported(path=out, items=members, drops=drops, given=len(given))


def _unequal(members: Sequence[Item], given: Sequence[Item], drops: list[Drop]) -> list[Item]:
    """``given`` without repeated texts, which are added to ``drops``."""
    known = {likeness(item.text) for item in members}
    fresh: list[Item] = []
    for item in given:
        if likeness(item.text) in known:
            drops.append(Drop(text=item.text, reason="repeated", source=item.source))
        else:
            known.add(likeness(item.text))
            fresh.append(item)
    return fresh


async def compared(
    members: Sequence[Item], fresh: Sequence[Item], store: VectorStore, novelty: Novelty
) -> list[Admission]:
    """Which of ``fresh`` are new to ``members``. The mean is taken once, over both."""
    texts = [item.text for item in fresh]
    async for piece in store.pieces([item.text for item in members]):
        novelty.add(piece)
    sums = [piece.sum(axis=0, dtype="float64") async for piece in store.pieces(texts)]
    mean = novelty.mean(sum(sums), len(texts))
    return [verdict async for piece in store.pieces(texts, AT_ONCE) for verdict in novelty.admit(piece, mean)]


async def expand_items(
    generator: Agent,
    items: Sequence[Item],
    out: Path | str,
    *,
    live: int | None = None,
    observers: Sequence[Observer] = (),
    keep_open: bool = True,
    on_open: Callable[[Run], None] | None = None,
) -> Expanded:
    """Expand ``items``, personas in a sentence each, to full profiles for the pool ``out``.

    ``generator`` hears SketchGiven. ``live`` is how many are expanded at once (default: four per call that its endpoints
    take). Answers are kept in the pool's folder, so the same call resumes. Raises Fatal if the run cannot go on.
    """
    _check_generator(generator)
    sketches = [item.text for item in items]
    digest = hashlib.sha256("\0".join(sketches).encode()).hexdigest()[:12]
    endpoints = endpoints_of([generator])
    run = Run(
        folder_of(check_import(out)) / f"expanded-{digest}",
        settings={**cast_settings([generator]), "sketches": digest},
        endpoints=endpoints,
        requested=len(sketches),
        observers=observers,
        force=True,  # of another generator the answers to unchanged questions are kept
        keep_open=keep_open,
    )
    async with run:
        if on_open:
            on_open(run)
        at_once = live_for(endpoints.values()) if live is None else live
        texts = await expand(
            generator, sketches, live=at_once, recorder=run.recorder, observers=run.observers, on_bus=run.drive
        )
        await run.journal.commit()
    found = [replace(item, text=text) for item, text in zip(items, texts, strict=True) if text is not None]
    return Expanded(items=found, failed=len(items) - len(found), stopped=run.stopped)


async def expand(
    generator: Agent,
    sketches: Sequence[str],
    *,
    live: int = 64,
    recorder: Recorder | None = None,
    observers: Sequence[Observer] = (),
    on_bus: Callable[[Bus], None] = lambda bus: None,
) -> list[str | None]:
    """Full profiles of personas in a sentence each, in their order; None for those that could not be expanded.

    ``generator`` hears SketchGiven. ``on_bus`` gets the bus, whose ``stop`` ends the work. Raises Fatal if one ended it.
    """
    _check_generator(generator)
    bus = bus_for(generator, recorder, observers)
    on_bus(bus)
    held = {}
    if recorder:
        await recorder.prepare()
        held = await recorder.held("Proposed")
    places = asyncio.Semaphore(live)

    async def one(number: int, sketch: str) -> str | None:
        id = f"sketch-{number:06d}"
        if id in held and held[id].status == "completed" and "Proposed" in held[id].said:
            return str(held[id].said["Proposed"]["items"][0])
        async with places:
            if bus.stopped:
                return None
            proposal = await propose(bus, recorder, SketchGiven(conversation=id, text=sketch))
        return proposal.items[0] if proposal.items else None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n, sketch)) for n, sketch in enumerate(sketches, 1)]
    if bus.cause:
        raise bus.cause
    return [task.result() for task in tasks]


def _check_generator(generator: Agent) -> None:
    if SketchGiven not in generator.hears:
        raise ConfigError(f"agent {generator.name!r} cannot expand sketches: it does not hear SketchGiven")
