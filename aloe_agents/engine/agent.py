"""What an agent is, and what it sees.

An agent is any object with a name, the kinds of message that it hears, and one coroutine::

    class Echo:
        name = "echo"
        hears = (UserSaid,)

        async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
            return Answered(label="echo", text=heard.text)

One object serves all conversations at once, so an agent keeps no state between two deliveries. Four attributes are
optional:

- ``essential = False``: its failure marks a node and leaves the conversation whole.
- ``says``: the kinds that it may say, each as a kind or as (kind, label). Without it, the return annotation of
  ``respond`` is read.
- ``needs``: what it asks the scene for, in the same form; a kind alone means the label "".
- ``score_names``: the names under which a judge scores, if not its own.

``says`` and ``needs`` let a cast be checked before the first call is paid.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar, Unpack, cast

import orjson

from aloe_agents.engine.conversation import Conversation, Delivery
from aloe_agents.messages import Message, NodePath
from aloe_agents.model import ChatMessage, ChatModel, Completion, Sampling
from aloe_agents.personas import Exchange, Persona

M = TypeVar("M", bound=Message)

Asking = Callable[["Scene", ChatModel, tuple[ChatMessage, ...], Mapping[str, object]], Awaitable[Completion]]


class Agent(Protocol):
    """A role in a conversation."""

    @property
    def name(self) -> str:
        """Unique in a cast."""

    @property
    def hears(self) -> tuple[type[Message], ...]:
        """The kinds of message that are delivered to it."""

    async def respond(self, heard: Any, scene: Scene) -> Message | Sequence[Message] | None:
        """Answer one heard message with no, one or several messages."""


class Scene:
    """What one agent sees while it answers one message: the causal past of that message, and nothing else."""

    def __init__(self, agent: str, heard: Message, conversation: Conversation, asking: Asking) -> None:
        self.agent = agent
        self.heard = heard
        self.asked: dict[bytes, int] = {}
        self.persona = conversation.persona
        """The full persona. Answering roles must not look at it: to them the user is who has been revealed."""
        self._conversation = conversation
        self._asking = asking
        self._delivery = Delivery()

    def seen_as(self, persona: Persona) -> Scene:
        """This scene with another persona in it, to lend to a role that one wraps. Asking and needing are shared."""
        lent = copy.copy(self)
        lent.persona = persona
        return lent

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._conversation.seed

    @property
    def turns(self) -> int:
        """How many turns the conversation is to have (K)."""
        return self._conversation.turns

    @cached_property
    def history(self) -> tuple[Exchange, ...]:
        """The turns before this one on this path, oldest first (the paper's {m_j, s_j}, j < i)."""
        return self._conversation.history(self.heard.path)

    @property
    def dialogue(self) -> list[ChatMessage]:
        """The history as chat messages, as an assistant sees it: the user's messages have the role ``user``."""
        messages: list[ChatMessage] = []
        for past in self.history:
            messages.append({"role": "user", "content": past.user})
            messages.append({"role": "assistant", "content": past.answer})
        return messages

    @cached_property
    def rng(self) -> random.Random:
        """A generator seeded by run, conversation, agent and heard message: the same draws in every schedule."""
        slot = (self.seed, self.heard.conversation, self.agent, *self.heard.address)
        return random.Random(hashlib.sha256(orjson.dumps(slot)).digest())

    async def need(self, kind: type[M], label: str = "", path: NodePath | None = None) -> M:
        """The message at an address, by default of this node; waited for where it has not been said yet.

        Raises Stuck when nobody is left who could say it.
        """
        address = (kind.__name__, self.heard.path if path is None else path, label)
        return cast(M, await self._conversation.read(address, self._delivery))

    async def ask(self, model: ChatModel, messages: Sequence[ChatMessage], **sampling: Unpack[Sampling]) -> Completion:
        """Ask a model. Always ask through the scene: such calls are limited, retried, journaled and replayed.

        Asking the same thing twice in one delivery takes two samples. ``sampling`` overrides the model's own.
        Raises CallFailed when no usable answer came after all retries, TypeError for a reserved parameter.
        """
        self._delivery.asks += 1
        self._conversation.settle(self._delivery)
        try:
            return await self._asking(self, model, tuple(messages), sampling)
        finally:
            self._delivery.asks -= 1
            self._conversation.settle(self._delivery)
