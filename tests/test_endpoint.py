"""What an endpoint does between attempts, to the second; and what it refuses to be made of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.http import HttpModel
from aloe_agents.models.limits import REST, Breaker, Pause, Refusals, Replicas
from aloe_agents.testing import run_virtual

R = FailureReason


class Failing:
    """A model that fails ``times`` times, and notes when it was asked."""

    def __init__(self, reason: FailureReason = R.BAD_RESPONSE, times: float = 1e9, name: str = "m") -> None:
        self.name, self.reason, self.times = name, reason, times
        self.asked: list[float] = []

    async def chat(self, call: Call) -> Completion:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) <= self.times:
            raise Transient(self.reason, "no", uncertain=True)
        return Completion(text="hi")


def waits(attempts: int = 7, reason: FailureReason = R.BAD_RESPONSE) -> list[float]:
    """The seconds between the attempts of one call that never succeeds."""
    model = Failing(reason)

    async def main() -> None:
        with pytest.raises(CallFailed):
            await Endpoint("e", [model], Limits(attempts=attempts)).chat(Call(messages=()))

    run_virtual(main())
    assert len(model.asked) == attempts
    return [later - earlier for earlier, later in zip(model.asked, model.asked[1:], strict=False)]


@pytest.mark.parametrize("reason", [R.BAD_RESPONSE, R.EMPTY, R.SERVER_ERROR, R.UNREACHABLE, R.DEADLINE])
def test_between_attempts_it_waits_longer_each_time_and_never_the_same(reason: FailureReason) -> None:
    tried = [waits(reason=reason) for _ in range(40)]
    for nth, column in enumerate(zip(*tried, strict=True), 1):
        longest = min(30.0, 0.5 * 2**nth)
        assert min(column) >= 0.1 and max(column) <= longest + 1e-9, f"wait {nth} lies between 0.1 and {longest} s"
        assert len(set(column)) == 40, "jitter: no two clients return together"
        assert 0.3 * longest < sum(column) / 40 < 0.75 * longest, "it grows: about half of the longest on average"


@pytest.mark.parametrize("how", ["late", "refused", "error"])
def test_a_replica_that_gave_no_answer_rests_for_half_a_minute_and_is_asked_again_then(how: str) -> None:
    class Down:
        name = "m"
        asked: list[float]

        async def chat(self, call: Call) -> Completion:
            self.asked.append(asyncio.get_running_loop().time())
            if how == "late":
                await asyncio.sleep(100)
            raise Transient(R.UNREACHABLE if how == "refused" else R.SERVER_ERROR, "down")

    async def main() -> None:
        endpoint = Endpoint("e", [down, Failing(times=0)], Limits(timeout=1))
        while asyncio.get_running_loop().time() < 100:
            await endpoint.chat(Call(messages=(), conversation=home))
            await asyncio.sleep(0.5)

    home = next(name for name in map(str, range(9)) if Replicas(2).place(name, 0.0) == 0)
    down = Down()
    down.asked = []
    run_virtual(main())
    assert len(down.asked) in (3, 4), "at 0, and once after each rest"
    assert all(REST <= later - earlier < REST + 4 for earlier, later in zip(down.asked, down.asked[1:], strict=False))


def test_replicas_are_chosen_by_the_conversation_and_pass_over_those_at_rest() -> None:
    replicas = Replicas(3)
    assert [replicas.place(f"c{n}", 0.0) for n in range(8)] == [2, 0, 2, 1, 2, 1, 0, 1]
    home = replicas.place("c0", 0.0)
    replicas.rest(home, 0.0)
    assert replicas.place("c0", REST - 0.1) == (home + 1) % 3 and replicas.place("c0", REST) == home
    for at, place in enumerate(range(3)):
        replicas.rest(place, float(at))
    assert replicas.place("c0", 5.0) == 0, "all rest: the one whose rest ends first"


def test_an_episode_of_429_steps_down_once_a_pause_and_pauses_for_longer_each_time() -> None:
    pause = Pause()
    refusals, lengths, now = Refusals("e", pause, 900), [], 0.0
    for _ in range(8):
        assert refusals.refused(None, now) and not refusals.refused(None, now), "one step a pause"
        lengths.append(pause.until - now)
        now = pause.until
    for nth, length in enumerate(lengths):
        assert min(60.0, 2.0**nth) <= length <= 1.2 * min(60.0, 2.0**nth)
    refusals.answered()
    refusals.refused(None, now + 100)
    assert 1.0 <= pause.until - now - 100 <= 1.2, "after an answer it begins anew"


def test_the_breaker_opens_at_the_third_failure_and_closes_at_any_answer() -> None:
    pause = Pause()
    breaker = Breaker("e", pause, 900)
    for _ in range(5):
        breaker.failed("one caller", "busy", 0.0, refused=False)
    assert not breaker.open and pause.until == 0.0, "one caller alone may have asked what breaks the server"
    for caller in ("b", "c"):
        breaker.failed(caller, "busy", 0.0, refused=False)
    assert breaker.open and breaker.why == "busy" and 1.0 <= pause.until <= 1.2
    breaker.answered()
    assert not breaker.open and breaker.since is None
    for nth in range(3):
        assert not breaker.open
        breaker.failed("a", "refused", 10.0, refused=True, wished=5.0 * nth)
    assert breaker.open and 20.0 <= pause.until <= 22.0, "for as long as the server asks, where that is longer"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"capacity": 0}, "capacity must be a whole number, at least 1, not 0"),
        ({"capacity": -1}, "capacity must be a whole number, at least 1, not -1"),
        ({"capacity": 2.5}, "capacity must be a whole number, at least 1, not 2.5"),
        ({"capacity": True}, "capacity must be a whole number, at least 1, not True"),
        ({"attempts": 0}, "attempts must be a whole number, at least 1, not 0"),
        ({"attempts": None}, "attempts must be a whole number, at least 1, not None"),
        ({"timeout": 0}, "timeout must be above 0, not 0"),
        ({"timeout": None}, "timeout must be above 0, not None"),
        ({"deadline": -1.0}, "deadline must be above 0, not -1.0"),
        ({"patience": float("nan")}, "patience must be above 0, not nan"),
        ({"requests_per_minute": 0}, "requests_per_minute must be above 0, not 0"),
        ({"tokens_per_minute": "many"}, "tokens_per_minute must be above 0, not 'many'"),
    ],
)
def test_limits_that_cannot_be_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Limits(**fields)
    assert str(refused.value) == words


def test_an_endpoint_of_no_model_or_of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="endpoint 'big' has no replica"):
        Endpoint("big", [])
    with pytest.raises(ConfigError, match="the replicas of endpoint 'big' must be one model, not 'a' and 'b'"):
        Endpoint("big", [Failing(name="a"), Failing(name="b")])


async def test_endpoints_and_models_close_as_context_managers() -> None:
    async with HttpModel("http://127.0.0.1:9/v1", "m") as model, Endpoint("e", [model]) as endpoint:
        assert endpoint.name == "m"
        with pytest.raises(Transient):
            await model.chat(Call(messages=()))
        session = model._session
        assert session is not None and not session.closed
    assert session.closed
