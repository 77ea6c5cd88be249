"""Personas in, conversation trees out.

1. Personas are taken one by one, as places get free: at most ``live`` open leaves at once, counted as an expansion
   says how many leaves it opens. Memory depends on ``live``, not on how many personas there are.
2. Each conversation is one run of the bus. When it is over it is completed (everything on the chosen paths was
   said), failed (with the reason of the failure that cut it short), or pending (the run was stopped).
3. ``stop()`` admits nothing more, asks nothing more, and lets what is in flight land; SIGINT and SIGTERM call it
   (``runners``). A Fatal does the same and is raised in the end.

The cast is passed in; this module knows no role.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Bus, Observer, ask_plainly
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.outcome import Outcome, Recording, first_error, hold_conversation, tree_of, verdict_on
from aloe_agents.engine.urgency import Chains
from aloe_agents.engine.wiring import Expansion, check
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.messages import TurnOpened
from aloe_agents.personas import Persona
from aloe_agents.tree import Tree


class Simulation:
    """One cast, playing with any number of personas at once.

    Raises WiringError when the cast cannot play: before anything is asked.
    """

    def __init__(
        self,
        cast: Sequence[Agent],
        expansion: Expansion,
        *,
        turns: int = 10,
        seed: int = 0,
        live: int = 256,
        recorder: Recording | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if turns < 1:
            raise ConfigError(f"a conversation has at least 1 turn, not {turns}")
        if live < 1:
            raise ConfigError(f"at least 1 conversation is live, not {live}")
        agents = [*cast, expansion]
        check(agents, expansion.labels)
        self.turns, self.seed, self.live = turns, seed, live
        self.outcome = Outcome()
        self.skipped = 0
        """Conversations that the journal held as completed when the run began."""
        self._expansion = expansion
        self._chains = Chains(cast, expansion)
        self._recorder = recorder
        watching = [*([recorder.observe] if recorder else []), *observers]  # what is shown is on its way to the disk
        self._bus = Bus(
            agents,
            watching,
            record=recorder.record if recorder else ask_plainly,
            urgency=self._chains.remaining,
        )
        self._places = asyncio.Condition()
        self._open = 0

    def stop(self) -> None:
        """Admit and ask nothing more. What is in flight lands; the rest is pending."""
        self._bus.stop()

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called, or a Fatal did it."""
        return self._bus.stopped

    async def run(
        self,
        personas: Iterable[Persona] | AsyncIterable[Persona],
        on_tree: Callable[[Tree], None] | None = None,
        on_resumed: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Hold a conversation with each persona. ``on_tree`` gets every tree as its conversation ends.

        Conversations that the recorder's journal holds as completed are not held again and not passed to
        ``on_tree``; ``on_resumed`` is told how many they are before the first one is held. Raises Fatal if one ended the run, after what was in flight had landed.
        """
        done = await self._recorder.prepare() if self._recorder else set()
        self.skipped = len(done)
        if on_resumed:
            on_resumed(self.skipped)
        try:
            async with asyncio.TaskGroup() as group:
                async for persona in _each(personas):
                    self.outcome.requested += 1
                    if persona.id in done:
                        self.outcome.completed += 1
                    elif not self._bus.stopped:
                        weight = min(self._expansion.leaves(self.turns), self.live)
                        await self._enter(weight)
                        if not self._bus.stopped:
                            group.create_task(self._hold(persona, weight, on_tree))
                        else:
                            await self._leave(weight)
        except BaseExceptionGroup as group_error:
            raise first_error(group_error) from None
        if self._bus.cause:
            raise self._bus.cause
        return self.outcome

    async def trees(self, personas: Iterable[Persona] | AsyncIterable[Persona]) -> AsyncIterator[Tree]:
        """The trees of ``personas``, each as soon as its conversation is over. Leaving the loop early stops the run."""
        finished: asyncio.Queue[Tree | None] = asyncio.Queue()
        task = asyncio.create_task(self.run(personas, finished.put_nowait))
        task.add_done_callback(lambda _: finished.put_nowait(None))
        try:
            while (tree := await finished.get()) is not None:
                yield tree
        finally:
            if not task.done():  # the loop was left early
                self.stop()
            await task

    async def _enter(self, weight: int) -> None:
        async with self._places:
            await self._places.wait_for(lambda: self._open + weight <= self.live or self._bus.stopped)
            self._open += weight

    async def _leave(self, weight: int) -> None:
        async with self._places:
            self._open -= weight
            self._places.notify_all()

    async def _hold(self, persona: Persona, weight: int, on_tree: Callable[[Tree], None] | None) -> None:
        conversation = Conversation(id=persona.id, seed=self.seed, persona=persona, turns=self.turns)
        try:
            opening = TurnOpened(conversation=conversation.id)
            status, reason = await hold_conversation(self._bus, self._recorder, conversation, opening, self._verdict)
            if status == "completed":
                self.outcome.completed += 1
            elif status == "failed":
                self.outcome.failed[reason] = self.outcome.failed.get(reason, 0) + 1
            if on_tree:
                on_tree(tree_of(conversation, status, reason))
        except Fatal as fatal:
            self._bus.stop(fatal)
        finally:
            await self._leave(weight)

    def _verdict(self, conversation: Conversation) -> tuple[str, str]:
        return verdict_on(conversation, self._chains.leads_to)


async def _each(personas: Iterable[Persona] | AsyncIterable[Persona]) -> AsyncIterator[Persona]:
    if isinstance(personas, AsyncIterable):
        async for persona in personas:
            yield persona
    else:
        for persona in personas:
            yield persona
