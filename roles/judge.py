"""The judge: hears an answer, scores how well it suits the full persona, 1 to 5 (paper, section 3, B.3)."""

from __future__ import annotations

import re

from aloe_agents import prompts
from aloe_agents.agent import Scene
from aloe_agents.messages import Answered, Scored, UserSaid
from aloe_agents.model import ChatMessage, ChatModel

_SCORE = re.compile(r"\s*([1-5])(?:\.0)?\s*\.?\s*")


class Judge:
    """Sees the full persona, the user's message and one answer. A score that cannot be read is asked for again, and
    is missing (None) after that: never guessed.
    """

    hears = (Answered,)
    says = (Scored,)
    essential = False

    def __init__(self, model: ChatModel, prompt: str = "judge", attempts: int = 3, name: str = "judge") -> None:
        self.model = model
        self.name = name
        self.prompt = prompts.load(prompt, {"profile", "personality", "message", "answer"}, {"system", "user", "again"})
        self.attempts = attempts

    async def respond(self, heard: Answered, scene: Scene) -> Scored:
        fields = {
            "profile": scene.persona.profile,
            "personality": scene.persona.personality,
            "message": (await scene.need(UserSaid)).text,
            "answer": heard.text,
        }
        messages: list[ChatMessage] = [self.prompt.fill("system", **fields), self.prompt.fill("user", **fields)]
        for _ in range(self.attempts):
            verdict = await scene.ask(self.model, messages)
            if (score := parse_score(verdict.text)) is not None:
                return Scored.of(heard, judge=self.name, score=score)
            again = self.prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": verdict.text}, again]
        return Scored.of(heard, judge=self.name, score=None)


def parse_score(text: str) -> int | None:
    """The score that ``text`` is, 1 to 5; None for anything but a bare number."""
    match = _SCORE.fullmatch(text)
    return int(match[1]) if match else None
