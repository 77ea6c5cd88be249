"""The form of the paper's authors: written and read back equal, and what it cannot hold is counted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import Beam, Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.errors import ConfigError
from aloe_agents.messages import NodePath
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Persona
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer
from aloe_agents.training.authors import check_labels, from_authors, read_authors, to_authors
from aloe_agents.tree import Answer, Tree, Turn

ANN = Persona(id="ann", profile="She is a nurse. She keeps bees.", personality="She is blunt.")
# as their script writes it: no id, the persona's texts as lines of a JSONL file, None as a word
THEIRS: dict[str, Any] = {
    "profile": '"She is a nurse."\n',
    "personality": '"She is blunt."\n',
    "conversations": [
        {
            "user": "Long shift!",
            "assistant": {"preferred": "Nurses deserve naps.", "rejected": "I see."},
            "chosen": "rejected",
            "inferred_profile": "He/She is a nurse.",
            "inferred_personality": "None",
        },
        {
            "user": "So, naps?",
            "assistant": {"preferred": "Naps it is.", "rejected": "Naps are good for you."},
            "chosen": "preferred",
            "inferred_profile": "He/She is a nurse.",
            "inferred_personality": "None.",
        },
    ],
}


async def simulated(expansion: Expansion, turns: int, seed: int = 0) -> Tree:
    model = ScriptedModel()
    cast: list[Agent] = [RolePlayer(model), Induction(model), Preferred(model), Rejected(model), Judge(model)]
    trees: list[Tree] = []
    await Simulation(cast, expansion, turns=turns, seed=seed).run([ANN], trees.append)
    assert trees[0].status == "completed"
    return trees[0]


def core(tree: Tree) -> list[tuple[NodePath, str, dict[str, str | None] | None, dict[str, str], tuple[str, ...]]]:
    """What both forms hold of a tree."""
    return [
        (t.path, t.user, t.revealed, {label: answer.text for label, answer in t.answers.items()}, t.chosen)
        for t in tree.turns
    ]


def node(path: NodePath, chosen: tuple[str, ...], labels: tuple[str, ...] = ("preferred", "rejected")) -> Turn:
    return Turn(
        path,
        f"user at {path}",
        {"profile": "p", "personality": None},
        {label: Answer(f"{label} at {path}") for label in labels},
        chosen,
    )


# --- there and back ----------------------------------------------------------------------------------------------------


def test_a_conversation_of_the_authors_is_read() -> None:
    tree = from_authors(THEIRS, "p00004")
    assert (tree.id, tree.status, tree.persona.id) == ("p00004", "completed", "p00004")
    assert tree.persona.profile == THEIRS["profile"]
    assert [(turn.path, turn.turn, turn.chosen) for turn in tree.turns] == [
        ((), 1, ("rejected",)),
        (("rejected",), 2, ("preferred",)),
    ]
    assert tree.turns[1].revealed == {"profile": "He/She is a nurse.", "personality": None}
    assert tree.history(("rejected",)) == [("Long shift!", "I see.")]


def test_what_was_read_is_written_as_it_was() -> None:
    theirs = copy.deepcopy(THEIRS)
    theirs["conversations"][1]["inferred_personality"] = "None"  # they write it with and without a full stop
    assert to_authors(from_authors(THEIRS, "p1")) == ({"id": "p1", **theirs}, 0)


async def test_a_simulated_tree_is_written_and_read_back_equal(tmp_path: Path) -> None:
    trees = [await simulated(RandomPath(), turns=5, seed=seed) for seed in range(4)]
    file = tmp_path / "conversations.jsonl"
    exported = [to_authors(tree) for tree in trees]
    assert [gaps for _, gaps in exported] == [0] * 4
    file.write_bytes(b"\n\n".join(orjson.dumps(value) for value, _ in exported))
    read = list(read_authors(file))
    assert [core(tree) for tree in read] == [core(tree) for tree in trees]
    assert [tree.persona for tree in read] == [ANN] * 4
    assert {turn.chosen for tree in read for turn in tree.turns} == {("preferred",), ("rejected",)}


# the form holds None as a word and no empty text, so a text that is one of these is no text of a revealed persona
revealed = st.none() | st.text(min_size=1).filter(lambda text: text.strip().rstrip(".").lower() != "none")
conversation = st.lists(
    st.tuples(st.text(), st.text(), st.text(), st.sampled_from(["preferred", "rejected"]), revealed, revealed),
    max_size=5,
)


@given(conversation, st.text(), st.text(min_size=1))
@settings(max_examples=100)
def test_any_single_path_is_the_same_there_and_back(
    said: list[tuple[str, str, str, str, str | None, str | None]], profile: str, id: str
) -> None:
    tree = Tree(id, 0, Persona(id=id, profile=profile, personality="x"), "completed")
    path: NodePath = ()
    for user, preferred, rejected, chosen, known, shown in said:
        answers = {"preferred": Answer(preferred), "rejected": Answer(rejected)}
        tree.turns.append(Turn(path, user, {"profile": known, "personality": shown}, answers, (chosen,)))
        path = (*path, chosen)
    value, gaps = to_authors(tree)
    assert gaps == 0
    assert from_authors(orjson.loads(orjson.dumps(value)), "other") == tree


# --- what the form cannot hold -----------------------------------------------------------------------------------------


async def test_of_a_tree_that_branches_the_first_path_is_written_and_the_rest_counted() -> None:
    full = await simulated(Full(2), turns=3)
    value, gaps = to_authors(full)
    assert (len(value["conversations"]), gaps, len(full.turns)) == (3, 4, 7)
    assert [turn["chosen"] for turn in value["conversations"][:2]] == ["preferred", "preferred"]
    read = from_authors(value, "x")
    at = {turn.path: turn for turn in full.turns}
    assert [turn.user for turn in read.turns] == [at[turn.path].user for turn in read.turns]


@pytest.mark.parametrize("seed", range(4))
async def test_of_a_beam_a_path_that_was_kept_is_written_and_can_be_read(seed: int) -> None:
    beam = await simulated(Beam(2), turns=4, seed=seed)
    value, gaps = to_authors(beam)
    read = from_authors(value, "x")
    assert len(read.turns) + gaps == len(beam.turns)
    at = {turn.path: turn for turn in beam.turns}
    for turn in read.turns:
        assert turn.user == at[turn.path].user
        assert set(turn.chosen) <= set(at[turn.path].chosen)


def test_the_label_that_is_written_as_chosen_is_the_one_that_went_on() -> None:
    tree = Tree("a", 0, ANN, "failed", [node((), ("preferred", "rejected")), node(("rejected",), ("preferred",))])
    value, gaps = to_authors(tree)
    assert [turn["chosen"] for turn in value["conversations"]] == ["rejected", "preferred"]
    assert gaps == 0
    assert [turn.path for turn in from_authors(value, "x").turns] == [(), ("rejected",)]


@pytest.mark.parametrize(
    ("turns", "written", "gaps"),
    [
        ([], 0, 0),
        ([node((), ("preferred",), ("rejected",))], 0, 1),
        ([node((), ("preferred",)), node(("preferred",), ("rejected",), ("rejected",))], 1, 1),
        ([node((), ("rejected",), ("rejected",)), node(("rejected",), ("rejected",))], 0, 2),
        ([node((), ()), node(("preferred",), ("preferred",))], 1, 1),
        ([node((), ("other",), ("preferred", "rejected", "other")), node(("other",), ("preferred",))], 1, 1),
        ([node(path, ("preferred", "rejected")) for n in range(3) for path in product(["preferred"], repeat=n)], 3, 0),
    ],
)
def test_turns_that_are_left_out_are_counted(turns: list[Turn], written: int, gaps: int) -> None:
    value, left_out = to_authors(Tree("a", 0, ANN, "failed", turns))
    assert (len(value["conversations"]), left_out) == (written, gaps)
    read = from_authors(value, "x")
    assert [turn.user for turn in read.turns] == [turn.user for turn in turns[:written]]


def test_a_last_turn_after_which_nothing_went_on_has_no_choice() -> None:
    tree = Tree("a", 0, ANN, "failed", [node((), ("preferred",)), node(("preferred",), ())])
    value, gaps = to_authors(tree)
    assert ([turn["chosen"] for turn in value["conversations"]], gaps) == (["preferred", None], 0)
    assert [turn.chosen for turn in from_authors(value, "x").turns] == [("preferred",), ()]


def test_a_run_with_other_labels_is_told_which_are_needed() -> None:
    check_labels({"preferred", "rejected", "neutral"})
    check_labels(())
    with pytest.raises(ConfigError, match=r"needs answers labelled preferred and rejected, but there is no rejected"):
        check_labels({"preferred", "teacher"})


# --- what is no conversation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.pop("profile"), "not a conversation in the authors' form (KeyError: 'profile')"),
        (lambda value: value.pop("conversations"), "(KeyError: 'conversations')"),
        (lambda value: value["conversations"][1].pop("user"), "(KeyError: 'user')"),
        (lambda value: value["conversations"][0].pop("inferred_profile"), "(KeyError: 'inferred_profile')"),
        (lambda value: value["conversations"][0]["assistant"].pop("rejected"), "(KeyError: 'rejected')"),
        (lambda value: value["conversations"][0].update(assistant="x"), "(TypeError"),
        (lambda value: value["conversations"][0].update(inferred_profile=None), "(AttributeError"),
        (
            lambda value: value["conversations"][1].update(chosen="x"),
            "turn 2: chosen is 'x', not one of preferred, rej",
        ),
        (lambda value: value["conversations"][0].update(chosen=None), "turn 1: chosen is None, not one of preferred"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_by_its_number(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    wrong = copy.deepcopy(THEIRS)
    change(wrong)
    file = tmp_path / "conversations.jsonl"
    file.write_bytes(orjson.dumps(THEIRS) + b"\n\n" + orjson.dumps(wrong))
    reading = read_authors(str(file))
    assert next(reading).id == "p00001"
    with pytest.raises(ConfigError) as refused:
        next(reading)
    assert str(refused.value).startswith(f"{file}, line 3: ") and said in str(refused.value)


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b'"text"', b"\xff"])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "conversations.jsonl"
    file.write_bytes(line)
    with pytest.raises(ConfigError, match="line 1: "):
        list(read_authors(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl cannot be read"):
        list(read_authors(tmp_path / "nowhere.jsonl"))
