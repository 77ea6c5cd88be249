"""Rows for trainers: the history is what went on, nothing is cut or filled in, and personas stay on one side."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aloe_agents.engine.expansion import Full, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import Expansion
from aloe_agents.errors import ConfigError
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Persona, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.roles import Judge
from aloe_agents.training.rows import FORMS, Filter, Form, Left, pairs, rows
from aloe_agents.training.writing import writer
from aloe_agents.tree import Answer, Tree, Turn, read_trees
from tests.casts import paper_cast
from tests.commands import aloe, one_line
from tests.test_personas import OWN

PEOPLE = sample_personas(read_pool(OWN / "profiles.txt")[0], read_pool(OWN / "personalities.txt")[0], 30, 1)


async def grown(expansion: Expansion, turns: int = 5, count: int = 6) -> list[Tree]:
    model = ScriptedModel()
    simulation = Simulation([*paper_cast(model), Judge(model)], expansion, turns=turns, seed=3)
    return sorted([tree async for tree in simulation.trees(PEOPLE[:count])], key=lambda tree: tree.id)


def formed(trees: list[Tree], form: Form, **chosen: Any) -> list[dict[str, Any]]:
    return [row for _, row in rows(trees, form, Filter(**chosen))]


async def test_a_turn_is_a_row_under_the_history_that_went_on() -> None:
    trees = await grown(RandomPath())
    made = iter(formed(trees, "dpo"))
    for tree in trees:
        history: list[dict[str, str]] = []
        for turn in tree.turns:
            row = next(made)
            assert row["prompt"] == [*history, {"role": "user", "content": turn.user}]
            assert row["chosen"] == [{"role": "assistant", "content": turn.answers["preferred"].text}]
            assert row["rejected"] == [{"role": "assistant", "content": turn.answers["rejected"].text}]
            assert (row["turn"], row["id"]) == (turn.turn, "/".join([tree.id, *turn.path]) + f"#{turn.turn}")
            (chosen,) = turn.chosen
            history += [{"role": "user", "content": turn.user}]
            history += [{"role": "assistant", "content": turn.answers[chosen].text}]
    assert next(made, None) is None


async def test_every_branch_has_the_history_of_its_own_path() -> None:
    (tree,) = await grown(Full(2), 3, 1)
    made = {row["id"]: row for row in formed([tree], "sft")}
    assert len(made) == len(tree.turns) == 7
    nodes = {turn.path: turn for turn in tree.turns}
    row = made[f"{tree.id}/rejected/preferred#3"]
    said = [message["content"] for message in row["prompt"]]
    assert said == [
        nodes[()].user, nodes[()].answers["rejected"].text, nodes[("rejected",)].user,
        nodes[("rejected",)].answers["preferred"].text, nodes[("rejected", "preferred")].user,
    ]  # fmt: skip


async def test_conversations_are_told_apart_whatever_their_people_are_called() -> None:
    (grown_one,) = await grown(RandomPath(), 2, 1)
    trees = [replace(grown_one, id=id) for id in ("train/1", "train/2", "u#3")]
    assert [row["conversation"] for row in formed(trees, "sft")] == ["train/1"] * 2 + ["train/2"] * 2 + ["u#3"] * 2


async def test_the_four_forms_hold_what_trl_wants() -> None:
    trees = await grown(RandomPath(), 2, 1)
    sft, rejected, dpo, kto = (formed(trees, form) for form in FORMS)
    assert [row["completion"] for row in sft] == [row["chosen"] for row in dpo]
    assert [row["completion"] for row in rejected] == [row["rejected"] for row in dpo]
    assert [(row["label"], row["completion"]) for row in kto[:2]] == [
        (True, dpo[0]["chosen"]),
        (False, dpo[0]["rejected"]),
    ]
    assert len(kto) == 2 * len(dpo) == 4


def tree(*turns: tuple[str | None, str | None], scores: tuple[float | None, float | None] = (None, None)) -> Tree:
    """A tree whose preferred answers go on, with these answers; None is a gap."""
    made = []
    for n, texts in enumerate(turns):
        answers = {
            label: Answer(text, {} if score is None else {"judge": score})
            for label, text, score in zip(("preferred", "rejected"), texts, scores, strict=True)
            if text is not None
        }
        made.append(Turn(path=("preferred",) * n, user=f"u{n}", answers=answers, chosen=("preferred",)))
    return Tree(id="t", seed=0, persona=Persona(id="t", profile="p", personality="q"), status="failed", turns=made)


@pytest.mark.parametrize(
    ("form", "turns", "count", "why"),
    [
        ("dpo", [("a", "b"), ("c", None)], 1, {"no rejected answer": 1}),
        ("sft", [("a", "b"), ("c", None)], 2, {}),
        ("sft-rejected", [("a", "b"), ("c", None)], 1, {"no rejected answer": 1}),
        ("kto", [("a", "b"), ("c", None)], 3, {}),
        ("dpo", [("a", "a"), (" ", "b"), ("c", "d")], 1, {"equal answers": 1, "empty preferred answer": 1}),
        ("kto", [("a", "a "), (" ", "b")], 1, {"equal answers": 1}),
        ("sft", [("a", "a")], 1, {}),
        ("kto", [(None, None)], 0, {"no answer": 1}),
        ("sft", [(None, "b"), ("c", "d")], 0, {"no preferred answer": 1}),
    ],
)
def test_what_cannot_be_a_row_is_counted(
    form: Form, turns: list[tuple[str | None, str | None]], count: int, why: dict[str, int]
) -> None:
    left = Left()
    assert len(list(rows([tree(*turns)], form, left=left))) == left.rows == count
    assert left.out == why


def test_a_margin_counts_where_a_judge_scored_both() -> None:
    close, wide, unscored = (tree(("a", "b"), scores=scores) for scores in ((3, 3), (5, 2), (4, None)))
    assert [len(formed([one], "dpo", min_margin=1)) for one in (close, wide)] == [0, 1]
    assert len(formed([wide, unscored], "dpo", min_margin=1)) == 2
    with pytest.raises(ConfigError, match="scores of both answers, which --min-margin asks for; aloe judge DIR"):
        formed([unscored], "dpo", min_margin=1)
    assert formed([wide], "dpo")[0]["margin"] == 3
    twice = tree(("a", "b"), scores=(5, 2))
    twice.turns[0].answers["preferred"].scores["other"] = 1
    twice.turns[0].answers["rejected"].scores["other"] = 4
    with pytest.raises(ConfigError, match="have scores of judge, other; name one with --judge"):
        list(pairs(twice))
    assert next(pairs(twice, "other")).margin == -3


async def test_a_persona_is_on_one_side_and_capped_as_a_whole() -> None:
    trees = await grown(RandomPath(), 4, 30)
    left = Left()
    split = list(rows(trees, "dpo", Filter(validation=0.3, seed=2), left=left))
    sides = {aside: {row["persona"] for which, row in split if which is aside} for aside in (True, False)}
    assert sides[True] and sides[False] and not sides[True] & sides[False]
    assert left.rows == 120 and left.validation == 4 * len(sides[True]) and 4 <= len(sides[True]) <= 15
    twins = [*trees, *(Tree(f"{t.id}-again", t.seed, t.persona, t.status, t.turns, t.usage) for t in trees)]
    capped = formed(twins, "dpo", per_persona=3, seed=5)
    assert set(Counter(row["persona"] for row in capped).values()) == {3}
    assert capped == formed(twins, "dpo", per_persona=3, seed=5) != formed(twins, "dpo", per_persona=3, seed=6)


def test_parquet_holds_the_same_rows_or_says_what_it_needs(tmp_path: Path) -> None:
    made = formed([tree(*[("a", "b")] * 3, scores=(5, 2))], "dpo")
    try:
        import pyarrow.parquet
    except ImportError:
        with pytest.raises(ConfigError, match="needs pyarrow; install it"), writer(tmp_path / "rows.parquet"):
            pass
        assert not list(tmp_path.iterdir())
        return
    with writer(tmp_path / "rows.parquet") as write:
        for row in made:
            write(row)
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rows")
    pools = f"--profiles {OWN}/profiles.txt --personalities {OWN}/personalities.txt"
    assert aloe(f"simulate {pools} --count 20 --turns 3 --out run --plain", place).returncode == 0
    return place / "run"


def test_the_command_writes_splits_and_a_card(run: Path, tmp_path: Path) -> None:
    done = aloe(f"export {run} --to dpo --validation 0.25 --out rows", tmp_path)
    assert done.returncode == 0, done.stderr
    sides = {name: [json.loads(line) for line in (tmp_path / f"rows/{name}.jsonl").read_text().splitlines()]
             for name in ("train", "validation")}  # fmt: skip
    assert len(sides["train"]) + len(sides["validation"]) == 60 and sides["validation"]
    assert f"{len(sides['train'])} rows in rows/train.jsonl" in done.stdout
    text = (tmp_path / "rows/README.md").read_text()
    assert "path: validation.jsonl" in text and "25% of the personas set aside (seed 0)" in text
    assert aloe(f"export {run} --to kto --out k.jsonl", tmp_path).returncode == 0
    assert len((tmp_path / "k.jsonl").read_text().splitlines()) == 120
    assert aloe(f"judge {run} --judge scripted", tmp_path).returncode == 0
    done = aloe(f"export {run}/judged/scripted --to dpo --min-margin 3 --out m.jsonl", tmp_path)
    assert done.returncode == 0 and "margin too small" in done.stdout
    assert len(list(read_trees(run / "judged/scripted/trees.jsonl"))) == 20


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("export {run} --to dpo --min-margin 9 --out x", "no turn has scores of both answers, which --min-margin asks"),
        (
            "export {run} --to sft --judge nobody --out x",
            "scores of both answers by the judge 'nobody', which --judge asks",
        ),
        ("export {run} --to aloe --min-margin 1 --validation 0.1 --out x", "takes no --min-margin, --validation"),
        (
            "export {run} --to sft --out x.csv",
            "x.csv: rows are written to .jsonl or .parquet files, or into a directory",
        ),
        ("export nowhere --to sft --out x", "holds no run"),
        ("export {run} --to csv --out x", "'csv' is not one of"),
        ("export {run} --to sft --validation 1 --out x", "1.0 is not in the range"),
        ("export {run} --to sft --validation 0.0001 --out x", "--validation 0.0001 set no persona aside"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(run: Path, tmp_path: Path, command: str, said: str) -> None:
    assert said in one_line(aloe(command.format(run=run), tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_without_rows_is_refused_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    made = tree(("a", None), ("b", None))
    (tmp_path / "run/trees.jsonl").write_bytes(made.to_json() + b"\n")
    assert "run has no row for dpo: 2 no rejected answer" in one_line(aloe("export run --to dpo --out x", tmp_path))
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())
