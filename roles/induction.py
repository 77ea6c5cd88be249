"""Induction: hears the user, says what the user's messages have revealed of the persona (section 2.1, B.2.2)."""

from __future__ import annotations

import re

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import Unparsed
from aloe_agents.messages import PersonaRevealed, UserSaid
from aloe_agents.model import ChatMessage, ChatModel

_NONE = re.compile(r"[\W_]*none[\W_]*", re.IGNORECASE)
_NONE_BUT = re.compile(r"none[ \t]*[^\w \t].*\w", re.IGNORECASE | re.DOTALL)
_WORDS, _AFTERWORD = re.compile(r"\w"), re.compile(r"\n\s*\n")


class Induction:
    """Compares the conversation so far with the full persona; what it says is all that Preferred learns of it."""

    name = "induction"
    hears = (UserSaid,)

    def __init__(self, model: ChatModel, prompt: str = "induction", attempts: int = 3) -> None:
        self.model = model
        self.prompt = prompts.load(prompt, {"profile", "personality", "conversation"}, {"system", "user", "again"})
        self.attempts = attempts

    async def respond(self, heard: UserSaid, scene: Scene) -> PersonaRevealed:
        """Asks what the dialogue has revealed, again if the answer cannot be read."""
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
                return PersonaRevealed(profile=parts[0], personality=parts[1])
            again = self.prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": answer.text}, again]
        raise Unparsed(f"no 'Profile:' and 'Personalities:' in {self.attempts} answers; the last was {answer.text!r}")


def parse_revealed(text: str) -> tuple[str | None, str | None] | None:
    """The two parts of an induction, None for a part that says None; None for text in any other form.

    A part is one paragraph. What explains a None or follows a part could tell what has not been revealed.
    """
    if text.count("Profile:") != 1 or text.count("Personalities:") != 1:
        return None
    head, _, personality = text.partition("Personalities:")
    before, _, profile = head.partition("Profile:")
    if before.strip() or not profile.rstrip(" \t").endswith("\n"):
        return None
    parts = profile.strip(), personality.strip()
    if any(not _WORDS.search(part) or _AFTERWORD.search(part) or _NONE_BUT.match(part) for part in parts):
        return None
    return _unless_none(parts[0]), _unless_none(parts[1])


def _unless_none(part: str) -> str | None:
    return None if _NONE.fullmatch(part) else part
