"""The preferred responder: hears what has been revealed, answers the user in their way (section 2.1, B.2.3)."""

from __future__ import annotations

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.messages import Answered, PersonaRevealed, UserSaid
from aloe_agents.model import ChatModel


class Preferred:
    """Sees the dialogue and the revealed persona; never the full one."""

    name = "preferred"
    hears = (PersonaRevealed,)
    says = ((Answered, "preferred"),)

    def __init__(self, model: ChatModel, prompt: str = "preferred") -> None:
        self.model = model
        self.prompt = prompts.load(prompt, {"message", "revealed"}, {"user"})

    async def respond(self, heard: PersonaRevealed, scene: Scene) -> Answered:
        """Answers with the revealed persona as a hint."""
        message = (await scene.need(UserSaid)).text
        revealed = f"Profile: {heard.profile}\nPersonalities: {heard.personality}"
        asked = self.prompt.fill("user", message=message, revealed=revealed)
        answer = await scene.ask(self.model, [*scene.dialogue, asked])
        return Answered(label="preferred", text=answer.text.strip(), finish_reason=answer.finish_reason)
