"""One proposal on the bus: a generator hears an opening, says ``Proposed``, and what it used is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Bus, Observer, ask_plainly
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.outcome import hold_conversation
from aloe_agents.errors import FailureReason, Fatal
from aloe_agents.messages import Proposed, RoundOpened, SketchGiven
from aloe_agents.personas import Persona
from aloe_agents.runs.recorder import Recorder


@dataclass(slots=True)
class Spent:
    """Calls, and tokens as the server counted them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, price: tuple[float, float]) -> float:
        """In money, at this price per million prompt and completion tokens."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6

    def add(self, other: Spent) -> None:
        """Count ``other`` as spent, too."""
        self.calls += other.calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


@dataclass(frozen=True, slots=True)
class Proposal:
    """What came of one opening."""

    status: str
    """``completed``, ``failed`` or ``pending``."""
    reason: str
    """Why it failed."""
    items: tuple[str, ...]
    spent: Spent


def bus_for(generator: Agent, recorder: Recorder | None, observers: Sequence[Observer]) -> Bus:
    """A bus on which ``generator`` is alone."""
    watching = [*([recorder.observe] if recorder else []), *observers]
    return Bus([generator], watching, record=recorder.record if recorder else ask_plainly)


async def propose(bus: Bus, recorder: Recorder | None, opening: RoundOpened | SketchGiven, seed: int = 0) -> Proposal:
    """Hold the conversation that ``opening`` begins. A Fatal stops the bus, which keeps it as its cause."""
    id = opening.conversation
    nobody = Persona(id=id, profile="", personality="")
    conversation = Conversation(id=id, seed=seed, persona=nobody, turns=1)
    try:
        status, reason = await hold_conversation(bus, recorder, conversation, opening, _verdict)
    except Fatal as fatal:
        bus.stop(fatal)
        status, reason = "pending", ""
    proposed = conversation.said.get(("Proposed", (), ""))
    items = proposed.items if isinstance(proposed, Proposed) else ()
    spent = Spent(conversation.calls, conversation.prompt_tokens, conversation.completion_tokens)
    return Proposal(status, reason, items, spent)


def _verdict(conversation: Conversation) -> tuple[str, str]:
    if conversation.interrupted:
        return "pending", ""
    if ("Proposed", (), "") in conversation.said:
        return "completed", ""
    return "failed", conversation.failures[0].reason if conversation.failures else str(FailureReason.STUCK)
