"""A user that replays a fixed list of messages and needs no model. Run: python examples/03_scripted_user.py"""

import asyncio
from collections.abc import Sequence

from aloe_agents import Endpoint, Persona, RandomPath, Scene, ScriptedModel, Simulation, TurnOpened, UserSaid
from aloe_agents.roles import Induction, Preferred, Rejected

MESSAGES = ("I have a goat.", "She ate my timetable again.", "Never mind, I like the night shift.")


class Replay:
    name = "role_player"
    hears = (TurnOpened,)

    def __init__(self, messages: Sequence[str] = MESSAGES) -> None:
        self.messages = messages

    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid | None:
        if heard.turn > len(self.messages):
            return None  # the user has left: the conversation ends here, completed
        return UserSaid(text=self.messages[heard.turn - 1])


async def main() -> list[str]:
    model = Endpoint("scripted", [ScriptedModel()])
    cast = (Replay(), Induction(model), Preferred(model), Rejected(model))
    user = Persona(id="ada", profile="She has a goat. She works nights.", personality="She is witty.")
    tree = await anext(Simulation(cast, RandomPath(), turns=10).trees([user]))
    for turn in tree.turns:
        print(f"user: {turn.user}\n  {turn.chosen[0]}: {turn.answers[turn.chosen[0]].text}")
    return [turn.user for turn in tree.turns]


if __name__ == "__main__":
    asyncio.run(main())
