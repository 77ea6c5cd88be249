"""The rejected responder: hears the user, answers knowing nothing but the dialogue (section 2.1)."""

from __future__ import annotations

from aloe_agents.engine.agent import Scene
from aloe_agents.messages import Answered, UserSaid
from aloe_agents.model import ChatMessage, ChatModel


class Rejected:
    """Sees the dialogue alone, without a prompt of its own: what any assistant would see."""

    name = "rejected"
    hears = (UserSaid,)
    says = ((Answered, "rejected"),)

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
        answer = await scene.ask(self.model, [*dialogue(scene), {"role": "user", "content": heard.text}])
        return Answered.after(heard, label="rejected", text=answer.text.strip(), finish_reason=answer.finish_reason)


def dialogue(scene: Scene) -> list[ChatMessage]:
    """The turns so far as an answering model sees them: the user's messages are the user's."""
    messages: list[ChatMessage] = []
    for past in scene.history:
        messages.append({"role": "user", "content": past.user})
        messages.append({"role": "assistant", "content": past.answer})
    return messages
