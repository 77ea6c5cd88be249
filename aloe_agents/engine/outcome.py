"""One conversation from its opening to its verdict, and what becomes of it.

1. :func:`hold_conversation` runs one conversation on the bus, recorded.
2. :func:`verdict_on` says what it came to: completed (everything on the chosen paths was said), failed (with the reason of
   the failure that cut it short), or pending (the run was stopped).
3. :func:`tree_of` makes its tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from aloe_agents.engine.bus import Bus, Question
from aloe_agents.engine.conversation import Conversation
from aloe_agents.errors import FailureReason, Fatal
from aloe_agents.messages import (
    Answered,
    Chosen,
    ConversationEnded,
    ConversationStarted,
    Failed,
    Message,
    NodePath,
    UserSaid,
)
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.tree import Entry, Tree, build_tree


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

    async def record(self, model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
        """Answer ``call``, and say whether from memory."""

    def observe(self, message: Message, sender: str) -> None:
        """Keep what is said."""

    def finish(self, conversation: Conversation) -> None:
        """A conversation is over."""


async def hold_conversation(
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
        raise first_error(group) from None
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


def verdict_on(conversation: Conversation, leads_to: Callable[[str], set[str]]) -> tuple[str, str]:
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
    nodes: list[NodePath] = [()]
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


def tree_of(conversation: Conversation, status: str, reason: str = "") -> Tree:
    """The tree of a conversation that is over."""
    usage = {
        "calls": conversation.calls,
        "prompt_tokens": conversation.prompt_tokens,
        "completion_tokens": conversation.completion_tokens,
    }
    said: Iterator[Message] = (
        message for part in (conversation.said.values(), conversation.failures) for message in part
    )
    return build_tree(
        conversation.id, conversation.seed, conversation.persona, status, map(Entry.of, said), usage, reason
    )


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters of a group: a Fatal if there is one."""
    fatal = group.subgroup(Fatal)
    error: BaseException = fatal or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
