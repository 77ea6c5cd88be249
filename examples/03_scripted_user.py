"""A user that replays a fixed list of messages and needs no model. Run: python examples/03_scripted_user.py"""

import asyncio
from collections.abc import Sequence

from aloe_agents import Endpoint, Persona, Scene, ScriptedModel, TurnOpened, UserSaid, simulate
from aloe_agents.roles import Induction, Preferred, Rejected

MESSAGES = ("I have a goat.", "She ate my timetable again.", "Never mind, I like the night shift.")


class Replay:
    name = "role_player"
    hears = (TurnOpened,)

    def __init__(self, messages: Sequence[str] = MESSAGES) -> None:
        self.messages = messages

    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid | None:
        if heard.turn > len(self.messages):
            return None  # the user leaves, and the conversation ends as completed
        return UserSaid(text=self.messages[heard.turn - 1])


async def main() -> list[str]:
    user = Persona(id="ada", profile="She has a goat. She works nights.", personality="She is witty.")
    async with Endpoint("scripted", [ScriptedModel()]) as model:
        run = await simulate([Replay(), Induction(model), Preferred(model), Rejected(model)], [user], turns=10)
    turns = [turn for tree in run.trees() for turn in tree.turns]
    for turn in turns:
        print(f"user: {turn.user}\n  {turn.chosen[0]}: {turn.answers[turn.chosen[0]].text}")
    return [turn.user for turn in turns]


if __name__ == "__main__":
    asyncio.run(main())
