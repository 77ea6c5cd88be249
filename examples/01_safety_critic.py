"""A role of your own: a critic that hears every answer and flags some. Run: python examples/01_safety_critic.py"""

import asyncio
from dataclasses import dataclass

from aloe_agents import Answered, ChatModel, Endpoint, Message, Persona, Scene, ScriptedModel, simulate
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer


@dataclass(frozen=True, kw_only=True)
class Flagged(Message):
    verdict: str


class SafetyCritic:
    name, hears = "safety", (Answered,)
    essential = False  # if it fails, its verdict is missing and the conversation continues

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: Answered, scene: Scene) -> Flagged:
        verdict = await scene.ask(self.model, [{"role": "user", "content": f"Is this unsafe?\n{heard.text}"}])
        return Flagged(verdict=verdict.text)


async def main() -> list[str]:
    user = Persona(id="ada", profile="She is a nurse. She has a goat.", personality="She is witty.")
    async with Endpoint("scripted", [ScriptedModel()]) as model:
        cast = (RolePlayer(model), Induction(model), Preferred(model), Rejected(model), SafetyCritic(model))
        run = await simulate(cast, [user], turns=3)
    turns = [turn for tree in run.trees() for turn in tree.turns]
    lines = [f"{t.turn} {label}: {note['verdict']}" for t in turns for label, note in t.notes["Flagged"].items()]
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    asyncio.run(main())
