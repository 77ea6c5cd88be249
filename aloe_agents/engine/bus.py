"""The bus: who hears what is the whole schedule.

1. Saying a message stores it at its address, shows it to the observers, wakes whoever awaits that address, and
   starts one task for each agent that hears its kind. That task is a delivery.
2. All deliveries of a conversation live in its own TaskGroup. When the group is done, the conversation is:
   the end needs no signal and no count of messages under way.
3. An agent that raises becomes a ``Failed`` of its node. Its neighbours go on; so do the other conversations.
4. Cancellation always passes. ``Fatal`` stops the run: nothing more is asked, what is under way lands.

The bus does not limit anything: models limit calls (``endpoint``), the simulation limits conversations.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.conversation import Conversation, describe
from aloe_agents.errors import Fatal, Stopping, reason_of
from aloe_agents.messages import Address, CallFinished, Failed, Message, Scored
from aloe_agents.model import RESERVED, Call, ChatMessage, ChatModel, Completion
from aloe_agents.text import one_line

KEY_FORMAT = 2
"""Version of the keys' making; part of every key."""

Observer = Callable[[Message, str], None]
"""Sees every message with the name of the agent that said it ("" for the simulation itself)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """Where a question is asked: with what is asked, the identity of a call."""

    conversation: str
    agent: str
    heard: Address
    nth: int
    """Which of several identical questions of one delivery."""


Record = Callable[[ChatModel, Call, Question], Awaitable[tuple[Completion, bool]]]
"""Answers a call and says whether the answer came from the journal."""
Urgency = Callable[[Conversation, str, Message], int]
"""How many calls of the conversation's longest chain start with a call of this agent on this message."""


async def ask_plainly(model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
    """Ask, and record nothing."""
    return await model.chat(call), False


class Bus:
    """Delivers messages to agents, for any number of conversations at once."""

    def __init__(
        self,
        agents: Iterable[Agent],
        observers: Sequence[Observer] = (),
        *,
        record: Record = ask_plainly,
        urgency: Urgency = lambda conversation, agent, heard: 1,
    ) -> None:
        self._hearers: dict[type[Message], list[Agent]] = {}
        for agent in agents:
            for kind in agent.hears:
                self._hearers.setdefault(kind, []).append(agent)
        self._observers = list(observers)
        self._record = record
        self._urgency = urgency
        self._models: dict[int, ChatModel] = {}
        self.stopped = False
        self.cause: Fatal | None = None

    async def run(self, conversation: Conversation, opening: Message) -> None:
        """Say ``opening`` and return when all that follows from it is done."""
        async with asyncio.TaskGroup() as group:
            self._say(group, conversation, opening.at(opening), "")

    def stop(self, cause: Fatal | None = None) -> None:
        """Ask nothing more. What is in flight lands and is heard; ``cause`` is kept, the first one."""
        self.stopped = True
        self.cause = self.cause or cause
        for model in self._models.values():
            if halt := getattr(model, "halt", None):
                halt()

    def observe(self, message: Message, sender: str = "") -> None:
        """Show ``message`` to the observers, in order, before it has any consequence.

        An observer that raises is dismissed, with a warning, unless it raises Fatal: a broken picture must not
        cost the run, a journal that cannot write must.
        """
        for observer in tuple(self._observers):
            try:
                observer(message, sender)
            except Fatal:
                raise
            except Exception:
                self._observers.remove(observer)
                log.warning("an observer failed and sees no more of this run", exc_info=True)

    def _say(self, group: asyncio.TaskGroup, conversation: Conversation, message: Message, sender: str) -> None:
        conversation.assign(message)
        self.observe(message, sender)
        conversation.wake(message.address)
        for agent in self._hearers.get(type(message), ()):
            scene = Scene(agent.name, message, conversation, self._ask)
            conversation.begin(scene._delivery)
            group.create_task(self._deliver(group, conversation, agent, scene))

    async def _deliver(self, group: asyncio.TaskGroup, conversation: Conversation, agent: Agent, scene: Scene) -> None:
        try:
            said = await agent.respond(scene.heard, scene)
            for message in () if said is None else (said,) if isinstance(said, Message) else said:
                self._say(group, conversation, _checked(message, scene.heard, conversation, agent), agent.name)
        except Stopping:
            conversation.interrupted = True
        except Fatal as cause:
            conversation.interrupted = True
            self.stop(cause)
        except Exception as cause:
            kind = (agent.name, str(reason_of(cause)), type(cause).__name__)
            log.debug(
                "%s failed on %s", agent.name, describe(scene.heard.address), exc_info=True, extra={"failure": kind}
            )
            self._fail(conversation, agent, scene.heard, cause)
        await conversation.land(scene._delivery)
        conversation.end(scene._delivery)

    def _fail(self, conversation: Conversation, agent: Agent, heard: Message, cause: Exception) -> None:
        text = str(cause) if reason_of(cause) != "role-error" else f"{type(cause).__name__}: {cause}"
        failed = Failed(
            conversation=heard.conversation,
            path=heard.path,
            label=f"{agent.name}<{type(heard).__name__}{f' {heard.label}' if heard.label else ''}",
            agent=agent.name,
            heard=heard.address,
            reason=str(reason_of(cause)),
            error=one_line(text, 500),
            essential=getattr(agent, "essential", True),
        )
        conversation.failures.append(failed)
        try:
            self.observe(failed, agent.name)
        except Fatal as fatal:
            self.stop(fatal)

    async def _ask(
        self, scene: Scene, model: ChatModel, messages: tuple[ChatMessage, ...], sampling: Mapping[str, object]
    ) -> Completion:
        if self.stopped:
            raise Stopping("the run is stopping")
        self._models[id(model)] = model
        conversation, heard = scene._conversation, scene.heard
        merged: dict[str, object] = {**getattr(model, "sampling", {}), **sampling}
        if taken := [name for name in RESERVED if name in merged]:
            raise TypeError(f"sampling cannot hold {taken[0]!r}: the framework sets it itself")
        digest = hashlib.sha256(orjson.dumps([model.name, messages, merged], option=orjson.OPT_SORT_KEYS)).digest()
        nth = scene.asked[digest] = scene.asked.get(digest, -1) + 1
        slot = Question(conversation.id, scene.agent, heard.address, nth)
        call = Call(
            messages=messages,
            sampling=merged,
            key=call_key(slot, digest),
            conversation=conversation.id,
            remaining=self._urgency(conversation, scene.agent, heard),
            stopping=self._is_stopped,
        )
        completion, replayed = await self._record(model, call, slot)
        conversation.calls += 1
        conversation.prompt_tokens += completion.prompt_tokens
        conversation.completion_tokens += completion.completion_tokens
        self.observe(
            CallFinished(
                conversation=conversation.id,
                path=heard.path,
                agent=scene.agent,
                model=model.name,
                replayed=replayed,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                cached_tokens=completion.cached_tokens,
            ),
            scene.agent,
        )
        return completion

    def _is_stopped(self) -> bool:
        return self.stopped


def call_key(slot: Question, digest: bytes) -> str:
    """The journal's key of a call: 128 bits of the sha-256 over format, slot and the digest of what is asked, in hex.

    The slot is part of it, so equal prompts in two places are two calls; what is asked is part of it, so a changed
    prompt never meets an old answer. Nothing in it depends on when or in which order things happen.
    """
    kind, path, label = slot.heard
    where = orjson.dumps([KEY_FORMAT, slot.conversation, slot.agent, kind, path, label, slot.nth])
    return hashlib.sha256(len(where).to_bytes(8, "big") + where + digest).hexdigest()[:32]


def _checked(said: object, heard: Message, conversation: Conversation, agent: Agent) -> Message:
    """What an agent said, where it stands. Raises TypeError or ValueError for what cannot be said here."""
    if not isinstance(said, Message):
        raise TypeError(f"agent {agent.name!r} returned {type(said).__name__}, not a Message")
    message = said.at(heard)
    kind = type(message).__name__
    if message.conversation != conversation.id or message.observed_only:
        raise ValueError(f"agent {agent.name!r} may not say {kind} of {message.conversation!r} here")
    if isinstance(message, Scored):
        answer, _, judge = message.label.partition("/")
        if not judge or ("Answered", message.path, answer) not in conversation.said:
            raise ValueError(
                f"agent {agent.name!r} scored {message.label!r}, but a score's label is ANSWER/JUDGE and nobody "
                f"answered under {answer!r}"
            )
    try:  # now, while it is the role's own failure; the journal and the tree hold JSON
        orjson.dumps([message.path, message.label, message.body()], default=str)
    except TypeError as error:
        raise TypeError(f"agent {agent.name!r} said {kind}, which cannot be written as JSON: {error}") from None
    return message
