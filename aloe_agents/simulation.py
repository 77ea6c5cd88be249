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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aloe_agents.agent import Agent
from aloe_agents.bus import Bus, Observer, Slot, ask_plainly
from aloe_agents.conversation import Conversation
from aloe_agents.errors import ConfigError, FailureReason, Fatal
from aloe_agents.messages import (
    Answered,
    Chosen,
    ConversationEnded,
    ConversationStarted,
    Failed,
    Message,
    Path,
    TurnOpened,
    UserSaid,
)
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.personas import Persona
from aloe_agents.tree import Said, Tree, build_tree
from aloe_agents.wiring import Chains, Expansion, check


@dataclass(slots=True)
class Outcome:
    """What became of the conversations: completed + failed + pending = requested, always."""

    requested: int = 0
    completed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """By reason."""

    @property
    def pending(self) -> int:
        """Neither completed nor failed: a run that is resumed does them."""
        return self.requested - self.completed - sum(self.failed.values())


class Recording(Protocol):
    """What answers calls from memory and keeps what is said: ``recorder.Recorder``, on a journal."""

    async def prepare(self) -> set[str]:
        """Called once, before anything; returns the ids of the conversations that need not be held again."""

    async def begin(self, conversation: Conversation) -> None:
        """A conversation starts."""

    async def record(self, model: ChatModel, call: Call, slot: Slot) -> tuple[Completion, bool]:
        """Answer ``call``, and say whether from memory."""

    def observe(self, message: Message, sender: str) -> None:
        """Keep what is said."""

    def finish(self, conversation: Conversation) -> None:
        """A conversation is over."""


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
        self, personas: Iterable[Persona] | AsyncIterable[Persona], on_tree: Callable[[Tree], None] | None = None
    ) -> Outcome:
        """Hold a conversation with each persona. ``on_tree`` gets every tree as its conversation ends.

        Conversations that the recorder's journal holds as completed are not held again and not passed to
        ``on_tree``. Raises Fatal if one ended the run, after what was in flight had landed.
        """
        done = await self._recorder.prepare() if self._recorder else set()
        self.skipped = len(done)
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
            raise _first(group_error) from None
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
            status, reason = await hold(self._bus, self._recorder, conversation, opening, self._verdict)
            if status == "completed":
                self.outcome.completed += 1
            elif status == "failed":
                self.outcome.failed[reason] = self.outcome.failed.get(reason, 0) + 1
            if on_tree:
                on_tree(tree_of(conversation, status))
        except Fatal as fatal:
            self._bus.stop(fatal)
        finally:
            await self._leave(weight)

    def _verdict(self, conversation: Conversation) -> tuple[str, str]:
        return verdict(conversation, self._chains.leads_to)


async def _each(personas: Iterable[Persona] | AsyncIterable[Persona]) -> AsyncIterator[Persona]:
    if isinstance(personas, AsyncIterable):
        async for persona in personas:
            yield persona
    else:
        for persona in personas:
            yield persona


async def hold(
    bus: Bus,
    recorder: Recording | None,
    conversation: Conversation,
    opening: Message,
    verdict: Callable[[Conversation], tuple[str, str]],
) -> tuple[str, str]:
    """One conversation on the bus from its opening to its end, recorded: status and reason, as ``verdict`` has them.

    Raises Fatal where the journal cannot be written.
    """
    try:
        if recorder:
            await recorder.begin(conversation)
        bus.observe(ConversationStarted(conversation=conversation.id, persona=conversation.persona))
        await bus.run(conversation, opening)
    except BaseExceptionGroup as group:
        raise _first(group) from None
    status, reason = verdict(conversation)
    bus.observe(
        ConversationEnded(
            conversation=conversation.id,
            status=status,
            reason=reason,
            turns=sum(isinstance(message, UserSaid) for message in conversation.said.values()),
            calls=conversation.calls,
            prompt_tokens=conversation.prompt_tokens,
            completion_tokens=conversation.completion_tokens,
        )
    )
    if recorder:
        recorder.finish(conversation)
    return status, reason


def verdict(conversation: Conversation, leads_to: Callable[[str], set[str]]) -> tuple[str, str]:
    """Status and reason of a conversation that is over.

    It is completed when every node that was opened has a chosen answer that exists and went on (but for the last
    turn), and no essential agent failed there, unless at what belongs to an answer that was not chosen: a gap there leaves
    it complete. ``leads_to`` are the answers that what an agent says leads to. A user who says nothing, without a failure,
    has left: that ends the conversation as well.
    """
    if conversation.interrupted:
        return "pending", ""
    essential = sorted(
        (failed for failed in conversation.failures if failed.essential),
        key=lambda failed: (len(failed.path), failed.path, failed.label),
    )
    if not _whole(conversation):
        return "failed", essential[0].reason if essential else str(FailureReason.STUCK)
    matters = [failed for failed in essential if _matters(failed, conversation, leads_to)]
    gaps = {failed.path for failed in conversation.failures if failed not in matters}
    for failed in matters:
        if failed.reason != FailureReason.STUCK or failed.path not in gaps:  # else it waited for what a gap left out
            return "failed", failed.reason
    return "completed", ""


def _matters(failed: Failed, conversation: Conversation, leads_to: Callable[[str], set[str]]) -> bool:
    """Whether a failure is about more than answers that were not chosen."""
    chosen = conversation.said.get(("Chosen", failed.path, ""))
    labels = chosen.labels if isinstance(chosen, Chosen) else ()
    kind, _, label = failed.heard
    about = {label} if kind == Answered.__name__ else leads_to(failed.agent)
    missing = {label for label in about if ("Answered", failed.path, label) not in conversation.said}
    return not about or not (missing or about).isdisjoint(labels)


def _whole(conversation: Conversation) -> bool:
    said = conversation.said
    nodes: list[Path] = [()]
    while nodes:
        path = nodes.pop()
        if ("UserSaid", path, "") not in said:
            if any(failed.essential and failed.path == path for failed in conversation.failures):
                return False
            continue
        chosen = said.get(("Chosen", path, ""))
        if not isinstance(chosen, Chosen):
            return False
        for label in chosen.labels:
            if not isinstance(said.get(("Answered", path, label)), Answered):
                return False
            if len(path) + 1 < conversation.turns:
                after = (*path, label)
                if ("TurnOpened", after, "") not in said:
                    return False
                nodes.append(after)
    return True


def tree_of(conversation: Conversation, status: str) -> Tree:
    """The tree of a conversation that is over."""
    usage = {
        "calls": conversation.calls,
        "prompt_tokens": conversation.prompt_tokens,
        "completion_tokens": conversation.completion_tokens,
    }
    said: Iterator[Message] = (
        message for part in (conversation.said.values(), conversation.failures) for message in part
    )
    return build_tree(conversation.id, conversation.seed, conversation.persona, status, map(Said.of, said), usage)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters of a group: a Fatal if there is one."""
    fatal = group.subgroup(Fatal)
    error: BaseException = fatal or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
