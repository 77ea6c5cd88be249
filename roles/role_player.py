"""The role-playing user: hears that a turn is open, says the user's message m_i (paper, section 2.1, B.2.1)."""

from __future__ import annotations

import re

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import Unparsed
from aloe_agents.messages import TurnOpened, UserSaid
from aloe_agents.model import ChatMessage, ChatModel

_STAGE_DIRECTION = re.compile(r"(?<![*\w])\*(?![*\s])[^*\n]*[^*\s]\*(?![*\w])|(?<![*\w])\*[^*\s]\*(?![*\w])")


class RolePlayer:
    """Plays the persona. It sees the dialogue from its own side: its messages are the assistant's."""

    name = "role_player"
    hears = (TurnOpened,)

    def __init__(self, model: ChatModel, prompt: str = "role_player", attempts: int = 3) -> None:
        self.model = model
        self.prompt = prompts.load(prompt, {"profile", "personality"}, {"system", "user"})
        self.attempts = attempts

    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid:
        """Speaks as the persona, again if only stage directions came."""
        persona = scene.persona
        messages: list[ChatMessage] = [
            self.prompt.fill("system", profile=persona.profile, personality=persona.personality),
            self.prompt.fill("user", profile=persona.profile, personality=persona.personality),
        ]
        for past in scene.history:
            messages.append({"role": "assistant", "content": past.user})
            messages.append({"role": "user", "content": past.answer})
        for _ in range(self.attempts):
            said = await scene.ask(self.model, messages)
            if text := without_stage_directions(said.text):
                return UserSaid(text=text)
        raise Unparsed(f"the user said nothing but stage directions, {self.attempts} times: {said.text!r}")


def without_stage_directions(text: str) -> str:
    """``text`` without what stands between single asterisks; ``**bold**`` and ``2 * 3 * 4`` are left alone."""
    if "*" not in text:
        return text.strip()
    kept = _STAGE_DIRECTION.sub(" ", text)
    return "\n".join(re.sub(r" {2,}", " ", line).strip() for line in kept.strip().split("\n"))
