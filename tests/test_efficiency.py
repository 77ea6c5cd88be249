"""The lower bound of a run's makespan: exact where messages alone make calls wait, never too high elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Question
from aloe_agents.engine.expansion import Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.messages import Address, Message
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.runs.efficiency import longest_chain
from aloe_agents.runs.journal import EndpointRecord, Journal
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.recorder import Recorder
from aloe_agents.testing import Memo, TimedModel, run_virtual
from tests.casts import Digest, full_cast, paper_cast, people


def seconds_of(call: Call) -> float:
    return random.Random(call.key).lognormvariate(0.0, 1.0)


def held(cast: Callable[[ChatModel], Sequence[Agent]], expansion: Expansion, seed: int) -> tuple[float, float]:
    """One conversation with nothing in its way: how long it took, and its longest chain."""
    calls: list[tuple[str, Address, float]] = []
    senders: dict[Address, str] = {}

    class Noting(Memo):
        async def record(self, model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
            calls.append((slot.agent, slot.heard, seconds_of(call)))
            return await super().record(model, call, slot)

    def observe(message: Message, sender: str) -> None:
        if not message.observed_only:
            senders[message.address] = sender

    async def main() -> float:
        agents = cast(TimedModel(Digest(), seconds_of))
        simulation = Simulation(agents, expansion, turns=6, seed=seed, observers=[observe], recorder=Noting())
        await simulation.run(people(1))
        return asyncio.get_running_loop().time()

    return run_virtual(main()), longest_chain(calls, senders)


@pytest.mark.parametrize("seed", range(20))
def test_with_nothing_in_its_way_a_conversation_takes_its_longest_chain(seed: int) -> None:
    took, chain = held(paper_cast, RandomPath(), seed)
    assert took == pytest.approx(chain, abs=1e-6)
    took, chain = held(paper_cast, Full(3), seed)
    assert took == pytest.approx(chain, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_agents_need_beyond_what_they_hear_never_makes_the_chain_too_long(seed: int) -> None:
    took, chain = held(full_cast, RandomPath(), seed)
    assert 0 < chain <= took + 1e-6


def test_a_thousand_turns_are_no_deep_recursion() -> None:
    path = ("preferred",) * 1000
    calls: list[tuple[str, Address, float]] = []
    senders: dict[Address, str] = {}
    for depth in range(1000):
        opened, said = ("TurnOpened", path[:depth], ""), ("UserSaid", path[:depth], "")
        calls += [("role_player", opened, 1.0), ("preferred", said, 1.0)]
        senders |= {said: "role_player", ("Answered", path[:depth], "preferred"): "preferred", opened: "expansion"}
    assert longest_chain(reversed(calls), senders) == 2000.0


class Slow(Digest):
    async def chat(self, call: Call) -> Completion:
        await asyncio.sleep(0.02)
        return await super().chat(call)


@pytest.mark.parametrize(("capacity", "bound_by_work"), [(2, True), (100, False)])
async def test_a_run_says_how_near_it_came(tmp_path: Path, capacity: int, bound_by_work: bool) -> None:
    endpoint = Endpoint("slow", [Slow()], Limits(capacity=capacity))
    described = {"slow": EndpointRecord("digest", capacity, (0, 0))}
    with Journal(tmp_path) as journal:
        simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=3, recorder=Recorder(journal))
        await journal.claim(seed=0, turns=3, requested=4, settings={}, endpoints=described)
        await simulation.run(people(4))
    with contextlib.closing(Reading(tmp_path)) as reading:
        efficiency = reading.efficiency()
    assert efficiency is not None and efficiency.ratio >= 1.0
    assert efficiency.work["slow"] >= 48 * 0.02 / capacity
    assert (efficiency.chain < efficiency.work["slow"]) is bound_by_work
    assert ("the work of slow" if bound_by_work else "the longest chain") in str(efficiency)
