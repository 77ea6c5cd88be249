"""A critic that hears every answer and flags some, as a role of one's own. Run: python examples/01_safety_critic.py"""

import asyncio
from dataclasses import dataclass

from aloe_agents import Answered, ChatModel, Endpoint, Message, Persona, RandomPath, Scene, ScriptedModel, Simulation
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer


@dataclass(frozen=True, kw_only=True)
class Flagged(Message):
    verdict: str


class SafetyCritic:
    name = "safety"
    hears = (Answered,)
    essential = False  # its failure marks a node, never a conversation

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: Answered, scene: Scene) -> Flagged:
        verdict = await scene.ask(self.model, [{"role": "user", "content": f"Is this unsafe?\n{heard.text}"}])
        return Flagged(verdict=verdict.text)


async def main() -> list[str]:
    model = Endpoint("scripted", [ScriptedModel()])
    cast = (RolePlayer(model), Induction(model), Preferred(model), Rejected(model), SafetyCritic(model))
    user = Persona(id="ada", profile="She is a nurse. She has a goat.", personality="She is witty.")
    tree = await anext(Simulation(cast, RandomPath(), turns=3).trees([user]))
    lines = [f"{t.turn} {label}: {note['verdict']}" for t in tree.turns for label, note in t.notes["Flagged"].items()]
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    asyncio.run(main())
