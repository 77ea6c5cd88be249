"""How pools grow: the same under every timing, to its target, a bottleneck or its budget, and on from any instant."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aloe_agents.engine.agent import Scene
from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal
from aloe_agents.messages import Answered, Proposed, RoundOpened
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.pools.embedding import LexicalEmbedder
from aloe_agents.pools.growth import Growth, GrowthPlan, State
from aloe_agents.pools.importing import expand
from aloe_agents.pools.items import Item, read_items
from aloe_agents.pools.similarity import Novelty
from aloe_agents.roles import Generator, Judge
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.recorder import Recorder
from aloe_agents.testing import TimedModel, run_virtual
from tests.test_personas import OWN

BASE, _ = read_items(OWN / "profiles.txt")
PLAN = GrowthPlan(of="profiles", target=120)


class Asked:
    """A model that counts its calls, and does to each what ``first`` says before it answers."""

    name = "asked"

    def __init__(self, first: Callable[[int], None] = lambda n: None, model: ChatModel | None = None) -> None:
        self.keys: list[str] = []
        self._first, self._model = first, model or ScriptedModel()

    async def chat(self, call: Call) -> Completion:
        self.keys.append(call.key)
        self._first(len(self.keys))
        return await self._model.chat(call)


def growing(model: ChatModel, plan: GrowthPlan = PLAN, recorder: Recorder | None = None, anew: bool = False) -> Growth:
    return Growth(Generator(model), BASE, plan, LexicalEmbedder().embed, Novelty(), recorder=recorder, anew=anew)


def texts(state: State) -> list[str]:
    return [item.text for item in state.items]


async def test_it_grows_to_its_target_from_what_it_was_given() -> None:
    state = await growing(ScriptedModel()).run()
    assert state.ended == "target" and len(state.items) == 120
    assert state.items[:20] == BASE and len({item.text for item in state.items}) == 120
    assert [item.id for item in state.items] == [f"{n:05d}" for n in range(1, 121)]
    assert {item.source for item in state.items[20:]} <= {f"round {n}" for n in range(1, 20)}
    assert sum(taken.accepted for taken in state.rounds) == 100
    assert state.dropped()["echo of an example"] and state.dropped()["traits in a profile"]
    assert state.spent.calls == len(state.rounds) and state.spent.prompt_tokens > 1000


def test_rounds_are_under_way_at_once_and_the_pool_is_the_same_under_every_timing() -> None:
    def grown(seed: int, ahead: int) -> tuple[list[str], float, int]:
        rng, now, most = random.Random(seed), 0, 0

        def seconds(call: Call) -> float:
            return rng.uniform(0.1, 10)

        class Watched(TimedModel):
            async def chat(self, call: Call) -> Completion:
                nonlocal now, most
                now += 1
                most = max(most, now)
                try:
                    return await super().chat(call)
                finally:
                    now -= 1

        async def run() -> tuple[list[str], float]:
            state = await growing(Watched(ScriptedModel(), seconds), replace(PLAN, target=200, ahead=ahead)).run()
            return texts(state), asyncio.get_running_loop().time()

        found, time = run_virtual(run())
        return found, time, most

    pools = [grown(seed, 4) for seed in range(12)]
    assert len({tuple(pool) for pool, _, _ in pools}) == 1
    assert {most for _, _, most in pools} == {4}
    alone = grown(0, 1)
    assert alone[2] == 1 and alone[1] > 2 * max(time for _, time, _ in pools)


class Repeating:
    """A generator that only ever repeats its examples."""

    name = "generator"
    hears = (RoundOpened,)

    async def respond(self, heard: RoundOpened, scene: Scene) -> Proposed:
        return Proposed(items=heard.examples * 4)


async def test_a_generator_of_ones_own_that_only_repeats_its_examples_ends_in_a_bottleneck() -> None:
    state = await Growth(Repeating(), BASE, PLAN, LexicalEmbedder().embed, Novelty()).run()
    assert state.ended == "bottleneck" and texts(state) == [item.text for item in BASE]
    assert len(state.rounds) == PLAN.window
    assert state.dropped() == {"echo of an example": 100}


async def test_a_pool_that_gets_full_ends_in_a_bottleneck() -> None:
    full = Growth(
        Generator(ScriptedModel()), BASE, replace(PLAN, target=10_000, bottleneck=0.9), LexicalEmbedder().embed,
        Novelty(0.1),
    )  # fmt: skip
    state = await full.run()
    assert state.ended == "bottleneck" and (state.share(PLAN.window) or 0) < 0.9
    assert state.dropped()["similar"] > 10
    assert all(
        drop.similarity is not None and drop.similarity > 0.1 for drop in state.drops if drop.reason == "similar"
    )
    assert {drop.nearest for drop in state.drops if drop.nearest} <= set(texts(state))


@pytest.mark.parametrize(
    ("budget", "used"),
    [
        ({"calls": 3}, lambda s: s.spent.calls <= 3 and len(s.rounds) == 3),
        ({"tokens": 9000}, lambda s: 6000 < s.spent.prompt_tokens + s.spent.completion_tokens <= 9500),
        ({"money": 0.05, "price": (1.0, 20.0)}, lambda s: 0.03 < s.spent.cost((1.0, 20.0)) <= 0.053),
    ],
)
async def test_a_budget_ends_it(budget: dict[str, object], used: Callable[[State], bool]) -> None:
    state = await growing(ScriptedModel(), replace(PLAN, target=5000, **budget)).run()  # type: ignore[arg-type]
    assert state.ended == "budget" and used(state), state.spent


async def test_without_vectors_equal_texts_are_dropped_and_nothing_is_embedded() -> None:
    plan = replace(PLAN, target=60)
    state = await Growth(Generator(ScriptedModel()), BASE, plan, None, None).run()
    assert len(state.items) == 60 and "similar" not in state.dropped()


# --- resumption ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a growth as a kill would: nothing is tidied up."""


async def killed_at(number: int, folder: Path, plan: GrowthPlan) -> None:
    def first(n: int) -> None:
        if n == number:
            raise Killed

    with Journal(folder) as journal, pytest.raises(Killed):
        await journal.claim(seed=0, turns=1, requested=0, settings={}, endpoints={})
        await growing(Asked(first), plan, Recorder(journal)).run()


async def resumed(folder: Path, plan: GrowthPlan, model: Asked, anew: bool = False) -> State:
    with Journal(folder) as journal:
        await journal.claim(seed=0, turns=1, requested=0, settings={}, endpoints={})
        return await growing(model, plan, Recorder(journal), anew).run()


async def test_interrupted_anywhere_it_goes_on_to_the_same_pool_and_asks_nothing_twice(tmp_path: Path) -> None:
    plan = replace(PLAN, target=200)
    undisturbed = Asked()
    whole = await growing(undisturbed, plan).run()
    for number in (1, 2, 4, 5, 6, 9, 11):
        folder = tmp_path / str(number)
        await killed_at(number, folder, plan)
        with Journal(folder) as journal:
            held = {row[0].hex() for row in await journal.query("SELECT key FROM calls")}
        again = Asked()
        state = await resumed(folder, plan, again)
        assert texts(state) == texts(whole) and state.drops == whole.drops and state.spent == whole.spent
        assert not held & set(again.keys) and held | set(again.keys) == set(undisturbed.keys)
        nothing = Asked()
        assert texts(await resumed(folder, plan, nothing)) == texts(whole) and nothing.keys == []


async def test_a_pool_with_its_target_grows_on_and_keeps_what_it_has(tmp_path: Path) -> None:
    first, more = Asked(), Asked()
    small = await resumed(tmp_path, PLAN, first)
    large = await resumed(tmp_path, replace(PLAN, target=200), more)
    assert texts(large)[:120] == texts(small) and len(large.items) == 200
    assert not set(first.keys) & set(more.keys)
    assert texts(await resumed(tmp_path, PLAN, Asked())) == texts(small)


async def test_changed_settings_draw_new_examples(tmp_path: Path) -> None:
    await resumed(tmp_path, PLAN, Asked())
    other = replace(PLAN, seed=9)
    changed = Asked()
    state = await resumed(tmp_path, other, changed, anew=True)
    assert texts(state) == texts(await growing(ScriptedModel(), other).run()) and changed.keys


async def test_a_round_that_failed_stays_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    def second_fails(n: int) -> None:
        if n == 2:
            raise CallFailed(FailureReason.FILTERED, "no")

    state = await resumed(tmp_path, PLAN, Asked(second_fails))
    assert [(taken.status, taken.reason) for taken in state.rounds[:3]] == [
        ("completed", ""), ("failed", "filtered"), ("completed", ""),
    ]  # fmt: skip
    assert state.ended == "target"
    again = Asked()
    assert texts(await resumed(tmp_path, PLAN, again)) == texts(state) and again.keys == []


async def test_a_generator_that_always_fails_ends_it_and_is_asked_again_when_it_is_mended(tmp_path: Path) -> None:
    def fails(n: int) -> None:
        raise CallFailed(FailureReason.REFUSED_REQUEST, "no")

    state = await resumed(tmp_path, PLAN, Asked(fails))
    assert state.ended == "failures" and len(state.rounds) == PLAN.window
    assert (await resumed(tmp_path, PLAN, Asked())).ended == "target"


async def test_what_cannot_be_read_is_asked_again_and_a_fatal_ends_it() -> None:
    class Chatty:
        name = "chatty"

        def __init__(self) -> None:
            self.asked = 0

        async def chat(self, call: Call) -> Completion:
            self.asked += 1
            if len(call.messages) == 2:
                return Completion(text="What a nice task!")
            assert call.messages[2] == {"role": "assistant", "content": "What a nice task!"}
            return await ScriptedModel().chat(replace(call, messages=call.messages[:2]))

    model = Chatty()
    assert (await growing(model, replace(PLAN, target=60)).run()).ended == "target" and model.asked % 2 == 0

    def fatal(n: int) -> None:
        if n == 3:
            raise Fatal("the key is wrong")

    with pytest.raises(Fatal, match="the key is wrong"):
        await growing(Asked(fatal)).run()


async def test_an_answer_that_was_cut_off_loses_its_last_item() -> None:
    class Cut:
        name = "cut"

        async def chat(self, call: Call) -> Completion:
            return Completion(text="1. She sings.\n2. He paints.\n3. They wr", finish_reason="length")

    growth = growing(Cut(), replace(PLAN, bottleneck=0.0, calls=1, ahead=1))
    assert [drop.text for drop in (await growth.run()).drops] == ["She sings.", "He paints."]


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ConfigError, match="agent 'judge' cannot grow a pool: it does not hear RoundOpened"):
        Growth(Judge(ScriptedModel()), BASE, PLAN, None, None)
    with pytest.raises(ConfigError, match="at least one item"):
        Growth(Generator(ScriptedModel()), [], PLAN, None, None)
    with pytest.raises(ConfigError, match="ahead must be at least 1, not 0"):
        growing(ScriptedModel(), replace(PLAN, ahead=0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"calls": 0}, "calls must be at least 1, not 0"),
        ({"tokens": 0}, "tokens must be at least 1, not 0"),
        ({"tokens": -5}, "tokens must be at least 1, not -5"),
        ({"money": 0.0}, "money must be more than 0, not 0"),
        ({"money": -1.5}, "money must be more than 0, not -1.5"),
        ({"target": 0}, "target must be at least 1, not 0"),
        ({"wanted": -1}, "wanted must be at least 1, not -1"),
        ({"bottleneck": 1.5}, "bottleneck must be from 0 to 1, not 1.5"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(PLAN, **fields)  # type: ignore[arg-type]


async def test_a_target_that_is_reached_already_asks_nothing() -> None:
    asked = Asked()
    state = await growing(asked, replace(PLAN, target=20)).run()
    assert (state.ended, state.items, asked.keys) == ("target", BASE, [])


# --- sketches --------------------------------------------------------------------------------------------------------

SKETCHES = ["A retired diver who restores clocks", "She breeds goats in the Alps.", "A baker"]


async def test_sketches_become_profiles_in_their_order_and_are_asked_for_once(tmp_path: Path) -> None:
    async def run(model: Asked, sketches: Sequence[str]) -> list[str | None]:
        with Journal(tmp_path) as journal:
            await journal.claim(seed=0, turns=1, requested=3, settings={}, endpoints={})
            return await expand(Generator(model), sketches, recorder=Recorder(journal))

    def fails(n: int) -> None:
        if n == 2:
            raise CallFailed(FailureReason.FILTERED, "no")

    first = await run(Asked(fails), SKETCHES)
    assert first[1] is None and first[0] is not None and "restores clocks" in first[0]
    again = Asked()
    second = await run(again, SKETCHES)
    assert len(again.keys) == 1 and [second[0], second[2]] == [first[0], first[2]]
    assert second[1] is not None and second[1].startswith("She breeds goats in the Alps.")

    class Deaf:
        name = "deaf"
        hears = (Answered,)

        async def respond(self, heard: Answered, scene: Scene) -> None: ...

    with pytest.raises(ConfigError, match="agent 'deaf' cannot expand sketches"):
        await expand(Deaf(), SKETCHES)


def test_items_are_what_they_were() -> None:
    assert BASE[0] == Item(text=BASE[0].text, id="00001")
