"""The run in this process: one event loop, one bus, one journal. ``ray`` is the same on many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aloe_agents import building
from aloe_agents.config import Config
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import Fatal
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.personas import Persona
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.progress import EndpointLine, Progress, Snapshot
from aloe_agents.runs.recorder import Recorder


class Local:
    """An engine of ``simulate``: holds all conversations here."""

    def __init__(self, config: Config, parts: building.Parts, personas: Sequence[Persona], out: Path) -> None:
        self._config, self._parts, self._personas, self._out = config, parts, personas, out

    async def open(self, claim: dict[str, Any]) -> None:
        run, endpoints = self._config.run, self._parts.endpoints
        self._journal = Journal(self._out)
        self._recorder = Recorder(self._journal)
        self._progress = Progress(
            str(self._out), run.seed, run.turns, len(self._personas), lambda: endpoint_lines(endpoints)
        )
        self._simulation = Simulation(
            self._parts.cast,
            self._parts.expansion,
            turns=run.turns,
            seed=run.seed,
            live=building.live(self._config, endpoints),
            recorder=self._recorder,
            observers=[self._progress.observe],
        )
        await self._journal.claim(**claim)

    async def run(self) -> None:
        try:
            await self._simulation.run(self._personas)
        finally:
            with suppress(Fatal):  # a journal that is broken has ended the run, and said so
                await self._journal.commit()

    def stop(self) -> None:
        self._simulation.stop()

    @property
    def stopped(self) -> bool:
        return self._simulation.stopped

    @property
    def damaged(self) -> int:
        return self._recorder.damaged

    @property
    def idle(self) -> bool:
        return self._journal.over and self._simulation.skipped == len(self._personas)

    def snapshot(self, finished: bool = False) -> Snapshot:
        self._progress.skipped = self._simulation.skipped
        return self._progress.snapshot(finished)

    async def finish(self) -> None:
        await self._journal.finish({name: endpoint.slots.peak for name, endpoint in self._parts.endpoints.items()})

    async def close(self) -> None:
        if hasattr(self, "_journal"):
            self._journal.close()
        for endpoint in self._parts.endpoints.values():
            await endpoint.close()


def endpoint_lines(endpoints: Mapping[str, Endpoint]) -> list[EndpointLine]:
    """The endpoints as they are now. Needs the running loop's clock."""
    now = asyncio.get_running_loop().time()
    return [
        EndpointLine(
            name,
            e.name,
            e.slots.capacity,
            in_flight=e.slots.taken,
            waiting=e.slots.waiting,
            calls=e.tally.calls,
            retries=sum(e.tally.retries.values()),
            prompt_tokens=e.tally.prompt_tokens,
            completion_tokens=e.tally.completion_tokens,
            cost=e.tally.cost,
            paused=max(0.0, e.pause.until - now),
            trouble=e.breaker.why if e.breaker.open else "",
        )
        for name, e in endpoints.items()
    ]
