"""The candidate: the model under test. It hears the user and sees nothing but the dialogue (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import CallFailed, ConfigError, FailureReason
from aloe_agents.messages import Answered, Message, UserSaid
from aloe_agents.model import ChatMessage, ChatModel, Completion


@dataclass(frozen=True, kw_only=True)
class HistoryCut(Message):
    """The dialogue did not fit the candidate's context, so its oldest ``turns`` turns were left out."""

    turns: int


class Candidate:
    """Answers as any assistant would. ``prompt`` names a file with a ``## system`` section (default: none).

    ``overflow`` says what to do if the context is full. ``cut`` leaves out the oldest turns, one after another, and says
    so (HistoryCut); ``fail`` lets the case fail. Some chat templates have no system message. If the server refuses a
    request for that reason, the system text goes in front of the first user message.

    Raises ConfigError for a prompt or an ``overflow`` that cannot be used.
    """

    name = "candidate"
    hears = (UserSaid,)
    says = ((Answered, "candidate"), HistoryCut)

    def __init__(self, model: ChatModel, prompt: str | None = None, overflow: Literal["cut", "fail"] = "cut") -> None:
        if overflow not in ("cut", "fail"):
            raise ConfigError(f"a candidate's overflow must be 'cut' or 'fail', not {overflow!r}")
        self.model = model
        self.system = prompts.load(prompt, (), {"system"}).fill("system") if prompt else None
        self.overflow = overflow

    async def respond(self, heard: UserSaid, scene: Scene) -> list[Message]:
        """One answer, with a note if turns had to be left out."""
        messages: list[ChatMessage] = [*scene.dialogue, {"role": "user", "content": heard.text}]
        cut = 0
        while True:
            try:
                answer = await self._ask(scene, messages)
                break
            except CallFailed as failure:
                if (
                    failure.reason is not FailureReason.CONTEXT_OVERFLOW
                    or self.overflow == "fail"
                    or len(messages) == 1
                ):
                    raise
                messages, cut = messages[2:], cut + 1
        text, reason = answer.text.strip(), answer.finish_reason
        said: list[Message] = [HistoryCut(turns=cut)] if cut else []
        return [*said, Answered(label="candidate", text=text, finish_reason=reason)]

    async def _ask(self, scene: Scene, messages: list[ChatMessage]) -> Completion:
        if self.system is None:
            return await scene.ask(self.model, messages)
        try:
            return await scene.ask(self.model, [self.system, *messages])
        except CallFailed as failure:
            if failure.reason is not FailureReason.REFUSED_REQUEST or "role" not in str(failure).lower():
                raise
        first = ChatMessage(role="user", content=f"{self.system['content']}\n\n{messages[0]['content']}")
        return await scene.ask(self.model, [first, *messages[1:]])
