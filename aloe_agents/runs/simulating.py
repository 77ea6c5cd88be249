"""Personas in, a finished run out: the core of ``aloe.simulate`` and of everything that holds conversations.

It opens the run, drives the simulation, writes the trees, and notes the end unless the run was stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Observer
from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion, check
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.personas import Persona, check_ids, read_personas
from aloe_agents.runs.run import TREES, Run, live_for
from aloe_agents.runs.settings import endpoints_of, settings_of


async def simulate(
    cast: Sequence[Agent],
    personas: Iterable[Persona] | Path | str,
    out: Path | str | None = None,
    *,
    expansion: Expansion | None = None,
    turns: int = 10,
    seed: int = 0,
    live: int | None = None,
    limit: int | None = None,
    observers: Sequence[Observer] = (),
    force: bool = False,
    keep_open: bool = True,
    on_open: Callable[[Run], None] | None = None,
) -> Run:
    """Hold a conversation with each persona (the paper's section 2.1); returns the run, which has trees and accounting.

    ``personas`` are Personas or a JSONL file of them; ``limit`` takes the first so many. ``expansion`` defaults to the
    paper's random path over ``turns`` turns (K). ``live`` is how many conversations are held at once (default: four for
    each call that the endpoints take). With ``out`` the run is recorded in that directory and the same call resumes it;
    ``force`` goes on in a directory whose run had other settings. The endpoints of the cast are left open unless
    ``keep_open`` is False.

    Raises ConfigError before anything is asked, and Fatal where the run cannot go on: what was answered is kept.
    """
    people = read_personas(personas) if isinstance(personas, Path | str) else list(islice(personas, limit))
    people = people[:limit]
    check_ids(people)
    expansion = RandomPath() if expansion is None else expansion
    check([*cast, expansion], expansion.labels)
    endpoints = endpoints_of(cast)
    run = Run(
        out,
        settings=settings_of(cast, expansion, people, turns=turns, seed=seed),
        endpoints=endpoints,
        requested=len(people),
        seed=seed,
        turns=turns,
        observers=observers,
        force=force,
        keep_open=keep_open,
    )
    async with run:
        simulation = Simulation(
            cast,
            expansion,
            turns=turns,
            seed=seed,
            live=live_for(endpoints.values()) if live is None else live,
            recorder=run.recorder,
            observers=run.observers,
        )
        run.drive(simulation)
        if on_open:
            on_open(run)
        await _held(run, simulation, people)
    return run


async def _held(run: Run, simulation: Simulation, people: Sequence[Persona]) -> None:
    """Hold all conversations, write the trees, and note the end unless the run was stopped."""
    try:
        await simulation.run(people, on_tree=run.keep, on_resumed=run.progress.resumed)
        if run.recorder is not None:
            await run.journal.commit()
    except Fatal:
        if run.directory is not None:
            with contextlib.suppress(ConfigError, Fatal):  # what ended the run comes first: a full disk, say
                await run.journal.commit()
                run.write_trees()
        raise
    if run.directory is None:
        return
    idle = run.journal.over and simulation.skipped == len(people)
    if not idle or not (run.directory / TREES).exists():
        run.write_trees()
    if not simulation.stopped:  # noted last, so that a run that is over has its trees
        await run.finish()
