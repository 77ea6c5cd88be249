"""For those who write roles: a clock that costs no time, and a check that a role's results do not depend on timing.

:func:`run_virtual` runs a coroutine on an event loop whose clock jumps to the next timer whenever nothing can run,
so a simulated hour takes milliseconds and claims about critical paths become exact.

:func:`check_replay` runs a cast under many seeded schedules, with ample and with scarce capacity, and names the
first address at which two of them differ: the mark of a role that looks at something that it did not ``need``, or
keeps something between deliveries.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Question
from aloe_agents.engine.conversation import Conversation, describe
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.errors import AloeError
from aloe_agents.messages import Address, Failed, Message, NodePath
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.limits import Slots
from aloe_agents.personas import Persona

T = TypeVar("T")


class NotReplayable(AssertionError, AloeError):
    """A cast said different things under different schedules."""


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` on a virtual clock that starts at 0. It must wait for timers and itself alone: real
    input and output would never come.
    """
    loop = _VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(coroutine)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class TimedModel:
    """``model`` with the time that ``seconds(call)`` says an answer takes; for a virtual clock."""

    def __init__(self, model: ChatModel, seconds: Callable[[Call], float], capacity: int = 10**9) -> None:
        self.name = model.name
        self._model = model
        self._seconds = seconds
        self._slots = Slots(capacity)

    async def chat(self, call: Call) -> Completion:
        await self._slots.take(call.remaining)
        try:
            await asyncio.sleep(self._seconds(call))
            return await self._model.chat(call)
        finally:
            self._slots.give()


class Memo:
    """A recorder in memory: answers what it has met, and counts what it had to ask. It keeps no messages."""

    def __init__(self) -> None:
        self.answers: dict[str, Completion] = {}
        self.asked = 0

    async def prepare(self) -> set[str]:
        return set()

    async def begin(self, conversation: Conversation) -> None:
        pass

    def observe(self, message: Message, sender: str) -> None:
        pass

    def finish(self, conversation: Conversation) -> None:
        pass

    async def record(self, model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
        if (known := self.answers.get(call.key)) is not None:
            return known, True
        self.asked += 1
        completion = self.answers[call.key] = await model.chat(call)
        return completion, False


Transcript = dict[tuple[str, Address], dict[str, object]]


def check_replay(
    cast: Callable[[ChatModel], Sequence[Agent]],
    expansion: Callable[[], Expansion],
    personas: Sequence[Persona],
    model: ChatModel | None = None,
    *,
    turns: int = 4,
    schedules: int = 50,
    seed: int = 0,
) -> int:
    """Run ``cast(model)`` under ``schedules`` schedules, half with ample and half with scarce capacity.

    Every call takes a random time; ``model`` (default: the scripted one) should answer by prompt alone. Returns the
    number of messages that all schedules agreed on. Raises NotReplayable, naming the first address that differs.
    """
    if model is None:
        from aloe_agents.models.scripted.model import ScriptedModel

        model = ScriptedModel()
    reference: Transcript | None = None
    for schedule in range(schedules):
        said = play(
            cast, expansion(), personas, model, turns=turns, seed=seed, schedule=schedule, scarce=schedule % 2 == 1
        )
        if reference is None:
            reference = said
        elif said != reference:
            raise NotReplayable(_difference(reference, said))
    return len(reference or {})


def play(
    cast: Callable[[ChatModel], Sequence[Agent]],
    expansion: Expansion,
    personas: Sequence[Persona],
    model: ChatModel,
    *,
    turns: int,
    seed: int,
    schedule: int,
    scarce: bool,
    memo: Memo | None = None,
) -> Transcript:
    """Everything said by ``cast(model)`` under one seeded schedule, by conversation and address."""
    said: Transcript = {}

    def observe(message: Message, sender: str) -> None:
        if not message.observed_only or isinstance(message, Failed):
            said[message.conversation, message.address] = message.body()

    def seconds(call: Call) -> float:
        digest = hashlib.sha256(f"{schedule} {call.key}".encode()).digest()
        return random.Random(digest).lognormvariate(0.0, 1.0)

    async def main() -> None:
        timed = TimedModel(model, seconds, capacity=2 + schedule % 4 if scarce else 10**9)
        simulation = Simulation(
            cast(timed), expansion, turns=turns, seed=seed, live=len(personas), observers=[observe], recorder=memo
        )
        await simulation.run(personas)

    run_virtual(main())
    return said


def _difference(one: Transcript, other: Transcript) -> str:
    """Where two schedules part first: nearest to the root, then by address."""

    def depth(place: tuple[str, Address]) -> tuple[int, str, NodePath, str, str]:
        conversation, (kind, path, label) = place
        return len(path), conversation, path, kind, label

    for place in sorted({*one, *other}, key=depth):
        if one.get(place) != other.get(place):
            conversation, address = place
            return (
                f"{describe(address)} of conversation {conversation!r} depends on the schedule: once "
                f"{one.get(place, 'not said')!r:.200}, once {other.get(place, 'not said')!r:.200}"
            )
    return "the schedules differ"


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while anything can run, and jumps when nothing can."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now


class _Jumping(selectors.DefaultSelector):
    """A selector that never waits: it moves the loop's clock on by the time that it was to wait."""

    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is left to run and no timer is set: a coroutine waits for what never comes")
            self._loop._now += max(timeout, 0.0)
        return ready
