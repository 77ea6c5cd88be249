"""A user who changes her mind at turn 5. Run: python examples/04_changing_persona.py"""

import asyncio
from dataclasses import replace

from aloe_agents import ChatModel, Endpoint, Persona, RandomPath, Scene, ScriptedModel, Simulation, TurnOpened, UserSaid
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer

CHANGED = "She is sarcastic. She hides her worries behind jokes."


class ChangingPlayer:
    """Plays with the built-in role player, and from a turn on lends it another personality."""

    name = "role_player"
    hears = (TurnOpened,)
    says = (UserSaid,)

    def __init__(self, model: ChatModel, turn: int = 5) -> None:
        self.player = RolePlayer(model)
        self.turn = turn

    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid:
        if heard.turn >= self.turn:
            scene = scene.seen_as(replace(scene.persona, personality=CHANGED))
        return await self.player.respond(heard, scene)


async def main() -> list[str]:
    model = Endpoint("scripted", [ScriptedModel()])
    cast = (ChangingPlayer(model), Induction(model), Preferred(model), Rejected(model))
    user = Persona(id="ada", profile="She is a nurse. She has a goat. She sings.", personality="She is optimistic.")
    tree = await anext(Simulation(cast, RandomPath(), turns=8).trees([user]))
    print("\n".join(f"{turn.turn}: {turn.user}" for turn in tree.turns))
    return [turn.user for turn in tree.turns]


if __name__ == "__main__":
    asyncio.run(main())
