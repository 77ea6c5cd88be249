"""Induction: hears the user, says what the user's messages have revealed of the persona (section 2.1, B.2.2)."""

from __future__ import annotations

import re

from aloe_agents import prompts
from aloe_agents.agent import Scene
from aloe_agents.errors import Unparsed
from aloe_agents.messages import PersonaRevealed, UserSaid
from aloe_agents.model import ChatMessage, ChatModel

_PARTS = re.compile(r"\s*Profile:(.*)\n\s*Personalities:(.*)", re.DOTALL)


class Induction:
    """Compares the conversation so far with the full persona; what it says is all that Preferred learns of it."""

    name = "induction"
    hears = (UserSaid,)

    def __init__(self, model: ChatModel, prompt: str = "induction", attempts: int = 3) -> None:
        self.model = model
        self.prompt = prompts.load(prompt, {"profile", "personality", "conversation"}, {"system", "user", "again"})
        self.attempts = attempts

    async def respond(self, heard: UserSaid, scene: Scene) -> PersonaRevealed:
        lines = [line for past in scene.history for line in (f"A: {past.user}", f"B: {past.answer}")]
        fields = {
            "profile": scene.persona.profile,
            "personality": scene.persona.personality,
            "conversation": "\n".join([*lines, f"A: {heard.text}"]),
        }
        messages: list[ChatMessage] = [self.prompt.fill("system", **fields), self.prompt.fill("user", **fields)]
        for _ in range(self.attempts):
            answer = await scene.ask(self.model, messages)
            if (parts := parse_revealed(answer.text)) is not None:
                return PersonaRevealed.after(heard, profile=parts[0], personality=parts[1])
            again = self.prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": answer.text}, again]
        raise Unparsed(f"no 'Profile:' and 'Personalities:' in {self.attempts} answers; the last was {answer.text!r}")


def parse_revealed(text: str) -> tuple[str | None, str | None] | None:
    """The two parts of an induction, None for a part that says None; None for text in any other form."""
    if text.count("Profile:") != 1 or text.count("Personalities:") != 1:
        return None
    if (match := _PARTS.fullmatch(text)) is None:
        return None
    profile, personality = (part.strip() for part in match.groups())
    if not profile or not personality:
        return None
    return _unless_none(profile), _unless_none(personality)


def _unless_none(part: str) -> str | None:
    return None if part.rstrip(".").lower() == "none" else part
