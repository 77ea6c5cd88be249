"""``aloe simulate --on ray``: the same run on many processes or machines.

1. Conversations share nothing, so each is held as a whole by one worker: an actor with its own event loop, bus and
   endpoints. Workers take personas in shards as they get free; what a worker that is lost was holding is taken by
   others, who find its answers in the journal.
2. One ledger, an actor on the machine that holds the run's directory, is the only writer of the journal. A worker
   sends what waits to be written as one batch, awaits it, and sends the next: a group commit across the network.
3. An endpoint's capacity and pace are those of the whole cluster. The ledger lends slots: a worker reports how many
   it uses and wants, and gets its share. Where no capacity is given, each worker finds its own.

Nothing is decided here that could change a tree. Keys of servers are read from each worker's own environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aloe_agents import building
from aloe_agents.config import Config
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import AloeError, ConfigError, Fatal
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.models.limits import Leases
from aloe_agents.personas import Persona
from aloe_agents.runs.journal import Journal, Row, SQLValue, Statement
from aloe_agents.runs.progress import Snapshot
from aloe_agents.runs.reading import TREES, Reading, write_trees
from aloe_agents.runs.recorder import END, Recorder
from aloe_agents.runs.run import describe

SHARD = 16  # personas that a worker takes at a time
REPORT = 0.25  # seconds between two reports of a worker on its slots
LIVES = 4  # workers that may be started, one after the other, where one is wanted
log = logging.getLogger(__name__)


class Ledger:
    """The one writer: holds the journal, gives personas out, lends slots. An actor."""

    def __init__(self, workers: int) -> None:
        self.workers, self.journal = workers, cast(Any, None)

    async def open(self, out: Path, claim: dict[str, Any], personas: Sequence[Persona]) -> tuple[float, bool]:
        """Open the journal in ``out``. Returns the run's origin, and whether nothing is left to do."""
        self.journal = journal = Journal(out)
        await journal.claim(**claim)
        done = await Recorder(journal).prepare()
        self.queue = deque(persona for persona in personas if persona.id not in done)
        self.held: dict[int, dict[str, Persona]] = {}
        self.sent: dict[tuple[int, int], int] = {}
        self.leases = {name: Leases(e.capacity) for name, e in claim["endpoints"].items() if e.capacity}
        return journal.origin, journal.over and not self.queue

    async def take(self, worker: int, count: int) -> list[Persona]:
        """The next ``count`` personas at most, none when there are none left; the worker holds them until they ended.
        Who holds as many as an even share waits, or the last worker to start would find nothing to do.
        """
        mine, taken = self.held.setdefault(worker, {}), cast(list[Persona], [])
        while self.queue and not taken:
            share = -(-(len(self.queue) + sum(map(len, self.held.values()))) // self.workers) - len(mine)
            taken = [self.queue.popleft() for _ in range(min(count, share, len(self.queue)))]
            mine.update((persona.id, persona) for persona in taken)
            await asyncio.sleep(0 if taken else REPORT)
        return taken

    async def write(self, worker: int, statements: Sequence[Statement]) -> None:
        """Commit one batch, unless the worker was given up for lost. Raises Fatal where the journal cannot."""
        if (held := self.held.get(worker)) is not None:
            await self.journal.commit(*(self._own(worker, *statement) for statement in statements))
            for values in (values for sql, values in statements if sql == END and values[0] != "pending"):
                held.pop(str(values[-1]), None)

    async def query(self, sql: str, parameters: Sequence[SQLValue]) -> list[Row]:
        """Rows of the journal."""
        rows: list[Row] = await self.journal.query(sql, parameters)
        return rows

    async def report(self, worker: int, used: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Slots by endpoint that the worker may use from now on."""
        return {name: self.leases[name].report(worker, *counts) for name, counts in used.items() if name in self.leases}

    async def stop(self) -> None:
        """Give no more personas out."""
        self.queue.clear()

    async def left(self, worker: int) -> None:
        """A worker is gone: what it held is to be held again, what it had sent may have been answered."""
        self.queue.extendleft(self.held.pop(worker, {}).values())
        for leases in self.leases.values():
            leases.forget(worker)
        for key in [key for key in self.sent if key[0] == worker]:
            self.journal.post(("UPDATE attempts SET state = 'uncertain' WHERE id = ?", (self.sent.pop(key),)))

    async def close(self, ended: bool) -> None:
        """Close the journal, if it could be opened; ``ended``: the run came to its end."""
        if self.journal:
            if ended:
                await self.journal.finish()
            self.journal.close()

    def _own(self, worker: int, sql: str, values: Sequence[SQLValue]) -> Statement:
        """An attempt's row under a number of the journal's, where the worker had to give one of its own."""
        if sql != "attempts":
            return sql, values
        key = worker, int(str(values[0]))
        number = self.sent[key] = self.sent.get(key) or self.journal.number()
        if values[3] != "sent":
            del self.sent[key]
        return sql, (number, *values[1:])


@dataclass
class RemoteJournal:
    """The journal as a worker has it: what waits is sent to the ledger as one batch at a time."""

    ledger: Any
    worker: int
    origin: float
    fresh: bool = False
    _statements: list[Statement] = field(default_factory=list)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _sending: asyncio.Task[None] | None = None
    _broken: Fatal | None = None
    number: Any = field(default_factory=lambda: itertools.count(1).__next__)  # the ledger has numbers of its own

    def now(self) -> float:
        return time.time() - self.origin

    async def commit(self, *statements: Statement) -> None:
        self._waiting.append(future := asyncio.get_running_loop().create_future())
        self.post(*statements)
        await future

    def post(self, *statements: Statement) -> None:
        if self._broken:
            raise self._broken
        self._statements += statements
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._drain())

    async def query(self, sql: str, parameters: Sequence[SQLValue] = ()) -> list[Row]:
        await self.commit()
        rows: list[Row] = await self.ledger.query.remote(sql, parameters)
        return rows

    async def _drain(self) -> None:
        while self._statements or self._waiting:
            waiting, statements, self._waiting, self._statements = self._waiting, self._statements, [], []
            try:
                await self.ledger.write.remote(self.worker, statements)
            except (RayError, Fatal) as error:
                self._broken = Fatal(f"the ledger cannot write: {_said(error)}")
            for future in waiting:
                if not future.done():
                    future.set_exception(self._broken) if self._broken else future.set_result(None)


@dataclass
class Worker:
    """Holds conversations, as many at once as its share of the run's. An actor."""

    number: int
    workers: int
    ledger: Any
    origin: float
    config: Config
    folder: Path | None
    simulation: Any = None

    async def run(self) -> int:
        """Hold conversations until none is left. Returns how many damaged answers were met."""
        parts, run = building.build(self.config, self.folder, share=1 / self.workers), self.config.run
        journal: Any = RemoteJournal(self.ledger, self.number, self.origin)
        recorder, live = Recorder(journal, alone=False), -(-building.live(self.config, parts.endpoints) // self.workers)
        options: Any = {"turns": run.turns, "seed": run.seed, "live": live, "recorder": recorder}
        self.simulation = Simulation(parts.cast, parts.expansion, **options)
        for endpoint in parts.endpoints.values():
            if endpoint.limits.capacity:
                endpoint.lend(0)
        borrowing = asyncio.create_task(self._borrow(parts.endpoints))
        try:
            await self.simulation.run(self._personas())
            await journal.commit()
        finally:
            borrowing.cancel()
            for endpoint in parts.endpoints.values():
                await endpoint.close()
        return recorder.damaged

    async def stop(self) -> None:
        """Ask nothing more; what is in flight lands."""
        if self.simulation:
            self.simulation.stop()

    async def _personas(self) -> AsyncIterator[Persona]:
        while not self.simulation.stopped and (taken := await self.ledger.take.remote(self.number, SHARD)):
            for persona in taken:
                yield persona

    async def _borrow(self, endpoints: Mapping[str, Endpoint]) -> None:
        while True:
            used = {name: (e.slots.taken, max(1, e.slots.taken + e.slots.waiting)) for name, e in endpoints.items()}
            for name, slots in (await self.ledger.report.remote(self.number, used)).items():
                endpoints[name].lend(slots)
            await asyncio.sleep(REPORT)


@dataclass
class Cluster:
    """The driver's side, an engine of ``simulate``: starts ledger and workers, and others for those that are lost."""

    config: Config
    personas: Sequence[Persona]
    out: Path
    folder: Path | None
    address: str | None = None
    workers: int = 0
    damaged: int = 0
    stopped: bool = False
    idle: bool = False
    _live: dict[int, Any] = field(default_factory=dict)
    ended: bool = False
    unread_judges: list[str] = field(default_factory=list)
    _ledger: Any = None
    _reading: Any = None
    _last: Any = None

    async def open(self, claim: dict[str, Any]) -> None:
        """Start the cluster, ledger and journal. Raises ConfigError where that cannot be."""
        local = {} if self.address else {"num_cpus": self.workers or os.cpu_count(), "include_dashboard": False}
        try:
            ray.init(self.address, log_to_driver=not sys.stdout.isatty(), logging_level="ERROR", **local)
            self.workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            ledger = ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here)
            self._ledger = ledger.remote(self.workers)
            self._origin, self.idle = await self._ledger.open.remote(self.out.absolute(), claim, self.personas)
        except (AloeError, ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(_said(error)) from None
        self._reading = Reading(self.out)

    async def run(self) -> None:
        """Hold all conversations. Raises Fatal if one ended the run."""
        kept = (self._keep(first) for first in range(self.workers))
        for error in filter(None, await asyncio.gather(*kept, return_exceptions=True)):
            raise error

    def stop(self) -> None:
        """Ask nothing more; what is in flight lands."""
        self.stopped = True
        for actor in (self._ledger, *self._live.values()):
            actor.stop.remote()

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run now, from its journal."""
        return cast(Snapshot, self._reading.snapshot() if self._reading else self._last)

    async def close(self) -> None:
        """Let go of journal and cluster."""
        if self._reading:
            self._last = self._reading.snapshot()
            self._reading.close()
            self._reading = None
        if self._ledger:
            with contextlib.suppress(RayError):  # one that is lost; why has been said
                await self._ledger.close.remote(self.ended)
        ray.shutdown()

    async def _keep(self, first: int) -> None:
        """Keep one worker at work, and start another in its place when it is lost."""
        for number in range(first, first + LIVES * self.workers, self.workers):
            mine = (number, self.workers, self._ledger, self._origin, self.config, self.folder)
            worker = self._live[number] = ray.remote(Worker).options(num_cpus=1).remote(*mine)
            try:
                self.damaged += await worker.run.remote()
                await self._ledger.left.remote(number)
                return
            except AloeError as error:
                self.stop()
                raise Fatal(_said(error)) from None
            except RayTaskError as error:  # no worker was lost: something in here, or in a role, is wrong
                raise RuntimeError(_said(error)) from error
            except RayError as error:
                log.warning("worker %d is lost (%s); others go on with what it held", number, type(error).__name__)
                await self._ledger.left.remote(number)
                if self.stopped:
                    return
            finally:
                del self._live[number]
        raise Fatal(f"{LIVES} workers in a row were lost; the same command goes on from here")


async def simulate(
    cluster: Cluster, settings: Mapping[str, str], endpoints: Mapping[str, Endpoint], on_open: Callable[[Cluster], None]
) -> None:
    """Hold all conversations on ``cluster``, write the trees, and note the end unless the run was stopped."""
    claim = {
        "seed": cluster.config.run.seed,
        "turns": cluster.config.run.turns,
        "requested": len(cluster.personas),
        "settings": settings,
        "endpoints": {name: describe(endpoint) for name, endpoint in endpoints.items()},
    }
    try:
        await cluster.open(claim)
        on_open(cluster)
        try:
            await cluster.run()
        except Fatal:
            with contextlib.suppress(ConfigError):
                write_trees(cluster.out)
            raise
        if not cluster.idle or not (cluster.out / TREES).exists():
            cluster.unread_judges = write_trees(cluster.out).unread
        cluster.ended = not cluster.stopped
    finally:
        await cluster.close()


def _said(error: BaseException) -> str:  # without the traceback that Ray puts around it
    return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
