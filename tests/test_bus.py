"""Errors stay home: a failing role costs its node or its conversation, never a neighbour."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.expansion import Beam, Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import Fatal, WiringError
from aloe_agents.messages import Answered, Failed, Message, NodePath, PersonaRevealed, Scored, TurnOpened, UserSaid
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer
from aloe_agents.testing import run_virtual
from aloe_agents.tree import Tree
from tests.casts import Critic, Digest, Noticed, full_cast, paper_cast, people


async def play(cast: list[Agent], expansion: Any = None, count: int = 4, turns: int = 4, **options: Any) -> list[Tree]:
    simulation = Simulation(cast, expansion or RandomPath(), turns=turns, **options)
    trees = [tree async for tree in simulation.trees(people(count))]
    outcome = simulation.outcome
    assert outcome.completed + sum(outcome.failed.values()) + outcome.pending == outcome.requested == count
    return sorted(trees, key=lambda tree: tree.id)


class Failing:
    """Raises in one conversation at one turn."""

    def __init__(self, name: str, hears: type[Message], essential: bool, says: tuple[Any, ...] = ()) -> None:
        self.name, self.hears, self.essential, self.says = name, (hears,), essential, says

    async def respond(self, heard: Message, scene: Scene) -> None:
        if heard.conversation == "p00002" and heard.turn == 3:
            raise ZeroDivisionError("three into nothing")


class FailingPlayer(RolePlayer):
    async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid:
        if heard.conversation == "p00002" and heard.turn == 3:
            raise ZeroDivisionError("three into nothing")
        return await super().respond(heard, scene)


async def test_a_role_that_raises_fails_its_own_conversation_with_agent_node_and_cause() -> None:
    failures: list[tuple[Failed, str]] = []

    def observe(message: Message, sender: str) -> None:
        if isinstance(message, Failed):
            failures.append((message, sender))

    model = Digest()
    cast = [FailingPlayer(model), *paper_cast(model)[1:]]
    trees = await play(cast, observers=[observe])
    assert [tree.status for tree in trees] == ["completed", "completed", "failed", "completed"]
    assert len(trees[2].turns) == 2 and all(len(turn.answers) == 2 for turn in trees[2].turns)
    ((failed, sender),) = failures
    assert (failed.conversation, failed.turn, failed.agent, sender) == ("p00002", 3, "role_player", "role_player")
    assert failed.heard == ("TurnOpened", failed.path, "") and failed.reason == "role-error"
    assert failed.error == "ZeroDivisionError: three into nothing"


async def test_a_non_essential_role_marks_its_node_alone() -> None:
    trees = await play([*paper_cast(Digest()), Failing("critic", Answered, essential=False)])
    assert {tree.status for tree in trees} == {"completed"}
    marked = [
        (tree.id, turn.turn, failure["agent"]) for tree in trees for turn in tree.turns for failure in turn.failures
    ]
    assert marked == [("p00002", 3, "critic")] * 2


async def test_an_essential_role_that_fails_fails_the_conversation_but_for_answers_that_were_not_chosen() -> None:
    class Fails(Critic):
        essential = True

        async def respond(self, heard: Answered, scene: Scene) -> Noticed:
            if heard.label == "rejected":
                raise ZeroDivisionError
            return await super().respond(heard, scene)

    trees = await play([*paper_cast(Digest()), Fails(Digest())], count=40, turns=2)
    for tree in trees:
        forgiven = all(turn.chosen == ("preferred",) for turn in tree.turns)
        assert tree.status == ("completed" if forgiven else "failed")
    assert {tree.status for tree in trees} == {"completed", "failed"}


def test_what_a_role_left_behind_when_it_failed_holds_nobody_up() -> None:
    landed: list[str] = []

    class Slow(Digest):
        async def chat(self, call: Call) -> Completion:
            await asyncio.sleep(5)
            landed.append(call.conversation)
            return await super().chat(call)

    class Leaving(Critic):
        """Fails while a sibling of its gather waits, and another is paid for."""

        hears = (UserSaid,)  # type: ignore[assignment]

        async def respond(self, heard: UserSaid, scene: Scene) -> Noticed:  # type: ignore[override]
            async def fail() -> None:
                await asyncio.sleep(0.001)
                raise ZeroDivisionError

            asking = scene.ask(self.model, [{"role": "user", "content": heard.text}])
            await asyncio.gather(scene.need(Answered, "preferred"), asking, fail())
            raise AssertionError("unreachable")

    async def main() -> list[Tree]:
        async with asyncio.timeout(1000):
            return await play([*paper_cast(Digest()), Waiting(), Leaving(Slow())], turns=2)

    trees = run_virtual(main())
    assert {tree.status for tree in trees} == {"completed"}
    reasons = [failure["reason"] for tree in trees for turn in tree.turns for failure in turn.failures]
    assert sorted({*reasons}) == ["role-error", "stuck"]
    assert len(landed) == 4 * 2, "what was asked lands before the conversation is over"


async def test_a_conversation_may_have_hundreds_of_turns() -> None:
    (tree,) = await play(paper_cast(Digest()), count=1, turns=400)
    assert tree.status == "completed" and len(tree.turns) == 400


async def test_an_endpoint_serves_another_simulation_after_one_that_was_left_early() -> None:
    endpoint = Endpoint("e", [Digest()], Limits(requests_per_minute=60_000))
    async for _ in Simulation(paper_cast(endpoint), RandomPath(), turns=2).trees(people(8)):
        break
    trees = await play(paper_cast(endpoint), count=3)
    assert [tree.status for tree in trees] == ["completed"] * 3


async def test_a_gap_on_the_unchosen_answer_leaves_the_conversation_whole() -> None:
    class FailingRejected(Rejected):
        async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
            raise ZeroDivisionError

    trees = await play([*paper_cast(Digest())[:3], FailingRejected(Digest())], count=40, turns=2)
    for tree in trees:
        whole = all(turn.chosen == ("preferred",) for turn in tree.turns)
        assert tree.status == ("completed" if whole else "failed")
        assert all(set(turn.answers) == {"preferred"} for turn in tree.turns)
    assert {tree.status for tree in trees} == {"completed", "failed"}


class PlainRejected:
    """One's own, which tells by its annotation alone that it answers, not under which label."""

    name = "rejected"
    hears = (UserSaid,)

    async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
        raise ZeroDivisionError


class SilentRejected(PlainRejected):
    """... and one that does not tell what it says."""

    async def respond(self, heard, scene):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError


class Joining(PlainRejected):
    """Essential, and waits for an answer that never comes."""

    name = "joining"

    async def respond(self, heard: UserSaid, scene: Scene) -> Noticed:  # type: ignore[override]
        return Noticed(verdict=(await scene.need(Answered, "rejected")).text)


@pytest.mark.parametrize("others", [(PlainRejected,), (SilentRejected,), (PlainRejected, Joining)])
async def test_a_gap_is_forgiven_whatever_its_role_tells_and_so_is_waiting_for_it(others: tuple[type, ...]) -> None:
    trees = await play([*paper_cast(Digest())[:3], *(other() for other in others)], count=20, turns=1)
    assert all(tree.status == ("completed" if tree.turns[0].chosen == ("preferred",) else "failed") for tree in trees)
    assert {tree.status for tree in trees} == {"completed", "failed"}


class Waiting:
    """Needs what nobody says."""

    name = "waiting"
    hears = (Answered,)
    essential = False

    async def respond(self, heard: Answered, scene: Scene) -> Noticed:
        await scene.need(Scored, "preferred/nobody")
        raise AssertionError("unreachable")


def test_a_role_that_waits_for_what_nobody_says_is_stuck_with_the_address() -> None:
    trees = run_virtual(play([*paper_cast(Digest()), Waiting()], turns=2))
    assert {tree.status for tree in trees} == {"completed"}
    failures = [failure for tree in trees for turn in tree.turns for failure in turn.failures]
    assert {failure["reason"] for failure in failures} == {"stuck"}
    assert failures[0]["error"] == "nobody is left to say Scored 'preferred/nobody' at turn 1"
    assert len(failures) == 4 * 2 * 2


def test_waiting_while_asking_is_not_stuck() -> None:
    class Both(Critic):
        async def respond(self, heard: Answered, scene: Scene) -> Noticed:
            async def later() -> Completion:
                return await scene.ask(self.model, [{"role": "user", "content": heard.text}])

            other = "rejected" if heard.label == "preferred" else "preferred"
            answer, _ = await asyncio.gather(later(), scene.need(Answered, other))
            return Noticed(verdict=answer.text)

    trees = run_virtual(play([*paper_cast(Digest()), Both(Digest())], turns=3))
    assert not [failure for tree in trees for turn in tree.turns for failure in turn.failures]
    assert all(set(turn.notes["Noticed"]) == {"preferred", "rejected"} for tree in trees for turn in tree.turns)


def test_two_needs_at_once_wait_for_both() -> None:
    class Joining(Critic):
        hears = (UserSaid,)  # type: ignore[assignment]

        async def respond(self, heard: UserSaid, scene: Scene) -> Noticed:  # type: ignore[override]
            one, other = await asyncio.gather(scene.need(Answered, "preferred"), scene.need(Answered, "rejected"))
            return Noticed(verdict=one.text + other.text)

    trees = run_virtual(play([*paper_cast(Digest()), Joining(Digest())], turns=3))
    assert all(turn.notes["Noticed"][""] for tree in trees for turn in tree.turns)


async def test_an_address_is_said_once() -> None:
    class Twice(Rejected):
        name = "twice"
        essential = False
        says = ((Answered, "rejected"),)

    trees = await play([*paper_cast(Digest()), Twice(Digest())], count=2)
    failures = [failure for tree in trees for turn in tree.turns for failure in turn.failures]
    assert {failure["reason"] for failure in failures} == {"said-twice"}
    assert all("Answered 'rejected' at turn" in failure["error"] for failure in failures)
    assert len(failures) == 2 * 4 and {tree.status for tree in trees} <= {"completed", "failed"}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (42, "TypeError: 'int' object is not iterable"),
        ("text", "TypeError: agent 'junk' returned str, not a Message"),
        (
            UserSaid(conversation="p00000", label="x", text="\ud800"),
            "TypeError: agent 'junk' said UserSaid, which cannot",
        ),
        ([TurnOpened(conversation="other")], "ValueError: agent 'junk' may not say TurnOpened of 'other' here"),
    ],
)
async def test_junk_from_a_role_is_its_own_failure(said: Any, error: str) -> None:
    class Junk:
        name = "junk"
        hears = (UserSaid,)
        essential = False

        async def respond(self, heard: UserSaid, scene: Scene) -> Any:
            return said

    trees = await play([*paper_cast(Digest()), Junk()], count=1, turns=1)
    assert trees[0].status == "completed"
    (failure,) = trees[0].turns[0].failures
    assert (failure["agent"], failure["reason"]) == ("junk", "role-error") and failure["error"].startswith(error)


def test_a_hole_in_the_wiring_is_refused_before_the_first_call() -> None:
    model = Digest()
    with pytest.raises(WiringError, match="agent 'preferred' hears PersonaRevealed, which nobody says"):
        Simulation([RolePlayer(model), Preferred(model), Rejected(model)], RandomPath())
    with pytest.raises(WiringError, match="nobody gives the answer labelled 'rejected'"):
        Simulation([RolePlayer(model), Induction(model), Preferred(model)], RandomPath())
    with pytest.raises(WiringError, match="the cast has no user"):
        Simulation([Failing("f", TurnOpened, True, says=(PersonaRevealed, Answered))], RandomPath())
    with pytest.raises(WiringError, match="two agents are called 'judge'"):
        Simulation([*paper_cast(model), Judge(model), Judge(model)], RandomPath())
    with pytest.raises(WiringError, match="'expansion' needs Scored"):
        Simulation(paper_cast(model), Beam(2))


async def test_fatal_stops_the_run_keeps_what_was_done_and_is_raised() -> None:
    class Locked(Digest):
        def __init__(self) -> None:
            self.calls = 0

        async def chat(self, call: Call) -> Completion:
            self.calls += 1
            if self.calls > 20:
                raise Fatal("the key is refused")
            await asyncio.sleep(0)
            return await super().chat(call)

    model = Locked()
    trees: list[Tree] = []
    simulation = Simulation(paper_cast(model), RandomPath(), live=3)
    with pytest.raises(Fatal, match="the key is refused"):
        await simulation.run(people(100), trees.append)
    assert model.calls < 40
    assert {tree.status for tree in trees} == {"pending"}
    assert simulation.outcome.pending == simulation.outcome.requested


async def test_cancellation_passes_through_everything() -> None:
    class Never(Digest):
        async def chat(self, call: Call) -> Completion:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    task = asyncio.create_task(Simulation(paper_cast(Never()), RandomPath()).run(people(5)))
    for _ in range(10):
        await asyncio.sleep(0)
    before = len(asyncio.all_tasks())
    assert before > 10
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failing_observer_is_dismissed_and_a_fatal_one_ends_the_run() -> None:
    seen = 0

    def broken(message: Message, sender: str) -> None:
        nonlocal seen
        seen += 1
        raise ValueError("no picture today")

    assert {tree.status for tree in await play(paper_cast(Digest()), observers=[broken])} == {"completed"}
    assert seen == 1

    def dead(message: Message, sender: str) -> None:
        raise Fatal("no room on the disk")

    with pytest.raises(Fatal, match="no room"):
        await play(paper_cast(Digest()), observers=[dead])


async def test_observers_see_causes_before_consequences() -> None:
    order: list[tuple[str, NodePath, str]] = []

    def observe(message: Message, sender: str) -> None:
        if not message.observed_only:
            order.append((type(message).__name__, message.path, message.label))

    await play(full_cast(Digest()), count=1, turns=5, observers=[observe])
    at = {address: number for number, address in enumerate(order)}
    assert len(at) == len(order)
    for kind, path, label in order:
        if kind == "UserSaid":
            assert at["TurnOpened", path, ""] < at[kind, path, label]
        if kind == "Scored":
            assert at["Answered", path, label.split("/")[0]] < at[kind, path, label]
        if kind == "TurnOpened" and path:
            assert at["Answered", path[:-1], path[-1]] < at[kind, path, label]


async def test_a_user_who_says_nothing_has_left() -> None:
    @dataclass
    class Leaving:
        name: str = "role_player"
        hears: tuple[type[Message], ...] = (TurnOpened,)

        async def respond(self, heard: TurnOpened, scene: Scene) -> UserSaid | None:
            return UserSaid(text=f"message {heard.turn}") if heard.turn < 3 else None

    trees = await play([Leaving(), *paper_cast(Digest())[1:]], turns=10)
    assert {(tree.status, len(tree.turns)) for tree in trees} == {("completed", 2)}


class Leaves:
    """Counts the open leaves of all conversations: nodes that were opened and not yet followed or answered."""

    def __init__(self) -> None:
        self.most = self.now = 0

    def __call__(self, message: Message, sender: str) -> None:
        if isinstance(message, UserSaid):
            self.now += 1
            self.most = max(self.most, self.now)
        if isinstance(message, Answered) and message.label == "preferred":
            self.now -= 1


@pytest.mark.parametrize(("expansion", "live"), [(RandomPath(), 5), (Full(3), 16), (Full(3), 8), (Beam(3), 9)])
async def test_admission_counts_open_leaves(expansion: Any, live: int) -> None:
    leaves = Leaves()
    cast = [*paper_cast(Digest()), Judge(Digest())]
    trees = await play(cast, expansion, count=20, turns=4, live=live, observers=[leaves])
    assert {tree.status for tree in trees} == {"completed"}
    assert 1 < leaves.most <= live


async def test_full_opens_every_answer_down_to_its_depth_then_tosses() -> None:
    tree = (await play(paper_cast(Digest()), Full(2), count=1, turns=4))[0]
    by_depth = [sum(len(turn.path) == depth for turn in tree.turns) for depth in range(4)]
    assert by_depth == [1, 2, 4, 4]
    assert [len(turn.chosen) for turn in tree.turns if len(turn.path) < 2] == [2, 2, 2]
    assert {len(turn.chosen) for turn in tree.turns if len(turn.path) >= 2} == {1}
    assert [turn.path for turn in tree.turns] == sorted(turn.path for turn in tree.turns)


async def test_beam_keeps_the_best_of_each_depth() -> None:
    tree = (await play([*paper_cast(Digest()), Judge(Digest())], Beam(3), count=1, turns=4))[0]
    for depth in range(4):
        nodes = [turn for turn in tree.turns if len(turn.path) == depth]
        assert len(nodes) == min(3, 2**depth)
        scored = [
            (answer.scores["judge"] or 0, label in turn.chosen)
            for turn in nodes
            for label, answer in turn.answers.items()
        ]
        kept = [score for score, chosen in scored if chosen]
        assert len(kept) == min(3, len(scored))
        assert min(kept) >= max((score for score, chosen in scored if not chosen), default=0)


class Replying:
    """A user's own model: a name and one coroutine."""

    name = "mine"
    sampling = {"temperature": 0.5}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def chat(self, call: Call) -> Completion:
        self.calls.append(call)
        return Completion(text="Profile: None\nPersonalities: None")


async def test_any_object_with_a_name_and_a_chat_is_a_model() -> None:
    model: ChatModel = Replying()
    await play(paper_cast(model), count=1, turns=2)
    assert isinstance(model, Replying)
    assert {tuple(call.sampling.items()) for call in model.calls} == {(("temperature", 0.5),)}
    assert len({call.key for call in model.calls}) == len(model.calls) == 8
