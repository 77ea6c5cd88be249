"""Where a server's limit is not known it is found, nearly; and nothing is sent to a server that answers nobody."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest

from aloe_agents.errors import CallFailed, FailureReason, Fatal, Stopping, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.adaptive import AdaptiveCapacity
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.limits import Slots
from aloe_agents.testing import run_virtual

R = FailureReason
MEAN = 0.4


class Engine:
    """A model server on the loop's clock: ``places`` answers at a time, or one that slows down with its load."""

    name = "engine"

    def __init__(self, kind: str, places: int, sigma: float = 0.5) -> None:
        self.kind, self.places, self.sigma = kind, places, sigma
        self.random = random.Random(1)
        self.running = 0
        self.served = 0
        self.refused = 0
        self._slots = Slots(places)

    async def chat(self, call: Call) -> Completion:
        if self.kind == "refuses" and self.running >= self.places:
            self.refused += 1
            raise Transient(R.RATE_LIMITED, "too many", retry_after=0.5)
        seconds = self.random.lognormvariate(math.log(MEAN) - self.sigma**2 / 2, self.sigma)
        if self.kind == "queues":
            await self._slots.take(0)
        self.running += 1
        try:
            await asyncio.sleep(seconds * (1 + self.running / self.places if self.kind == "slows" else 1))
        finally:
            self.running -= 1
            if self.kind == "queues":
                self._slots.give()
        self.served += 1
        return Completion(text="hi")


def load(engine: Engine, callers: int, seconds: float, capacity: int | None = None) -> tuple[Endpoint, list[int]]:
    """``callers`` who ask again and again; the endpoint, and its capacity second by second."""

    async def main() -> tuple[Endpoint, list[int]]:
        endpoint = Endpoint("e", [engine], Limits(capacity=capacity))
        loop, seen = asyncio.get_running_loop(), []

        async def caller(name: str) -> None:
            while loop.time() < seconds:
                await endpoint.chat(Call(messages=(), conversation=name))

        async with asyncio.TaskGroup() as group:
            for n in range(callers):
                group.create_task(caller(f"c{n}"))
            while loop.time() < seconds:
                seen.append(endpoint.slots.capacity)
                await asyncio.sleep(1)
        return endpoint, seen

    return run_virtual(main())


@pytest.mark.parametrize(("places", "sigma"), [(16, 0.5), (60, 0.5), (60, 1.0)])
def test_an_engine_that_queues_is_filled_and_not_much_more(places: int, sigma: float) -> None:
    engine = Engine("queues", places, sigma)
    _, seen = load(engine, 300, 120)
    later = seen[40:]
    assert seen[0] == 8 and max(later) <= 2.2 * places
    assert engine.served / 120 >= 0.85 * places / MEAN


def test_an_engine_that_refuses_is_asked_for_nearly_what_it_takes_and_rarely_for_more() -> None:
    engine = Engine("refuses", 50)
    load(engine, 300, 120)
    assert engine.served / 120 >= 0.85 * 50 / MEAN
    assert engine.refused <= 0.05 * engine.served


def test_an_engine_that_slows_down_gets_as_much_as_still_pays() -> None:
    engine = Engine("slows", 64)
    _, seen = load(engine, 600, 120)
    assert 64 <= seen[-1] <= 512  # at 64 in flight it gives half of its most, at 192 three quarters


def test_where_one_call_at_a_time_is_taken_and_it_gets_slower_there_is_no_step_down() -> None:
    capacity = AdaptiveCapacity(8, 1)
    for seconds in [1.0] * 100 + [2.0] * 100 + [4.0] * 200:
        capacity.finished(capacity.started(capacity.now), seconds)
        capacity.limit(1)
    assert capacity.now == 1


def test_calls_that_failed_do_not_keep_it_from_growing() -> None:
    class Late(Engine):
        async def chat(self, call: Call) -> Completion:
            if asyncio.get_running_loop().time() < 10:
                raise Transient(R.UNREACHABLE, "not up yet")
            return await super().chat(call)

    engine = Late("queues", 60)
    _, seen = load(engine, 300, 60)
    assert max(seen[:10]) == 8 and seen[-1] >= 50


def test_what_is_not_used_does_not_grow() -> None:
    _, seen = load(Engine("queues", 500), 20, 60)
    assert max(seen) <= 40


def test_a_given_capacity_is_cut_once_an_episode_and_comes_back() -> None:
    engine = Engine("refuses", 50)
    _, seen = load(engine, 300, 60, capacity=80)
    assert seen[0] == 80 and max(seen) <= 80 and 40 <= min(seen) < 60
    assert engine.refused <= 0.1 * engine.served

    adaptive = AdaptiveCapacity(100, given=True)
    adaptive.refused()
    assert adaptive.now == 70
    for _ in range(1000):
        adaptive.finished(adaptive.started(adaptive.now), 1.0)
    assert adaptive.now == 100


def test_what_waits_in_the_engine_is_taken_back_the_second_time_it_is_seen() -> None:
    adaptive = AdaptiveCapacity(1024, 100)
    assert not adaptive.queued(40) and adaptive.queued(40) and adaptive.now == 72
    assert not adaptive.queued(40) and not adaptive.queued(0) and not adaptive.queued(40) and adaptive.now == 72


def test_time_in_our_own_queue_is_no_model_s_time() -> None:
    async def main() -> float:
        endpoint = Endpoint("e", [Engine("queues", 1, sigma=0.0)], Limits(capacity=1, timeout=0.5, deadline=0.5))
        await asyncio.gather(*(endpoint.chat(Call(messages=(), conversation=f"c{n}")) for n in range(100)))
        assert endpoint.tally.retries == {}
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(100 * MEAN)


class Flaky:
    """A model that is down between two moments, and counts what it is asked meanwhile."""

    name = "m"

    def __init__(self, until: float, refuses: bool = True) -> None:
        self.until, self.refuses = until, refuses
        self.asked: Counter[str] = Counter()

    async def chat(self, call: Call) -> Completion:
        if asyncio.get_running_loop().time() < self.until:
            self.asked[call.conversation] += 1
            await asyncio.sleep(0.01)
            raise Transient(R.UNREACHABLE if self.refuses else R.SERVER_ERROR, "down", uncertain=not self.refuses)
        return Completion(text="hi")


@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_that_is_not_up_yet_is_waited_for_by_one_call_at_a_time(
    refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> float:
        endpoint = Endpoint("big", [model], Limits(capacity=8, attempts=2))
        await asyncio.gather(*(endpoint.chat(Call(messages=(), conversation=f"c{n}")) for n in range(100)))
        return asyncio.get_running_loop().time()

    model = Flaky(until=40.0, refuses=refuses)
    assert 40 <= run_virtual(main()) < 80
    assert model.asked.total() <= 8 + 8  # those in flight when it went down, then 1, 2, 4, 8, 16 seconds apart
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "big does not answer (down); waiting for it, and sending nothing until it does",
        "big answers again",
    ]


def test_a_server_that_stays_away_ends_the_run_and_one_poisonous_call_does_not() -> None:
    async def asked(model: object, callers: int) -> list[Completion | BaseException]:
        endpoint = Endpoint("big", [model], Limits(capacity=8, attempts=3, patience=120))  # type: ignore[list-item]
        calls = (endpoint.chat(Call(messages=(), conversation=f"c{n}")) for n in range(callers))
        return await asyncio.gather(*calls, return_exceptions=True)

    ended = run_virtual(asked(Flaky(until=1e9), 4))
    assert any(
        isinstance(end, Fatal) and "has not answered any request for 2 minutes (down)" in str(end) for end in ended
    )
    poisonous = run_virtual(asked(Flaky(until=1e9, refuses=False), 1))
    assert isinstance(poisonous[0], CallFailed) and poisonous[0].reason is R.SERVER_ERROR


def test_whatever_a_server_says_shows_that_it_is_there() -> None:
    class Grumpy(Flaky):
        async def chat(self, call: Call) -> Completion:
            if asyncio.get_running_loop().time() < self.until:
                return await super().chat(call)
            raise CallFailed(R.REFUSED_REQUEST, "no")

    async def main() -> float:
        endpoint = Endpoint("big", [Grumpy(until=10.0)], Limits(capacity=8))
        calls = (endpoint.chat(Call(messages=(), conversation=f"c{n}")) for n in range(50))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, CallFailed) and end.reason is R.REFUSED_REQUEST for end in ends)
        assert not endpoint.breaker.open
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) < 20


def test_a_replica_that_is_down_is_passed_over_for_a_while() -> None:
    async def main() -> None:
        endpoint = Endpoint("e", [down, Flaky(0.0)])
        for n in range(200):
            await endpoint.chat(Call(messages=(), conversation=f"c{n}"))
            await asyncio.sleep(0.1)

    down = Flaky(until=1e9)
    run_virtual(main())
    assert 1 <= down.asked.total() <= 2


async def test_whoever_would_back_off_or_wait_for_a_dead_server_sees_at_once_that_the_run_stops() -> None:
    endpoint = Endpoint("e", [Flaky(until=float("inf"))], Limits(capacity=4))
    tasks = [asyncio.create_task(endpoint.chat(Call(messages=(), conversation=f"c{n}"))) for n in range(8)]
    await asyncio.sleep(0.1)
    assert endpoint.breaker.open
    endpoint.halt()
    done, _ = await asyncio.wait(tasks, timeout=1)
    assert len(done) == 8 and all(isinstance(task.exception(), Stopping) for task in tasks)
    assert endpoint.slots.taken == 0
