"""A user whose personality changes at turn 5. Run: python examples/04_changing_persona.py"""

import asyncio
from dataclasses import replace

from aloe_agents import ChatModel, Endpoint, Persona, Scene, ScriptedModel, TurnOpened, UserSaid, simulate
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer

CHANGED = "She is sarcastic. She hides her worries behind jokes."


class ChangingPlayer:
    """Wraps the built-in role player and gives it another personality from a certain turn."""

    name = "role_player"
    hears = (TurnOpened,)

    def __init__(self, model: ChatModel, turn: int = 5) -> None:
        self.player = RolePlayer(model)
        self.turn = turn

    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid:
        if heard.turn >= self.turn:
            scene = scene.seen_as(replace(scene.persona, personality=CHANGED))
        return await self.player.respond(heard, scene)


async def main() -> list[str]:
    user = Persona(id="ada", profile="She is a nurse. She has a goat. She sings.", personality="She is optimistic.")
    async with Endpoint("scripted", [ScriptedModel()]) as model:
        cast = (ChangingPlayer(model), Induction(model), Preferred(model), Rejected(model))
        run = await simulate(cast, [user], turns=8)
    said = [turn.user for tree in run.trees() for turn in tree.turns]
    print("\n".join(f"{number}: {text}" for number, text in enumerate(said, 1)))
    return said


if __name__ == "__main__":
    asyncio.run(main())
