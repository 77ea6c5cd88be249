"""Makespan over its lower bound, with lognormal service times: mean 400 ms, sigma 0.5.

The bound is max(total service time / slots, longest dependency chain); chains pair calls with turns by their path.
On the virtual clock the client costs nothing, and what is left is the order in which calls are served; over HTTP, with
the journal, everything that a call costs is in the figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson

from aloe_agents.engine.bus import Question
from aloe_agents.engine.expansion import RandomPath, coin
from aloe_agents.engine.simulation import Simulation
from aloe_agents.messages import NodePath
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.limits import Slots
from aloe_agents.runners.simulate import simulate
from aloe_agents.runs.reading import Reading
from aloe_agents.testing import Memo, run_virtual
from tests.benchmarks.client import configured
from tests.benchmarks.server import TEXT, load_server, service_seconds
from tests.casts import paper_cast, people

MEAN, SIGMA, TURNS, SEED = 0.4, 0.5, 10, 1
CASES = ((100, 64), (100, 128), (100, 1000), (1000, 256))
AGENTS = ("role_player", "induction", "preferred", "rejected")

Times = Mapping[tuple[str, str, NodePath], float]
"""Service seconds by conversation, agent and path."""


def bound(times: Times, conversations: int, slots: int) -> float:
    """The makespan that no schedule goes below."""
    return max(sum(times.values()) / slots, *(chain(times, person.id) for person in people(conversations)))


def chain(times: Times, conversation: str) -> float:
    """Seconds of a conversation's longest chain: user, then the chosen answer (through induction if preferred), next."""
    total, path = 0.0, NodePath()
    for turn in range(1, TURNS + 1):
        user, induction, preferred, rejected = (times[conversation, agent, path] for agent in AGENTS)
        ways = {"preferred": induction + preferred, "rejected": rejected}
        label = ("preferred", "rejected")[coin(SEED, conversation, path)]
        total += user + (max(ways.values()) if turn == TURNS else ways[label])
        path = (*path, label)
    return total


def drawn(conversation: str, agent: str, path: NodePath) -> float:
    """The service time of a call at this place: the same for every way of scheduling it."""
    return service_seconds(f"{conversation} {agent} {'/'.join(path)}", MEAN, SIGMA)


def drawn_for(conversations: int) -> Times:
    """The service times of all calls of a run."""
    times = {}
    for person in people(conversations):
        path = NodePath()
        for _ in range(TURNS):
            times.update({(person.id, agent, path): drawn(person.id, agent, path) for agent in AGENTS})
            path = (*path, ("preferred", "rejected")[coin(SEED, person.id, path)])
    return times


class Timed(Memo):
    """A recorder that knows where a call is made, and so how long it takes."""

    async def record(self, model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
        seconds = drawn(slot.conversation, slot.agent, slot.heard[1])
        return await model.chat(dataclasses.replace(call, sampling={"seconds": seconds})), False


class Served:
    """A model that takes the time that its call is marked with, on the loop's clock."""

    name = "load"

    async def chat(self, call: Call) -> Completion:
        seconds = call.sampling["seconds"]
        assert isinstance(seconds, float)
        await asyncio.sleep(seconds)
        return Completion(text=TEXT)


def virtual(conversations: int, slots: int) -> float:
    """The makespan of this program on a clock that only models move."""

    async def main() -> float:
        endpoint = Endpoint("load", [Served()], Limits(capacity=slots))
        live = max(256, 4 * slots)
        simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=TURNS, seed=SEED, live=live, recorder=Timed())
        await simulation.run(people(conversations))
        return asyncio.get_running_loop().time()

    return run_virtual(main())


def step_by_step(conversations: int, slots: int) -> float:
    """The makespan of the loop that anybody writes first: message; induction and both answers; next turn. First come."""

    async def main() -> float:
        places = Slots(slots)

        async def call(conversation: str, agent: str, path: NodePath) -> None:
            await places.take(0)
            await asyncio.sleep(drawn(conversation, agent, path))
            places.give()

        async def preferred(conversation: str, path: NodePath) -> None:
            await call(conversation, "induction", path)
            await call(conversation, "preferred", path)

        async def converse(conversation: str) -> None:
            path = NodePath()
            for _ in range(TURNS):
                await call(conversation, "role_player", path)
                await asyncio.gather(preferred(conversation, path), call(conversation, "rejected", path))
                path = (*path, ("preferred", "rejected")[coin(SEED, conversation, path)])

        await asyncio.gather(*(converse(person.id) for person in people(conversations)))
        return asyncio.get_running_loop().time()

    return run_virtual(main())


def over_http(conversations: int, slots: int) -> tuple[float, float, float]:
    """Makespan and bound by the journal's clock, with the server's own service times; what the run said of itself."""
    with load_server(MEAN, SIGMA) as url, tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        config = configured(url, slots)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            assert simulate(config, people(conversations), out, plain=True) == 0
        with contextlib.closing(sqlite3.connect(out / "journal.sqlite")) as journal:
            rows = journal.execute("SELECT conversation, agent, path, key FROM calls").fetchall()
            began, ended = journal.execute("SELECT min(queued_at), max(finished_at) FROM attempts").fetchone()
        with contextlib.closing(Reading(out)) as reading:
            said = reading.efficiency()
    times = {
        (conversation, agent, tuple(orjson.loads(path))): service_seconds(key.hex(), MEAN, SIGMA)
        for conversation, agent, path, key in rows
    }
    assert said is not None
    return ended - began, bound(times, conversations, slots), said.ratio


def main() -> None:
    """Print the table."""
    print(f"makespan / lower bound, {TURNS} turns, service times lognormal, mean {MEAN * 1e3:.0f} ms, sigma {SIGMA}")
    for conversations, slots in CASES:
        least = bound(drawn_for(conversations), conversations, slots)
        mine, plain = virtual(conversations, slots) / least, step_by_step(conversations, slots) / least
        makespan, true, said = over_http(conversations, slots)
        print(
            f"  {conversations:5} conversations, {slots:5} slots: {mine:.3f} (step by step {plain:.3f}); over HTTP "
            f"{makespan / true:.3f} = {makespan:.1f} s / {true:.1f} s (by the journal's own times {said:.3f})",
            flush=True,
        )
