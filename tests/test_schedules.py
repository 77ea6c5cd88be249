"""What is said does not depend on when: 200 schedules, one set of trees; one memo, no call asked again."""

from __future__ import annotations

from typing import ClassVar

import pytest

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.expansion import Beam, Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.messages import Answered, Message, PersonaRevealed
from aloe_agents.model import ChatModel
from aloe_agents.testing import Memo, NotReplayable, TimedModel, check_replay, play, run_virtual
from tests.casts import Critic, Digest, Noticed, full_cast, paper_cast, people


def trees(schedule: int, expansion: Expansion, scarce: bool) -> bytes:
    """All trees of one seeded schedule, as the file would hold them."""
    import hashlib
    import random

    def seconds(call: object) -> float:
        digest = hashlib.sha256(f"{schedule} {call.key}".encode()).digest()  # type: ignore[attr-defined]
        return random.Random(digest).lognormvariate(0, 1)

    async def main() -> bytes:
        model = TimedModel(Digest(), seconds, capacity=2 + schedule % 4 if scarce else 10**6)
        simulation = Simulation(full_cast(model), expansion, turns=5, seed=11, live=3 + schedule % 5)
        lines = [tree.to_json() async for tree in simulation.trees(people(6))]
        return b"\n".join(sorted(lines))

    return run_virtual(main())


def test_two_hundred_schedules_give_one_set_of_trees() -> None:
    results = {trees(schedule, RandomPath(), scarce=schedule % 2 == 1) for schedule in range(200)}
    assert len(results) == 1
    assert results.pop().count(b'"Compared"') == 30


@pytest.mark.parametrize("expansion", [Full(2), Beam(2)], ids=["full", "beam"])
def test_full_and_beam_do_not_depend_on_the_schedule(expansion: Expansion) -> None:
    assert len({trees(schedule, expansion, scarce=schedule % 2 == 1) for schedule in range(30)}) == 1


@pytest.mark.parametrize("expansion", [RandomPath(), Full(2), Beam(2)], ids=["random-path", "full", "beam"])
def test_one_schedules_memo_replays_under_every_other(expansion: Expansion) -> None:
    memo = Memo()

    def once(schedule: int) -> object:
        return play(
            full_cast, expansion, people(5), Digest(), turns=4, seed=1, schedule=schedule,
            scarce=schedule % 2 == 1, memo=memo,
        )  # fmt: skip

    first, asked = once(0), memo.asked
    assert asked > 100
    assert all(once(schedule) == first for schedule in range(1, 40))
    assert memo.asked == asked


def test_check_replay_passes_honest_roles() -> None:
    assert check_replay(full_cast, RandomPath, people(4), Digest(), schedules=20) > 100


class Peeking(Critic):
    """Looks at what another agent happens to have said by now, instead of needing it."""

    async def respond(self, heard: Answered, scene: Scene) -> Noticed:
        seen = scene._conversation.said.get(("PersonaRevealed", heard.path, ""))
        flagged = await super().respond(heard, scene)
        return Noticed(verdict=f"{seen is not None} {flagged.verdict}")


class Remembering(Critic):
    """Keeps something between deliveries."""

    count: ClassVar[dict[str, int]] = {}

    async def respond(self, heard: Answered, scene: Scene) -> Noticed:
        flagged = await super().respond(heard, scene)
        self.count[heard.conversation] = self.count.get(heard.conversation, 0) + 1
        return Noticed(verdict=f"number {self.count[heard.conversation]}: {flagged.verdict}")


@pytest.mark.parametrize("culprit", [Peeking, Remembering])
def test_check_replay_names_what_a_role_that_peeks_said(culprit: type[Critic]) -> None:
    def cast(model: ChatModel) -> list[Agent]:
        Remembering.count.clear()
        return [*paper_cast(model), culprit(model)]

    with pytest.raises(NotReplayable, match=r"Noticed '(preferred|rejected)' at turn \d.* depends on the schedule"):
        check_replay(cast, RandomPath, people(3), Digest())


def test_needing_instead_of_peeking_is_replayable() -> None:
    class Needing(Critic):
        async def respond(self, heard: Answered, scene: Scene) -> Noticed:
            seen = await scene.need(PersonaRevealed)
            flagged = await super().respond(heard, scene)
            return Noticed(verdict=f"{seen.profile} {flagged.verdict}")

    def cast(model: ChatModel) -> list[Agent]:
        return [*paper_cast(model), Needing(model)]

    assert check_replay(cast, RandomPath, people(3), Digest(), schedules=20)


def test_another_seed_gives_other_paths() -> None:
    def paths(seed: int) -> set[tuple[str, tuple[str, ...]]]:
        said = play(paper_cast, RandomPath(), people(5), Digest(), turns=5, seed=seed, schedule=0, scarce=False)
        return {(conversation, path) for conversation, (_, path, _) in said}

    assert paths(1) != paths(2)
    assert isinstance(Message(conversation="c").address, tuple)
