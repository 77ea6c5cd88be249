"""Nothing schedules turns but who hears what: a conversation lasts as long as its critical path, to the microsecond."""

from __future__ import annotations

import pytest

from aloe_agents.engine.expansion import RandomPath, coin
from aloe_agents.engine.simulation import Simulation
from aloe_agents.messages import ConversationEnded, Message
from aloe_agents.testing import TimedModel, run_virtual
from tests.benchmarks import schedule
from tests.casts import Digest, full_cast, paper_cast, people

CALL = 0.1


def critical_path(seed: int, conversation: str, turns: int) -> int:
    """Calls one after another: the user, then the chosen answer, which is two calls if preferred; all of the last turn."""
    path: tuple[str, ...] = ()
    calls = 0
    for turn in range(1, turns + 1):
        label = ("preferred", "rejected")[coin(seed, conversation, path)]
        calls += 3 if turn == turns or label == "preferred" else 2
        path = (*path, label)
    return calls


def duration(seed: int, turns: int, capacity: int = 10**6, latency: float = CALL) -> tuple[float, int]:
    """Virtual seconds of one conversation, and its calls."""
    calls = 0

    def observe(message: Message, sender: str) -> None:
        nonlocal calls
        if isinstance(message, ConversationEnded):
            assert message.status == "completed"
            calls = message.calls

    async def main() -> float:
        import asyncio

        model = TimedModel(Digest(), lambda call: latency, capacity)
        simulation = Simulation(paper_cast(model), RandomPath(), turns=turns, seed=seed, observers=[observe])
        await simulation.run(people(1))
        return asyncio.get_running_loop().time()

    return run_virtual(main()), calls


@pytest.mark.parametrize("seed", range(100))
def test_ten_turns_last_their_critical_path_to_the_microsecond(seed: int) -> None:
    seconds, calls = duration(seed, 10)
    assert seconds == pytest.approx(CALL * critical_path(seed, "p00000", 10), abs=1e-6)
    assert calls == 40  # the unchosen answers are asked as well, they are only not waited for


def test_coins_differ_between_seeds_conversations_and_paths() -> None:
    paths = {critical_path(seed, "p00000", 10) for seed in range(100)}
    assert min(paths) < 24 < max(paths)
    assert {coin(1, f"p{n}", ()) for n in range(20)} == {0, 1}
    assert {coin(1, "p", ("preferred",) * n) for n in range(20)} == {0, 1}


def test_judges_and_critics_are_off_the_critical_path() -> None:
    async def main() -> float:
        import asyncio

        model = TimedModel(Digest(), lambda call: CALL)
        simulation = Simulation(full_cast(model), RandomPath(), turns=10, seed=3)
        await simulation.run(people(1))
        return asyncio.get_running_loop().time()

    # after the last answer: its judge, then the pairwise judge
    assert run_virtual(main()) == pytest.approx(CALL * (critical_path(3, "p00000", 10) + 2), abs=1e-6)


def test_scarce_capacity_serves_the_longest_remaining_chain_first() -> None:
    """With one place, total work bounds the time; with priority no place is idle until all is done."""
    seconds, calls = duration(5, 10, capacity=1)
    assert seconds == pytest.approx(CALL * calls, abs=1e-6)
    urgent, _ = duration(5, 10, capacity=2)
    assert urgent <= CALL * (critical_path(5, "p00000", 10) + 1) + 1e-6


@pytest.mark.parametrize(("conversations", "slots", "most"), [(100, 64, 1.05), (100, 128, 1.03), (100, 1000, 1.03),
                                                              pytest.param(1000, 256, 1.03, marks=pytest.mark.slow)])  # fmt: skip
def test_scarce_slots_are_so_used_that_hardly_a_schedule_is_shorter(
    conversations: int, slots: int, most: float
) -> None:
    """Lognormal service times; beside the lower bound max(work / slots, longest chain)."""
    times = schedule.drawn_for(conversations)
    assert 1 - 1e-9 <= schedule.virtual(conversations, slots) / schedule.bound(times, conversations, slots) <= most
