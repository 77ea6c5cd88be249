"""The rejected responder: hears the user, answers knowing nothing but the dialogue (section 2.1)."""

from __future__ import annotations

from aloe_agents.engine.agent import Scene
from aloe_agents.messages import Answered, UserSaid
from aloe_agents.model import ChatModel


class Rejected:
    """Sees the dialogue alone, without a prompt of its own: what any assistant would see."""

    name = "rejected"
    hears = (UserSaid,)
    says = ((Answered, "rejected"),)

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
        """Answers the dialogue as it stands."""
        answer = await scene.ask(self.model, [*scene.dialogue, {"role": "user", "content": heard.text}])
        return Answered(label="rejected", text=answer.text.strip(), finish_reason=answer.finish_reason)
