"""The count of what can still move: a role that can move is never told it is stuck, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from aloe_agents.engine.agent import Scene
from aloe_agents.engine.conversation import Conversation, Delivery
from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import Stuck
from aloe_agents.messages import Address, Answered, Message, UserSaid
from aloe_agents.model import Call, Completion
from aloe_agents.testing import run_virtual
from tests.casts import Critic, Digest, Noticed, paper_cast, people

FIRST: Address = ("UserSaid", (), "first")
SECOND: Address = ("UserSaid", (), "second")


def begun(count: int) -> tuple[Conversation, list[Delivery]]:
    """A conversation with ``count`` deliveries under way."""
    conversation = Conversation(id="c", seed=0, persona=people(1)[0], turns=3)
    deliveries = [Delivery() for _ in range(count)]
    for delivery in deliveries:
        conversation.begin(delivery)
    return conversation, deliveries


def say(conversation: Conversation, address: Address) -> None:
    conversation.assign(UserSaid(conversation="c", path=address[1], label=address[2], text="Well."))
    conversation.wake(address)


async def waiting(conversation: Conversation, address: Address, delivery: Delivery) -> asyncio.Task[Message]:
    """A task that waits for ``address``."""
    task = asyncio.create_task(conversation.read(address, delivery))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_what_was_woken_can_move_and_whoever_waits_for_it_is_not_stuck() -> None:
    conversation, (first, second, speaker) = begun(3)
    one = await waiting(conversation, FIRST, first)
    other = await waiting(conversation, SECOND, second)
    assert conversation._movable == 1
    say(conversation, FIRST)
    assert (conversation._movable, first.parked, first.needs) == (2, False, 0)
    conversation.end(speaker)  # before the woken one has run: it alone can move now
    assert conversation._movable == 1
    await asyncio.sleep(0)
    assert one.done() and not other.done()
    say(conversation, SECOND)  # which is what the woken one says
    conversation.end(first)
    assert (await other).label == "second"
    conversation.end(second)
    assert conversation._movable == 0


async def test_a_need_that_is_cancelled_raises_it_and_its_delivery_can_move() -> None:
    conversation, (first, second, speaker) = begun(3)
    one = await waiting(conversation, FIRST, first)
    other = await waiting(conversation, SECOND, second)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert (conversation._movable, first.parked, first.needs) == (2, False, 0)
    conversation.end(speaker)
    await asyncio.sleep(0)
    assert not other.done(), "the first goes on without what it needed, and may say what the other waits for"
    say(conversation, FIRST)  # nobody waits for it any more
    assert (conversation._movable, first.needs) == (1, 0)
    say(conversation, SECOND)
    assert (await other).label == "second"


async def test_a_need_that_is_cancelled_after_it_was_met_is_counted_once() -> None:
    conversation, (first, _) = begun(2)
    one = await waiting(conversation, FIRST, first)
    say(conversation, FIRST)
    one.cancel()  # before it has seen the message
    with pytest.raises(asyncio.CancelledError):
        await one
    assert (conversation._movable, first.needs, first.parked) == (2, 0, False)


async def test_what_settles_after_its_delivery_is_over_changes_no_count() -> None:
    conversation, (first, second) = begun(2)
    left = await waiting(conversation, FIRST, first)
    await conversation.land(first)  # its agent is done and has left a need behind
    conversation.end(first)
    assert conversation._movable == 1
    with pytest.raises(asyncio.CancelledError):
        await left  # which counts its delivery anew
    assert (conversation._movable, first.needs) == (1, 0)
    with pytest.raises(Stuck, match="nobody is left to say UserSaid 'second' at turn 1"):
        await asyncio.wait_for(conversation.read(SECOND, second), 5)


async def test_a_call_that_settles_after_the_end_changes_no_count() -> None:
    conversation, (first, second) = begun(2)
    first.asks = 1
    conversation.end(first)
    assert conversation._movable == 1
    first.asks, first.needs = 0, 1
    conversation.settle(first)
    assert conversation._movable == 1
    conversation.end(second)
    assert conversation._movable == 0


class Impatient(Critic):
    """Gives up waiting for one answer, and then says what another role waits for."""

    hears = (UserSaid,)  # type: ignore[assignment]

    async def respond(self, heard: UserSaid, scene: Scene) -> Noticed:  # type: ignore[override]
        try:
            verdict = (await asyncio.wait_for(scene.need(Answered, "nobody"), 0.5)).text
        except TimeoutError:
            verdict = (await scene.need(Answered, "preferred")).text
        return Noticed(verdict=verdict)


class Slow(Digest):
    """Takes two seconds over everything."""

    async def chat(self, call: Call) -> Completion:
        await asyncio.sleep(2)
        return await super().chat(call)


class Depending:
    """Waits for what the impatient one says."""

    name, hears, essential = "depending", (UserSaid,), False

    async def respond(self, heard: UserSaid, scene: Scene) -> Answered:
        flagged = await scene.need(Noticed)
        return Answered(label="depending", text=flagged.verdict)


def test_a_role_may_give_up_waiting_and_go_on() -> None:
    async def main() -> None:
        cast = [*paper_cast(Slow()), Impatient(Digest()), Depending()]
        async with asyncio.timeout(1000):
            trees = [tree async for tree in Simulation(cast, RandomPath(), turns=2).trees(people(3))]
        turns = [turn for tree in trees for turn in tree.turns]
        assert len(turns) == 6 and not [failure for turn in turns for failure in turn.failures]
        assert all(turn.answers["depending"].text == turn.answers["preferred"].text for turn in turns)

    run_virtual(main())
