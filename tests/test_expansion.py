"""How many leaves an expansion keeps open, and how many conversations are therefore held at once."""

from __future__ import annotations

import pytest

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import Beam, Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.messages import ConversationEnded, ConversationStarted, Message
from aloe_agents.roles import Judge
from tests.casts import Digest, paper_cast, people


@pytest.mark.parametrize(
    ("expansion", "leaves"),
    [
        (RandomPath(), {1: 1, 2: 1, 10: 1}),
        (Full(3), {1: 1, 2: 2, 3: 4, 4: 8, 10: 8}),
        (Full(2, ("a", "b", "c")), {1: 1, 2: 3, 3: 9, 10: 9}),
        (Beam(5), {1: 1, 2: 5, 10: 5}),
        (Beam(1), {1: 1, 2: 1, 10: 1}),
    ],
)
def test_the_leaves_that_are_open_at_once(expansion: Expansion, leaves: dict[int, int]) -> None:
    assert {turns: expansion.leaves(turns) for turns in leaves} == leaves


class Held:
    """Counts the conversations that are under way."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __call__(self, message: Message, sender: str) -> None:
        self.now += isinstance(message, ConversationStarted) - isinstance(message, ConversationEnded)
        self.most = max(self.most, self.now)


@pytest.mark.parametrize(
    ("expansion", "turns", "live", "at_once"),
    [
        (RandomPath(), 4, 9, 9),
        (Beam(3), 4, 9, 3),
        (Beam(3), 4, 8, 2),
        (Beam(3), 1, 9, 9),
        (Beam(3), 4, 2, 1),  # one is held however many leaves it opens
        (Full(2), 4, 9, 2),
        (Full(2), 1, 9, 9),
    ],
)
async def test_as_many_conversations_are_held_as_their_leaves_leave_room_for(
    expansion: Expansion, turns: int, live: int, at_once: int
) -> None:
    held = Held()
    cast: list[Agent] = [*paper_cast(Digest()), Judge(Digest())]
    outcome = await Simulation(cast, expansion, turns=turns, live=live, observers=[held]).run(people(20))
    assert outcome.completed == 20 and held.now == 0
    assert held.most == at_once
