"""Trees: made of what was said in whatever order, depth first, and the same after a way through JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import Full
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import ConfigError
from aloe_agents.messages import (
    Answered,
    Chosen,
    Failed,
    Message,
    NodePath,
    PersonaRevealed,
    Scored,
    TurnOpened,
    UserSaid,
)
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Persona
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer
from aloe_agents.tree import Answer, Entry, Tree, Turn, build_tree, read_trees

ANN = Persona(id="ann", profile="She keeps bees.", personality="She is blunt.")
LABELS = ("preferred", "rejected")


@dataclass(frozen=True, kw_only=True)
class Filed(Message):
    verdict: str
    where: Any = None


# --- random trees ----------------------------------------------------------------------------------------------------

labels = st.sampled_from([*LABELS, "candidate", "é", "a/b"])
paths = st.lists(labels, max_size=4).map(tuple)
scores = st.dictionaries(st.text(max_size=5), st.none() | st.floats(allow_nan=False, allow_infinity=False))
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
answers = st.builds(Answer, st.text(), scores, st.sampled_from(["stop", "length"]))
revealed = st.none() | st.fixed_dictionaries(dict.fromkeys(("profile", "personality"), st.none() | st.text()))
failures = st.fixed_dictionaries(dict.fromkeys(("agent", "reason", "error"), st.text(max_size=5)))
turns = st.builds(
    Turn,
    path=paths,
    user=st.text(),
    revealed=revealed,
    answers=st.dictionaries(labels, answers, max_size=3),
    chosen=st.lists(labels, max_size=2).map(tuple),
    notes=st.dictionaries(
        st.text(max_size=5), st.dictionaries(labels, plain | st.lists(plain, max_size=2), max_size=2)
    ),
    failures=st.lists(failures, max_size=2),
)
trees = st.builds(
    Tree,
    id=st.text(),
    seed=st.integers(0, 2**63 - 1),
    persona=st.builds(Persona, id=st.text(), profile=st.text(), personality=st.text()),
    status=st.sampled_from(["completed", "failed"]),
    turns=st.lists(turns, max_size=4),
    usage=st.dictionaries(st.sampled_from(["calls", "prompt_tokens"]), st.integers(0, 2**53)),
)


@given(trees)
@settings(max_examples=150)
def test_a_tree_is_the_same_after_a_way_through_json(tree: Tree) -> None:
    line = tree.to_json()
    assert b"\n" not in line
    assert Tree.from_json(line) == tree == Tree.from_json(line.decode())
    assert Tree.from_json(line).to_json() == line


@given(st.lists(trees, max_size=3))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_a_file_of_trees_is_read_line_by_line(tmp_path_factory: pytest.TempPathFactory, many: list[Tree]) -> None:
    file = tmp_path_factory.getbasetemp() / "trees.jsonl"
    file.write_bytes(b"\n\n".join(tree.to_json() for tree in many) + b"\n")
    assert list(read_trees(file)) == many


# --- from messages -----------------------------------------------------------------------------------------------------


def whole_conversation(depth: int) -> list[Entry]:
    """What is said in a full tree of ``depth`` turns, with scores, a custom kind and a failure at every node."""
    said: list[Message] = []
    for path in [path for length in range(depth) for path in product(LABELS, repeat=length)]:
        at: dict[str, Any] = {"conversation": "ann", "path": path}
        node = "-".join(path)
        said += [
            TurnOpened(**at),
            Chosen(**at, labels=LABELS),
            UserSaid(**at, text=f"user {node}"),
            PersonaRevealed(**at, profile=f"profile {node}", personality=None),
            *(Answered(**at, label=label, text=f"{label} {node}", finish_reason="length") for label in LABELS),
            *(Scored(**at, label=f"{label}/judge", score=3.5) for label in LABELS),
            Scored(**at, label="preferred/other", score=None),
            Filed(**at, label="preferred", verdict="fine"),
            Failed(**at, label="x", agent="x", heard=("UserSaid", path, ""), reason="stuck", error="nobody"),
        ]
    return [Entry.of(message) for message in said]


def tree_of(said: list[Entry]) -> Tree:
    return build_tree("ann", 7, ANN, "completed", said, {"calls": 1})


CONVERSATION = whole_conversation(3)


@given(st.permutations(CONVERSATION))
@settings(max_examples=100)
def test_the_order_in_which_things_were_said_does_not_matter(said: list[Entry]) -> None:
    assert tree_of(said).to_json() == tree_of(CONVERSATION).to_json()


def test_a_tree_holds_all_that_was_said_where_it_was_said() -> None:
    tree = tree_of(CONVERSATION)
    assert len(tree.turns) == 7
    turn = tree.turns[2]
    assert (turn.path, turn.turn, turn.user) == (("preferred", "preferred"), 3, "user preferred-preferred")
    assert turn.revealed == {"profile": "profile preferred-preferred", "personality": None}
    assert turn.chosen == LABELS
    assert turn.answers == {
        "preferred": Answer("preferred preferred-preferred", {"judge": 3.5, "other": None}, "length"),
        "rejected": Answer("rejected preferred-preferred", {"judge": 3.5}, "length"),
    }
    assert turn.notes == {"Filed": {"preferred": {"verdict": "fine", "where": None}}}
    assert turn.failures == [{"agent": "x", "reason": "stuck", "error": "nobody"}]


def is_depth_first(order: list[NodePath]) -> bool:
    """Every node comes before all below it, which stand together."""
    for at, path in enumerate(order):
        below = [other[: len(path)] == path for other in order]
        last = len(below) - below[::-1].index(True)
        if not all(below[at:last]) or any(below[:at]):
            return False
    return True


@given(st.sets(paths, min_size=1, max_size=12))
def test_nodes_are_ordered_depth_first(nodes: set[NodePath]) -> None:
    said = [Entry(path, "UserSaid", "", {"text": "x"}) for path in nodes | {path[:-1] for path in nodes}]
    order = [turn.path for turn in tree_of(said).turns]
    assert set(order) == nodes | {path[:-1] for path in nodes} and len(order) == len(set(order))
    assert is_depth_first(order)


def test_a_node_where_the_user_said_nothing_is_no_turn_and_stray_scores_are_dropped() -> None:
    said = [
        Entry((), "UserSaid", "", {"text": "hello"}),
        Entry((), "Scored", "preferred/judge", {"score": 4}),
        Entry(("preferred",), "TurnOpened", "", {}),
        Entry(("preferred",), "Chosen", "", {"labels": ["preferred"]}),
        Entry(("preferred",), "Failed", "x", {"agent": "role_player", "reason": "unparsed", "error": "e"}),
    ]
    assert tree_of(said).turns == [Turn((), "hello")]


def test_the_history_of_a_node_is_what_led_to_it() -> None:
    tree = tree_of(CONVERSATION)
    assert tree.history(()) == []
    assert tree.history(("rejected", "preferred")) == [
        ("user ", "rejected "),
        ("user rejected", "preferred rejected"),
    ]


def test_the_order_in_which_answers_were_put_in_does_not_show() -> None:
    one, other = (
        Tree("ann", 7, ANN, "completed", [Turn((), "hello", answers={label: Answer(label) for label in order})])
        for order in (LABELS, LABELS[::-1])
    )
    assert one.to_json() == other.to_json()


def test_what_json_cannot_hold_is_written_as_its_text() -> None:
    said = Entry.of(Filed(conversation="ann", verdict="x", where=Path("a/b")))
    tree = tree_of([Entry((), "UserSaid", "", {"text": "hello"}), said])
    assert Tree.from_json(tree.to_json()).turns[0].notes == {"Filed": {"": {"verdict": "x", "where": "a/b"}}}


async def test_the_tree_of_a_full_expansion_is_written_as_the_design_has_it(tmp_path: Path) -> None:
    model = ScriptedModel()
    cast: list[Agent] = [RolePlayer(model), Induction(model), Preferred(model), Rejected(model)]
    made: list[Tree] = []
    await Simulation(cast, Full(2), turns=3, seed=7).run([ANN], made.append)
    value = json.loads(made[0].to_json())
    assert list(value) == ["schema", "id", "seed", "status", "persona", "turns", "usage"]
    assert (value["schema"], value["id"], value["seed"], value["status"]) == (1, "ann", 7, "completed")
    assert value["persona"] == {"id": "ann", "profile": ANN.profile, "personality": ANN.personality}
    assert [(turn["path"], turn["turn"]) for turn in value["turns"]] == [
        ([], 1),
        (["preferred"], 2),
        (["preferred", "preferred"], 3),
        (["preferred", "rejected"], 3),
        (["rejected"], 2),
        (["rejected", "preferred"], 3),
        (["rejected", "rejected"], 3),
    ]
    assert all(list(turn) == ["path", "turn", "user", "revealed", "answers", "chosen"] for turn in value["turns"])
    assert [len(turn["chosen"]) for turn in value["turns"]] == [2, 2, 1, 1, 2, 1, 1]
    assert all(list(turn["answers"]) == ["preferred", "rejected"] for turn in value["turns"])
    assert value["usage"]["calls"] == 7 * 4 and value["usage"]["prompt_tokens"] > 0
    (tmp_path / "trees.jsonl").write_bytes(made[0].to_json())
    assert list(read_trees(str(tmp_path / "trees.jsonl"))) == made


# --- what is no tree -------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        del value[name]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("schema"), "not a conversation tree (KeyError: 'schema')"),
        (without("id"), "not a conversation tree (KeyError: 'id')"),
        (without("turns"), "not a conversation tree (KeyError: 'turns')"),
        (lambda value: value.update(schema=2), "schema 2 is not 1"),
        (lambda value: value.update(turns=5), "not a conversation tree (TypeError"),
        (lambda value: value.update(persona={"id": "x"}), "not a conversation tree (the persona's profile is missing)"),
        (lambda value: value["turns"][0].pop("user"), "not a conversation tree (KeyError: 'user')"),
        (lambda value: value["turns"][0].update(answers=[]), "not a conversation tree (AttributeError"),
    ],
)
def test_a_line_that_is_no_tree_is_refused_by_its_number(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    good = tree_of(CONVERSATION).to_json()
    value = orjson.loads(good)
    change(value)
    file = tmp_path / "trees.jsonl"
    file.write_bytes(good + b"\n\n" + orjson.dumps(value) + b"\n")
    reading = read_trees(file)
    assert next(reading) == tree_of(CONVERSATION)
    with pytest.raises(ConfigError) as refused:
        next(reading)
    assert str(refused.value).startswith(f"{file}, line 3: {said}")


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"{}x"])
def test_a_line_that_is_no_object_is_refused_by_its_number(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "trees.jsonl"
    file.write_bytes(line)
    with pytest.raises(ConfigError, match="line 1: "):
        list(read_trees(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl cannot be read: No such file"):
        list(read_trees(tmp_path / "nowhere.jsonl"))
