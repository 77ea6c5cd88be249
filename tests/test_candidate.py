"""The model under test: what it is shown, contexts that overflow, templates without a system role; scores as expectations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import CallFailed, ConfigError, FailureReason
from aloe_agents.model import Call, ChatMessage, ChatModel, Completion
from aloe_agents.models.http import HttpModel
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.models.scripted.server import make_app, serve
from aloe_agents.personas import Persona
from aloe_agents.roles import Candidate, Judge, RolePlayer
from aloe_agents.roles.judge import expected_score
from aloe_agents.tree import Tree
from tests.test_roles import MIRA, Recording

SYSTEM = "## system\nYou adapt to whoever you talk to.\n"


async def talk(candidate: Candidate, turns: int = 4, persona: Persona = MIRA, judge: Judge | None = None) -> Tree:
    cast: list[Agent] = [RolePlayer(ScriptedModel()), candidate, *([judge] if judge else [])]
    return await anext(Simulation(cast, RandomPath(("candidate",)), turns=turns).trees([persona]))


async def test_it_sees_the_dialogue_and_nothing_else() -> None:
    model = Recording(ScriptedModel())
    tree = await talk(Candidate(model))
    users, answers = zip(*((turn.user, turn.answers["candidate"].text) for turn in tree.turns), strict=True)
    assert tree.status == "completed" and len(model.asked) == 4
    for n, asked in enumerate(sorted(model.asked, key=len)):
        assert [message["content"] for message in asked[::2]] == list(users[: n + 1])
        assert [message["content"] for message in asked[1::2]] == list(answers[:n])
        assert [message["role"] for message in asked] == ["user", "assistant"] * n + ["user"]


class Narrow:
    """A model whose context holds so many messages, as a server would say it; perhaps without a system role."""

    name = "narrow"

    def __init__(self, most: int = 1000, system: bool = True) -> None:
        self.most, self.system = most, system
        self.answered: list[Sequence[ChatMessage]] = []

    async def chat(self, call: Call) -> Completion:
        if not self.system and call.messages[0]["role"] == "system":
            raise CallFailed(FailureReason.REFUSED_REQUEST, "127.0.0.1: System role not supported (status 400)")
        if len(call.messages) > self.most:
            raise CallFailed(FailureReason.CONTEXT_OVERFLOW, "maximum context length")
        self.answered.append(call.messages)
        return Completion(text=f"Answer {len(call.messages)}.")


async def test_a_full_context_loses_its_oldest_turns_and_the_tree_says_so() -> None:
    model = Narrow(most=4)
    tree = await talk(Candidate(model))
    assert tree.status == "completed"
    assert [len(asked) for asked in model.answered] == [1, 3, 3, 3]
    assert [turn.notes.get("HistoryCut", {}).get("", {}).get("turns") for turn in tree.turns] == [None, None, 1, 2]
    last = model.answered[-1]
    assert [message["content"] for message in last[::2]] == [tree.turns[2].user, tree.turns[3].user]


async def test_or_the_case_fails_with_that_reason_as_configured() -> None:
    tree = await talk(Candidate(Narrow(most=4), overflow="fail"))
    assert tree.status == "failed" and len([turn for turn in tree.turns if turn.answers]) == 2
    assert tree.turns[2].failures[0]["reason"] == "context-overflow"
    hopeless = await talk(Candidate(Narrow(most=0)))
    assert hopeless.status == "failed" and hopeless.turns[0].failures[0]["reason"] == "context-overflow"
    with pytest.raises(ConfigError, match="overflow must be 'cut' or 'fail', not 'ignore'"):
        Candidate(Narrow(), overflow="ignore")  # type: ignore[arg-type]


async def test_a_server_that_overflows_is_met_by_cutting() -> None:
    async with serve(make_app(max_model_len=150)) as url:
        model = HttpModel(url, "scripted")
        tree = await talk(Candidate(model), turns=6)
        await model.close()
    assert tree.status == "completed" and "HistoryCut" in tree.turns[-1].notes


@pytest.mark.parametrize("knows", [True, False])
async def test_a_system_prompt_goes_into_the_first_message_where_the_template_has_no_place_for_it(
    tmp_path: Path, knows: bool
) -> None:
    (tmp_path / "system.md").write_text(SYSTEM)
    model = Narrow(system=knows)
    tree = await talk(Candidate(model, prompt=str(tmp_path / "system.md")), turns=2)
    assert tree.status == "completed"
    for asked in model.answered:
        told = "You adapt to whoever you talk to."
        if knows:
            assert asked[0] == {"role": "system", "content": told} and asked[1]["content"] == tree.turns[0].user
        else:
            assert asked[0] == {"role": "user", "content": f"{told}\n\n{tree.turns[0].user}"}


async def test_another_refusal_is_no_matter_of_the_system_role(tmp_path: Path) -> None:
    class Refusing:
        name = "refusing"
        asked = 0

        async def chat(self, call: Call) -> Completion:
            self.asked += 1
            raise CallFailed(FailureReason.REFUSED_REQUEST, "127.0.0.1: temperature is too high (status 400)")

    (tmp_path / "system.md").write_text(SYSTEM)
    model = Refusing()
    tree = await talk(Candidate(model, prompt=str(tmp_path / "system.md")))
    assert tree.status == "failed" and model.asked == 1


# --- two scripted candidates -----------------------------------------------------------------------------------------


async def scores(model: ChatModel) -> list[float | None]:
    tree = await talk(Candidate(model), 8, judge=Judge(ScriptedModel()))
    return [turn.answers["candidate"].scores["judge"] for turn in tree.turns]


async def test_the_adaptive_one_takes_up_what_it_was_told_and_the_generic_one_does_not() -> None:
    adaptive, generic = await scores(ScriptedModel(adaptive=True)), await scores(ScriptedModel())
    assert set(generic) == {1}
    assert all(one is not None and one > 1 for one in adaptive) and adaptive[-1] == 5 > (adaptive[0] or 0)


# --- expectations ----------------------------------------------------------------------------------------------------


def raw(content: object) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": "4"}, "logprobs": {"content": content}}]})


def top(**likely: float) -> list[dict[str, object]]:
    return [{"token": token.strip("_"), "logprob": math.log(p)} for token, p in likely.items()]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (raw([{"token": "4", "top_logprobs": top(_4=0.6, _5=0.3, _x=0.1)}]), (4 * 0.6 + 5 * 0.3) / 0.9),
        (raw([{"token": "\n", "top_logprobs": []}, {"token": " 2", "top_logprobs": top(_2=1.0)}]), 2),
        (raw([{"token": "4", "top_logprobs": top(_x=1.0)}]), None),
        (raw([{"token": "four", "top_logprobs": top(_4=1.0)}]), None),
        (raw(None), None),
        (b'{"choices": [{"message": {"content": "4"}}]}', None),
        (b"", None),
        (b"[]", None),
    ],
)
def test_an_expected_score_is_the_mean_of_the_digits_by_their_probabilities(
    answer: bytes, expected: float | None
) -> None:
    found = expected_score(answer)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-5))


async def test_a_judge_whose_server_refuses_to_be_asked_for_probabilities_asks_without() -> None:
    class Refusing(ScriptedModel):
        async def chat(self, call: Call) -> Completion:
            if "logprobs" in call.sampling:
                raise CallFailed(FailureReason.REFUSED_REQUEST, "no logprobs here (status 400)")
            return await super().chat(call)

    tree = await talk(Candidate(ScriptedModel(adaptive=True)), judge=Judge(Refusing(), expected=True))
    plain = await talk(Candidate(ScriptedModel(adaptive=True)), judge=Judge(ScriptedModel()))
    scores = [[turn.answers["candidate"].scores["judge"] for turn in one.turns] for one in (tree, plain)]
    assert scores[0] == scores[1] and None not in scores[0] and tree.status == "completed"


async def test_a_judge_asks_for_probabilities_and_takes_the_bare_score_where_there_are_none() -> None:
    async with serve(make_app()) as url:
        model = HttpModel(url, "scripted")
        tree = await talk(Candidate(ScriptedModel(adaptive=True)), judge=Judge(model, expected=True))
        plain = await talk(Candidate(ScriptedModel(adaptive=True)), judge=Judge(model))
        await model.close()
    for one, other in zip(tree.turns, plain.turns, strict=True):
        mean, score = one.answers["candidate"].scores["judge"], other.answers["candidate"].scores["judge"]
        assert mean is not None and score is not None
        assert mean == pytest.approx(score if score not in (1, 5) else score + 0.1 * (3 - score) / 2, abs=1e-5)
    bare = await talk(Candidate(ScriptedModel(adaptive=True)), judge=Judge(ScriptedModel(), expected=True))
    assert bare.turns[0].answers["candidate"].scores["judge"] in range(1, 6)
