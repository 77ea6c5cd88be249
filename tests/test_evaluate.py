"""``aloe evaluate``, ``compare``, ``judge`` and ``annotate`` as users run them, with the scripted user and judge."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from aloe_agents.config import EVALUATION_ROLES, load_config
from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.benchmark import benchmark
from aloe_agents.evaluation.comparison import compare
from aloe_agents.evaluation.results import read_results
from aloe_agents.models.scripted.server import make_app, serve
from aloe_agents.pools.items import read_pool
from aloe_agents.runners.candidates import NOWHERE, Model, was_done, with_candidate
from aloe_agents.runners.evaluate import evaluate
from aloe_agents.tree import read_trees
from tests.commands import ALOE, aloe, one_line
from tests.test_personas import OWN
from tests.test_resume import Counting

BOTH = "--model scripted-adaptive --model scripted-generic"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two scripted candidates evaluated on the package's 100 cases, ten turns."""
    place = tmp_path_factory.mktemp("evaluated")
    done = aloe(f"evaluate {BOTH} --out ev --plain", place)
    assert done.returncode == 0, done.stderr
    (place / "printed.txt").write_text(done.stdout)
    return place


def body(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "results.json").read_text())
    return found


def timeless(place: Path) -> dict[str, Any]:
    return {name: value for name, value in body(place).items() if name != "times"}


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_the_packages_cases_are_twenty_profiles_with_five_personalities_unlike_the_seeds() -> None:
    cases = benchmark()
    assert len(cases) == len({(p.profile, p.personality) for p in cases}) == 100
    assert (len({p.profile for p in cases}), len({p.personality for p in cases})) == (20, 5)
    assert not {p.profile for p in cases} & {*read_pool(OWN / "profiles.txt")[0]}
    assert not {p.personality for p in cases} & {*read_pool(OWN / "personalities.txt")[0]}
    assert len({p.profile for p in cases[:20]}) == 20, "the first cases differ in profile, for who takes only some"


def test_an_adaptive_and_a_generic_candidate_are_told_apart_and_the_same_figures_come_twice(
    evaluated: Path, tmp_path: Path
) -> None:
    adaptive, generic = (body(evaluated / f"ev/scripted-{name}")["judges"]["judge"] for name in ("adaptive", "generic"))
    assert adaptive["average"]["value"] > generic["average"]["value"] + 2
    assert adaptive["ir"]["low"] > 0 and generic["ir"]["low"] <= 0 <= generic["ir"]["high"]
    found = compare([read_results(evaluated / f"ev/scripted-{name}") for name in ("generic", "adaptive")])
    apart = found.rows[1].against
    assert apart["average"].p < 0.01 and apart["average"].low > 2 and apart["ir"].p < 0.01 and apart["ir"].low > 0.15
    assert aloe(f"evaluate {BOTH} --out again --plain", tmp_path).returncode == 0
    for name in ("adaptive", "generic"):
        assert timeless(tmp_path / f"again/scripted-{name}") == timeless(evaluated / f"ev/scripted-{name}")


def test_results_hold_every_score_and_all_that_repeats_them(evaluated: Path) -> None:
    found = body(evaluated / "ev/scripted-adaptive")
    assert len(found["per_case"]) == 100 and all(len(case["scores"]["judge"]) == 10 for case in found["per_case"])
    by_turn = [case["scores"]["judge"][3] for case in found["per_case"]]
    assert found["judges"]["judge"]["al"][3]["value"] == pytest.approx(sum(by_turn) / 100, abs=1e-6)
    assert found["judges"]["judge"]["al"][3]["scores"] == 100 and found["judges"]["judge"]["missing"] == 0
    assert len({case["cluster"] for case in found["per_case"]}) == 20
    assert found["cases"] == {**found["cases"], "count": 100, "source": "the package's benchmark"}
    assert found["turns"] == 10 and found["settings"]["model of candidate"] == "scripted-adaptive"
    assert found["accounting"]["completed"] == 100 and found["accounting"]["calls"] == 3000
    assert found["judged_by"]["judge"]["model"] == "scripted" and "python" in found["versions"]


def test_a_table_is_printed_with_marks_and_intervals(evaluated: Path) -> None:
    printed = (evaluated / "printed.txt").read_text()
    assert re.search(r"k=10 +average +IR +N-IR +R² +N-R²", printed)
    assert re.search(r"scripted-generic .*1\.00\*\* +0\.000\*\*", printed)
    assert "nan" in printed and "paired bootstrap" in printed
    assert re.search(r"scripted-adaptive +\[4\.\d\d, 4\.\d\d\] +\[0\.\d{3}, 0\.\d{3}\]", printed)


async def test_interrupted_and_resumed_it_gives_the_same_results(tmp_path: Path) -> None:
    counting = Counting()
    async with serve(make_app(latency=0.02, on_request=counting)) as url:
        (tmp_path / "aloe.toml").write_text(
            f'[endpoints.local]\nbase_url = "{url}"\nmodel = "scripted"\ncapacity = 8\n'
            "[roles]\nrole_player.endpoint = 'local'\njudge.endpoint = 'local'\n"
        )
        command = "evaluate aloe.toml --model local --count 12 --turns 4 --plain --out"
        assert (await asyncio.to_thread(aloe, f"{command} whole", tmp_path)).returncode == 0
        counting.seen.clear()
        for number in (signal.SIGINT, signal.SIGKILL):
            process = await asyncio.create_subprocess_exec(
                *ALOE, *command.split(), "cut", cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL
            )
            await counting.reach(counting.total + 40)
            process.send_signal(number)
            assert await process.wait() == (130 if number is signal.SIGINT else -signal.SIGKILL)
            assert not (tmp_path / "cut/results.json").exists()
        assert (await asyncio.to_thread(aloe, f"{command} cut", tmp_path)).returncode == 0
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    assert sum(count > 1 for count in counting.seen.values()) <= 8


def test_a_file_without_endpoints_and_roles_leaves_all_to_the_scripted_model(tmp_path: Path) -> None:
    (tmp_path / "aloe.toml").write_text("[run]\nturns = 2\n")
    done = aloe("evaluate aloe.toml --model scripted-adaptive --count 2 --plain --out ev", tmp_path)
    assert done.returncode == 0 and body(tmp_path / "ev")["turns"] == 2, done.stderr


def test_without_a_configuration_an_endpoint_can_be_given_for_one_role(tmp_path: Path) -> None:
    given = (
        "--judge big --set endpoints.big.base_url=http://127.0.0.1:9/v1 --set endpoints.big.model=m --system nowhere.md"
    )
    said = one_line(aloe(f"evaluate --model scripted-adaptive {given} --out ev", tmp_path))
    assert "nowhere.md cannot be read" in said, "and not that the user has no endpoint"


def test_answers_have_at_most_512_tokens_unless_something_else_is_said() -> None:
    model = Model("scripted", "scripted")
    for given, length in (
        ({}, 512),
        ({"temperature": 0}, 512),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 9}, None),
    ):
        roles = {"roles.candidate.endpoint": "scripted", "roles.candidate.sampling": given}
        found = with_candidate(load_config(None, roles, EVALUATION_ROLES), model, NOWHERE).roles["candidate"].sampling
        assert found == ({**given, "max_tokens": length} if length else given)


def test_an_evaluation_is_over_where_it_was_this_one(tmp_path: Path) -> None:
    cases = benchmark()[:2]
    for turns in (2, 3):
        roles = {f"roles.{role}.endpoint": "scripted" for role in (*EVALUATION_ROLES, "candidate")}
        config = load_config(None, {"run.turns": turns, **roles}, EVALUATION_ROLES)
        if turns == 2:
            evaluate(config, Model("scripted", "scripted"), cases, tmp_path / "ev", source="two", quiet=True)
        found = with_candidate(config, Model("scripted", "scripted"), NOWHERE)
        assert was_done(found, cases, tmp_path / "ev") is (turns == 2), "a model would have to be served to go on"


def test_whoever_says_scored_is_a_judge(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from aloe_agents import Answered, Scene, Scored\n"
        "class Strict:\n"
        "    name, hears = 'strict', (Answered,)\n"
        "    async def respond(self, heard: Answered, scene: Scene) -> Scored:\n"
        "        return Scored.of(heard, judge=self.name, score=1)\n"
        "from aloe_agents.roles import Judge\n"
        "class Mild(Judge):\n"
        "    name = 'mild'\n"
    )
    (tmp_path / "aloe.toml").write_text(
        "[roles]\nrole_player.endpoint = 'scripted'\njudge.endpoint = 'scripted'\n"
        "[roles.style]\nclass = 'aloe_agents.roles:Judge'\nendpoint = 'scripted'\n"
        "[roles.third]\nclass = 'own:Strict'\n"
        "[roles.fourth]\nclass = 'own:Mild'\nendpoint = 'scripted'\n"
    )
    done = aloe("evaluate aloe.toml --model scripted-adaptive --count 2 --turns 2 --plain --out ev", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "ev/results.json").read_text())
    assert list(results["judges"]) == ["mean", "judge", "style", "strict", "fourth"]
    assert list(results["judged_by"]) == ["judge", "style", "strict", "fourth"]
    assert not any(figures["missing"] for figures in results["judges"].values())
    assert results["judges"]["strict"]["average"]["value"] == 1
    assert results["judges"]["style"]["average"] == results["judges"]["judge"]["average"]
    assert results["judged_by"]["strict"]["class"].startswith("own:Strict (source ")
    assert results["judged_by"]["style"]["class"] == "built in"


async def test_a_panel_gives_each_judges_scores_and_their_mean_and_missing_ones_are_counted(tmp_path: Path) -> None:
    async with serve(make_app()) as url, serve(make_app(max_model_len=387)) as narrow:
        (tmp_path / "aloe.toml").write_text(
            f'[endpoints.wide]\nbase_url = "{url}"\nmodel = "scripted"\n'
            f'[endpoints.narrow]\nbase_url = "{narrow}"\nmodel = "scripted"\n'
            "[roles]\nrole_player.endpoint = 'wide'\njudge.endpoint = 'wide'\n"
        )
        command = (
            "evaluate aloe.toml --model scripted-adaptive --judge wide --judge narrow --count 10 --turns 4 --plain"
        )
        done = await asyncio.to_thread(aloe, f"{command} --out panel", tmp_path)
        one = "evaluate aloe.toml --model scripted-adaptive --expected --count 10 --turns 4 --plain --out expected"
        assert (await asyncio.to_thread(aloe, one, tmp_path)).returncode == 0
    assert done.returncode == 0, done.stderr
    found = body(tmp_path / "panel")
    assert list(found["judges"]) == ["mean", "judge-wide", "judge-narrow"]
    missing = found["judges"]["judge-narrow"]["missing"]
    assert 0 < missing < 40 and found["judges"]["judge-wide"]["missing"] == 0
    assert found["judges"]["mean"]["missing"] == missing and f"{missing} of 40 scores are missing" in done.stdout
    rows = [case["scores"] for case in found["per_case"]]
    assert all((row["mean"][k] is None) == (row["judge-narrow"][k] is None) for row in rows for k in range(4))
    assert sum(al["scores"] for al in found["judges"]["judge-narrow"]["al"]) == 40 - missing
    scores = [score for case in body(tmp_path / "expected")["per_case"] for score in case["scores"]["judge"]]
    assert any(score != int(score) for score in scores)


async def test_a_case_that_fails_leaves_its_scores_missing_and_the_others_whole(tmp_path: Path) -> None:
    async with serve(make_app(max_model_len=120)) as url:
        (tmp_path / "aloe.toml").write_text(
            f'[endpoints.short]\nbase_url = "{url}"\nmodel = "scripted"\n'
            "[roles]\nrole_player.endpoint = 'scripted'\njudge.endpoint = 'scripted'\n"
        )
        command = (
            "evaluate aloe.toml --model short --count 6 --turns 6 --plain --set roles.candidate.sampling.max_tokens=30"
        )
        fails = await asyncio.to_thread(aloe, f"{command} --overflow fail --out fail", tmp_path)
        cuts = await asyncio.to_thread(aloe, f"{command} --out cut", tmp_path)
    assert fails.returncode == 1 and cuts.returncode == 0, cuts.stderr
    found = body(tmp_path / "fail")
    assert found["accounting"]["failed"] == {"context-overflow": 6} and found["judges"]["judge"]["missing"] > 6
    assert found["judges"]["judge"]["al"][0]["scores"] == 6
    assert (
        body(tmp_path / "cut")["turns_with_cut_history"] > 6
        and body(tmp_path / "cut")["judges"]["judge"]["missing"] == 0
    )


# --- compare ---------------------------------------------------------------------------------------------------------


def test_tables_are_written_in_three_forms_and_curves_in_two(evaluated: Path, tmp_path: Path) -> None:
    plots = "--out c.svg --out c.png" if importlib.util.find_spec("matplotlib") else ""
    done = aloe(
        f"compare {evaluated}/ev --baseline scripted-generic --out t.md --out t.tex --out t.csv {plots}", tmp_path
    )
    assert done.returncode == 0, done.stderr
    markdown = (tmp_path / "t.md").read_text().splitlines()
    assert len({line.count("|") for line in markdown}) == 1 and len(markdown) == 6
    assert markdown[4].startswith("| scripted-generic | 1.00 |") and "**" in markdown[2] and "**" not in markdown[4]
    latex = (tmp_path / "t.tex").read_text()
    assert latex.count("\\\\") == 5 and "$^{**}$" in latex and "\\toprule" in latex
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [row["model"] for row in rows] == ["scripted-adaptive", "scripted-generic"]
    assert float(rows[0]["average_p"]) < 0.01 and rows[1]["average_p"] == "" and rows[1]["r2"] == ""
    assert float(rows[0]["ir_low"]) < float(rows[0]["ir"]) < float(rows[0]["ir_high"])
    if plots:
        assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG" and "</svg>" in (tmp_path / "c.svg").read_text()


def test_without_matplotlib_curves_are_refused_in_one_line(evaluated: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    done = aloe(f"compare {evaluated}/ev --out c.png", tmp_path, {"PYTHONPATH": f"{tmp_path}:{OWN.parents[1]}"})
    assert "pip install 'aloe-agents[plot]'" in one_line(done)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("other")
    assert aloe("evaluate --model scripted-generic --count 30 --turns 5 --out ev --plain", place).returncode == 0
    return place / "ev"


def test_evaluations_of_other_cases_are_refused_and_compared_in_what_they_share_on_request(
    evaluated: Path, other: Path, tmp_path: Path
) -> None:
    command = f"compare {evaluated}/ev/scripted-adaptive {other}"
    said = one_line(aloe(command, tmp_path))
    assert "different cases (70 only in the first, 0 only in the second)" in said and "10 and 5 turns" in said
    assert "--force compares what they share" in said
    done = aloe(f"{command} --force", tmp_path)
    assert done.returncode == 0 and "30 cases" in done.stdout and "k=5" in done.stdout and "k=6" not in done.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare nowhere", "nowhere is not a finished evaluation: it has no results.json"),
        ("compare {ev} --judge nobody", "has no scores by a judge 'nobody'; it has judge"),
        ("compare {ev} --baseline gpt", "there is no evaluation of 'gpt' among scripted-adaptive, scripted-generic"),
        ("compare {ev} --out t.doc", "a table ends in .md, .csv, .tex"),
        (
            "evaluate --model nowhere --out x",
            "neither a directory nor an endpoint (there are scripted, scripted-generic",
        ),
        ("evaluate --model {place} --out x", "holds no model: there is neither a config.json"),
        ("evaluate --model scripted-generic --model scripted-generic --out x", "a model is given twice"),
        ("evaluate --model scripted-generic --cases nowhere.jsonl --out x", "nowhere.jsonl cannot be read"),
        ("evaluate --model scripted-generic --judge nobody --out x", "'nobody', which does not exist"),
        ("evaluate --model scripted-generic --judge scripted --judge no --out x", "the judge 'no' is not an endpoint"),
        ("evaluate --model scripted-generic --out {ev}/scripted-adaptive", "holds another run: model of candidate is"),
        ("judge nowhere --judge scripted", "nowhere is not a finished run: it has no trees.jsonl"),
        ("judge {ev}/scripted-generic --judge big", "uses the endpoint 'big', which does not exist"),
        (
            "judge {ev}/scripted-generic --judge scripted --name judge",
            "has scores by a judge 'judge' already; give this one another name",
        ),
        ("judge {ev}/scripted-generic --judge scripted --name a/b", "a judge cannot be called 'a/b'"),
        (
            "annotate sample {ev}/scripted-generic --per-turn 101 --out s.csv",
            "cannot draw 101 answers from turn 1: it has 100 answers labelled 'candidate'",
        ),
        ("annotate sample {ev}/scripted-generic --label preferred --out s.csv", "0 answers labelled 'preferred'"),
        ("annotate agree {ev}/scripted-generic nowhere.csv", "nowhere.csv cannot be read"),
        ("annotate agree {ev}/scripted-generic nowhere.csv --judge x", "has no scores by 'x'; it has judge"),
        ("serve {place}", "holds no model"),
        ("serve nowhere", "'nowhere' is neither a directory nor scripted"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(evaluated: Path, tmp_path: Path, command: str, said: str) -> None:
    assert said in one_line(aloe(command.format(ev=evaluated / "ev", place=tmp_path), tmp_path))
    assert not list(tmp_path.iterdir())


# --- judged again ----------------------------------------------------------------------------------------------------


def test_a_run_is_judged_again_without_anything_being_generated(evaluated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert aloe("evaluate --model scripted-adaptive --count 8 --turns 3 --out run --plain", tmp_path).returncode == 0
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    (tmp_path / "harsh.md").write_text(
        "## system\n<profile>{profile}</profile><personality></personality>\n## user\n{message}<answer>{answer}</answer>\n"
        "## again\nOne digit.\n"
    )
    done = aloe("judge run --judge scripted --name harsh --prompt harsh.md --passes 2", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 trees, 24 answers" in done.stdout and "2 passes over 24 answers: standard deviation 0.000" in done.stdout
    assert {
        file.name: file.read_bytes() for file in run.iterdir() if file.is_file() and "run.lock" not in file.name
    } == {name: held for name, held in before.items() if name != "run.lock"}
    first, again = read_results(run), read_results(run / "judged/harsh")
    assert again.judges == ["mean", "harsh-1", "harsh-2"] and again.cases == first.cases
    assert again.scores("harsh-1").mean() < first.scores("judge").mean(), "it does not see the style"
    assert (
        again.record.judged_again is not None
        and again.record.judged_again.passes == 2
        and again.record.judged_by["harsh-1"]["prompt"] != first.record.judged_by["judge"]["prompt"]
    )
    (tree, *_) = read_trees(run / "judged/harsh/trees.jsonl")
    assert set(tree.turns[0].answers["candidate"].scores) == {"judge", "harsh-1", "harsh-2"}
    assert "no judge scored all of them" in one_line(aloe("compare run run/judged/harsh", tmp_path))
    status = json.loads(aloe("status run/judged/harsh --json", tmp_path).stdout)
    assert list(status["roles"]) == ["harsh"] and status["calls"] == 48
    assert "holds another judgement: prompt of judge is" in one_line(
        aloe("judge run --judge scripted --name harsh --passes 2", tmp_path)
    )


def test_trees_for_training_are_judged_too(tmp_path: Path) -> None:
    pools = f"--profiles {OWN}/profiles.txt --personalities {OWN}/personalities.txt"
    assert aloe(f"simulate {pools} --count 6 --turns 3 --out run --plain", tmp_path).returncode == 0
    done = aloe("judge run --judge scripted", tmp_path)
    assert done.returncode == 0, done.stderr
    means = {
        label: float(mean) for label, mean in re.findall(r"(preferred|rejected) +mean ([\d.]+) of 18", done.stdout)
    }
    assert means["preferred"] > means["rejected"] + 1
    trees = list(read_trees(tmp_path / "run/judged/scripted/trees.jsonl"))
    assert all(answer.scores["scripted"] for tree in trees for turn in tree.turns for answer in turn.answers.values())
    assert not (tmp_path / "run/judged/scripted/results.json").exists()


# --- people ----------------------------------------------------------------------------------------------------------


def rows_of(sheet: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"), newline="")))


def fill(sheet: Path, to: Path, scores: dict[str, str]) -> None:
    with to.open("w", newline="") as file:
        rows = rows_of(sheet)
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "score": scores[row["item"]]} for row in rows)


def test_people_score_blind_and_their_agreement_is_told(evaluated: Path, tmp_path: Path) -> None:
    run = evaluated / "ev/scripted-adaptive"
    assert "50 answers" in aloe(f"annotate sample {run} --out sheet.csv", tmp_path).stdout
    rows = rows_of(tmp_path / "sheet.csv")
    assert len(rows) == len({row["item"] for row in rows}) == 50 and all(row["score"] == "" for row in rows)
    assert set(rows[0]) == {"item", "profile", "personality", "message", "answer", "score"}
    nodes = {
        (t.persona.profile, t.persona.personality, n.user): n for t in read_trees(run / "trees.jsonl") for n in t.turns
    }
    drawn = [nodes[row["profile"], row["personality"], row["message"]] for row in rows]
    turns = [node.turn for node in drawn]
    assert sorted(turns) == sorted([*range(1, 11)] * 5) and turns != sorted(turns)
    true = {row["item"]: str(node.answers["candidate"].scores["judge"]) for row, node in zip(rows, drawn, strict=True)}
    fill(tmp_path / "sheet.csv", tmp_path / "ann.csv", true)
    fill(tmp_path / "sheet.csv", tmp_path / "bob.csv", {item: str(max(1, int(s) - 1)) for item, s in true.items()})
    done = aloe(f"annotate agree {run} ann.csv bob.csv", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"judge and ann +50 +1\.000 +1\.000 +100\.0%", done.stdout)
    assert re.search(r"judge and bob +50 +-0\.\d+ +0\.\d+ +\d\.\d%", done.stdout)
    assert re.search(r"ann and bob +50", done.stdout) and "mean" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "the score is missing"),
        ("6", "the score '6' is not a whole number from 1 to 5"),
        ("3.5", "'3.5' is not a whole number from 1 to 5"),
    ],
)
def test_a_row_without_a_usable_score_is_named(evaluated: Path, tmp_path: Path, given: str, said: str) -> None:
    run = evaluated / "ev/scripted-adaptive"
    assert aloe(f"annotate sample {run} --per-turn 1 --out sheet.csv", tmp_path).returncode == 0
    rows = rows_of(tmp_path / "sheet.csv")
    scores = {row["item"]: "3" for row in rows} | {rows[4]["item"]: given}
    fill(tmp_path / "sheet.csv", tmp_path / "ann.csv", scores)
    refused = one_line(aloe(f"annotate agree {run} ann.csv", tmp_path))
    assert refused == f"ann.csv, row 6 (item {rows[4]['item']}): {said}" or (said in refused and "row 6" in refused)


def test_sheets_of_another_run_and_sheets_that_are_none(evaluated: Path, tmp_path: Path) -> None:
    run = evaluated / "ev/scripted-adaptive"
    for text, said in (
        ("a,b\n1,2\n", "has no column 'item'"),
        ("item,score\n", "has no rows"),
        ("item,score\nx,3\nx,4\n", "row 3: the item x occurs twice"),
        ("item,score\n,3\n", "row 2 has no item"),
        ("item,score\nx,3\n", "judge and ann share no item"),
    ):
        (tmp_path / "ann.csv").write_text(text)
        assert said in one_line(aloe(f"annotate agree {run} ann.csv", tmp_path))


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    for text, said in (
        ("{", "not JSON"),
        ("[]", "not an object with a schema"),
        ('{"schema": 1}', "schema 1 was written by another version (this one reads 2); run the evaluation again"),
        ('{"schema": 2, "judges": {"a": 1}, "per_case": [{}]}', "model: field required"),
    ):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"cannot read .*results\.json: {re.escape(said)}"):
            read_results(tmp_path)
