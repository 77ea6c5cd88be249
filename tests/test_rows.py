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
from aloe_agents.messages import NodePath
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Exchange, Persona, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.roles import Judge
from aloe_agents.training.rows import FORMS, PAPER, Filter, Form, Labels, Left, Row, rows, samples
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


def formed(trees: list[Tree], form: Form, labels: Labels = PAPER, **chosen: Any) -> list[dict[str, Any]]:
    return [{**row} for _, row in rows(trees, form, Filter(**chosen), labels=labels)]


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


async def test_the_forms_hold_what_trl_wants() -> None:
    trees = await grown(RandomPath(), 2, 1)
    sft, dpo, kto = (formed(trees, form) for form in FORMS)
    rejected = formed(trees, "sft", Labels(("rejected",)))
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


def labelled(*turns: dict[str, str], extra: dict[str, object] | None = None) -> Tree:
    """A tree with these answers by label; the first of each turn goes on."""
    made: list[Turn] = []
    path: NodePath = ()
    persona = Persona(id="t", profile="p", personality="q", extra=extra or {}, opening=(Exchange("hi", "hello"),))
    for n, texts in enumerate(turns):
        onward = next(iter(texts))
        made.append(Turn(path, f"u{n}", None, {label: Answer(text) for label, text in texts.items()}, (onward,)))
        path = (*path, onward)
    return Tree("t", 0, persona, "completed", made)


def test_any_label_can_be_learned() -> None:
    three = labelled({"preferred": "a", "rejected": "b", "neutral": "c"})
    (row,) = formed([three], "sft", Labels(("neutral",)))
    assert row["completion"] == [{"role": "assistant", "content": "c"}]
    (row,) = formed([three], "dpo", Labels(("neutral",), "rejected"))
    assert [row[side][0]["content"] for side in ("chosen", "rejected")] == ["c", "b"]
    for chosen in (("preferred",), ("neutral", "preferred")):
        made = formed([three], "kto", Labels(chosen))
        said = {row["completion"][0]["content"]: row["label"] for row in made}
        assert said == {"a": True, "b": False, "c": "neutral" in chosen}
    alike = labelled({"preferred": "a", "rejected": "b", "neutral": "b"})
    assert len(formed([alike], "kto")) == 3 and not formed([alike], "kto", Labels(("neutral",)))
    with pytest.raises(
        ConfigError, match="chosen is teacher, but the answers are labelled neutral, preferred, rejected"
    ):
        formed([three], "kto", Labels(("teacher",)))
    with pytest.raises(ConfigError, match="chosen must be one label for sft, not a, b"):
        rows([three], "sft", labels=Labels(("a", "b")))


def test_a_cast_of_one_answer_and_a_persona_with_more_fields_give_rows() -> None:
    made = formed([labelled({"teacher": "a"}, {"teacher": "b"}, extra={"mood": "low"})], "sft", Labels(("teacher",)))
    assert [row["completion"][0]["content"] for row in made] == ["a", "b"]
    assert [message["content"] for message in made[1]["prompt"]] == ["hi", "hello", "u0", "a", "u1"], "opening first"
    assert [row["extra"] for row in made] == [{"mood": "low"}] * 2
    assert "extra" not in formed([labelled({"teacher": "a"})], "sft", Labels(("teacher",)))[0]


def test_filters_that_would_give_nothing_in_silence_are_refused() -> None:
    trees = [labelled({"preferred": "a", "rejected": "b"})]
    with pytest.raises(ConfigError, match="per_persona goes through the trees twice, and an iterator gives them once"):
        rows(iter(trees), "sft", Filter(per_persona=2))
    assert len(list(rows(iter(trees), "sft"))) == len(list(rows(trees, "sft", Filter(per_persona=2)))) == 1
    for wrong, said in (
        ({"per_persona": 0}, "per_persona must be at least 1, not 0"),
        ({"validation": 1.0}, "validation must be at least 0 and less than 1, not 1"),
        ({"validation": -0.1}, "validation must be at least 0 and less than 1, not -0.1"),
        ({"min_margin": float("nan")}, "min_margin must be a number, not nan"),
    ):
        with pytest.raises(ConfigError, match=said):
            Filter(**wrong)


def test_a_margin_counts_where_a_judge_scored_both() -> None:
    close, wide, unscored = (tree(("a", "b"), scores=scores) for scores in ((3, 3), (5, 2), (4, None)))
    assert [len(formed([one], "dpo", min_margin=1)) for one in (close, wide)] == [0, 1]
    assert len(formed([wide, unscored], "dpo", min_margin=1)) == 2
    with pytest.raises(
        ConfigError, match="min_margin needs scores, but no turn has scores of both answers; aloe judge DIR"
    ):
        formed([unscored], "dpo", min_margin=1)
    assert formed([wide], "dpo")[0]["margin"] == 3
    twice = tree(("a", "b"), scores=(5, 2))
    twice.turns[0].answers["preferred"].scores["other"] = 1
    twice.turns[0].answers["rejected"].scores["other"] = 4
    (sample,) = samples(twice)
    with pytest.raises(ConfigError, match="judge must be one of judge, other: the answers of t have scores of each"):
        sample.margin("dpo", PAPER)
    assert sample.margin("dpo", PAPER, "other") == -3 and sample.margin("sft", Labels(("rejected",)), "other") == 3


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
    made = [row for _, row in rows([tree(*[("a", "b")] * 3, scores=(5, 2))], "dpo")]
    try:
        import pyarrow.parquet
    except ImportError:
        with (
            pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'aloe-agents\[parquet\]'"),
            writer(tmp_path / "rows.parquet"),
        ):
            pass
        assert not list(tmp_path.iterdir())
        return
    with writer(tmp_path / "rows.parquet") as write:
        for row in made:
            write(row)
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == [{**row, "extra": None} for row in made]
    with_extra: list[Row] = [{**row, "extra": {"mood": "low", "age": 41}} if n else row for n, row in enumerate(made)]
    with writer(tmp_path / "extra.parquet") as write:
        for row in with_extra:
            write(row)
    read = pyarrow.parquet.read_table(tmp_path / "extra.parquet").to_pylist()
    assert [row["extra"] for row in read] == [None, *['{"mood":"low","age":41}'] * 2]


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
    assert aloe(f"export {run} --to sft --label rejected --out r.jsonl", tmp_path).returncode == 0
    (first, *_), answers = read_trees(run / "trees.jsonl"), (tmp_path / "r.jsonl").read_text().splitlines()
    assert len(answers) == 60
    assert json.loads(answers[0])["completion"][0]["content"] == first.turns[0].answers["rejected"].text
    assert aloe(f"judge {run} --judge scripted", tmp_path).returncode == 0
    done = aloe(f"export {run}/judged/scripted --to dpo --min-margin 3 --out m.jsonl", tmp_path)
    assert done.returncode == 0 and "margin too small" in done.stdout
    assert len(list(read_trees(run / "judged/scripted/trees.jsonl"))) == 20


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "export {run} --to dpo --min-margin 9 --out x",
            "--min-margin needs scores, but no turn has scores of both answers; aloe judge DIR",
        ),
        (
            "export {run} --to sft --judge nobody --out x",
            "--judge needs scores, but no turn has scores of both answers by the judge 'nobody'",
        ),
        ("export {run} --to aloe --min-margin 1 --validation 0.1 --out x", "does not take --min-margin, --validation"),
        (
            "export {run} --to sft --out x.csv",
            "x.csv: rows are written to .jsonl or .parquet files, or into a directory",
        ),
        (
            "export {run} --to sft --label neutral --out x",
            "--chosen is neutral, but the answers are labelled preferred, rej",
        ),
        (
            "export {run} --to dpo --chosen rejected --out x",
            "--rejected must differ from chosen, but both are 'rejected'",
        ),
        ("export {run} --to dpo --chosen a --chosen b --out x", "--chosen must be one label for dpo, not a, b"),
        ("export {run} --to kto --rejected preferred --out x", "--rejected is for dpo: kto does not use it"),
        ("export {run} --to aloe --label neutral --out x", "does not take --chosen"),
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
