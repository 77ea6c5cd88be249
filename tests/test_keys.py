"""Same inputs, same run, from version to version: what is drawn and what a call is kept under, value for value.

A journal of last year is read by its keys, and a seed gives last year's coins. Whoever changes a value here has
decided that older runs cannot be resumed, and raises KEY_FORMAT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from aloe_agents.engine.agent import Scene
from aloe_agents.engine.bus import Bus, Question, call_key
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.expansion import Full, RandomPath, coin
from aloe_agents.messages import Address, Answered, Message, NodePath, UserSaid
from aloe_agents.model import Call, Completion
from aloe_agents.personas import Persona

NODE: Address = ("UserSaid", ("preferred", "rejected"), "")


@pytest.mark.parametrize(
    ("question", "key"),
    [
        (Question("p00001", "preferred", NODE, 0), "2d6aa9e59cbe2f9cb90ca60b049b306c"),
        (Question("p00001", "preferred", NODE, 1), "900212cd78356b470a12cd4899c076f4"),
        (Question("Zoë's", "judge", ("Answered", (), "preferred"), 0), "ea8549d8868f376a1e80758935aaddd7"),
    ],
)
def test_the_key_of_a_call(question: Question, key: str) -> None:
    assert call_key(question, hashlib.sha256(b"what is asked").digest()) == key


@pytest.mark.parametrize(
    ("seed", "conversation", "path", "drawn"),
    [
        (0, "p00000", (), (0, 0, 2)),
        (0, "p00000", ("preferred",), (0, 2, 2)),
        (0, "p00000", ("rejected",), (0, 2, 4)),
        (7, "p00000", (), (0, 0, 3)),
        (7, "p00001", ("preferred", "rejected"), (1, 2, 0)),
        (-1, "Zoë", (), (1, 0, 2)),
        (2**63 - 1, "", ("rejected",) * 9, (0, 2, 4)),
    ],
)
def test_the_coin(seed: int, conversation: str, path: NodePath, drawn: Sequence[int]) -> None:
    assert tuple(coin(seed, conversation, path, sides) for sides in (2, 3, 5)) == drawn


def test_the_way_that_a_seed_takes() -> None:
    def way(expansion: RandomPath, seed: int, conversation: str) -> str:
        path: NodePath = ()
        while len(path) < 12:
            path = (*path, expansion.foreseen(seed, conversation, path)[-1])
        return "".join(label[0] for label in path)

    assert way(RandomPath(), 7, "p00000") == "pprpprrprppr"
    assert way(RandomPath(), 8, "p00000") == "rpprrpprrprr"
    assert way(RandomPath(("a", "b", "c")), 7, "p00000") == "abbccbcbccaa"
    assert way(Full(2), 7, "p00000") == "rrrpprrprppp"


class Asking:
    """Asks twice the same and once something else, and draws."""

    name, hears = "asking", (UserSaid,)

    def __init__(self, model: Keys) -> None:
        self.model = model
        self.drawn: list[float] = []

    async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
        for text in ("Who?", "Who?", "Wörter"):
            await scene.ask(self.model, [{"role": "user", "content": text}], top_p=0.9, temperature=0.5)
        self.drawn = [scene.rng.random() for _ in range(3)]
        return Answered(label="x", text="I.")


class Keys:
    """Keeps what it is asked under."""

    name, sampling = "m", {"temperature": 1.0, "max_tokens": 100}

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def chat(self, call: Call) -> Completion:
        self.calls.append(call)
        return Completion(text="I.")


async def test_what_a_role_asks_and_draws() -> None:
    model = Keys()
    agent = Asking(model)
    persona = Persona(id="p00001", profile="She sings.", personality="She is blunt.")
    conversation = Conversation(id="p00001", seed=7, persona=persona, turns=3)
    opening: Message = UserSaid(conversation="p00001", path=("preferred",), text="Hello.")
    await Bus([agent]).run(conversation, opening)
    assert [call.key for call in model.calls] == [
        "2c0d7d55664e72589af30e50a1140e0d",
        "262f1805beaccb3ebb5af5acd4b27883",
        "cd88d8640bc0a04cb6ffa633fb680dfa",
    ]
    assert [dict(call.sampling) for call in model.calls] == [{"temperature": 0.5, "max_tokens": 100, "top_p": 0.9}] * 3
    assert agent.drawn == [0.31679338535493107, 0.607327736733956, 0.9831582805683456]
