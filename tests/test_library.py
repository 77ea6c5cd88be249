"""The verbs from Python: values come back, nothing is printed, and a recorded run is the command's, byte for byte."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import aloe_agents as aloe
from aloe_agents import roles as aloe_roles
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.messages import Answered, Message
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.records import Accounting
from aloe_agents.runs.settings import agent_settings
from aloe_agents.tree import read_trees
from tests.casts import Digest, full_cast, paper_cast, people
from tests.commands import aloe as command
from tests.commands import held

ROOT = Path(__file__).parents[1]
PEOPLE = people(5)


def model() -> aloe.Endpoint:
    return aloe.Endpoint("scripted", [aloe.ScriptedModel()], aloe.Limits(capacity=8))


async def recorded(out: Path) -> aloe.Run:
    return await aloe.simulate(paper_cast(model()), PEOPLE, out, turns=3, seed=7)


def in_a_thread(verb: Callable[[], Awaitable[aloe.Run]]) -> aloe.Run:
    found: list[aloe.Run] = []

    async def main() -> None:
        found.append(await verb())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(60)
    return found[0]


def test_a_run_is_the_same_from_the_command_a_loop_a_thread_and_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aloe.write_personas(tmp_path / "personas.jsonl", PEOPLE)
    done = command("simulate --personas personas.jsonl --out command --turns 3 --seed 7 --plain", tmp_path)
    assert done.returncode == 0, done.stderr
    expected = (tmp_path / "command" / "trees.jsonl").read_bytes()
    capsys.readouterr()
    asyncio.run(recorded(tmp_path / "run"))

    async def in_a_running_loop() -> aloe.Run:
        return await asyncio.create_task(recorded(tmp_path / "loop"))

    asyncio.run(in_a_running_loop())
    in_a_thread(lambda: recorded(tmp_path / "thread"))
    for place in ("run", "loop", "thread"):
        assert (tmp_path / place / "trees.jsonl").read_bytes() == expected, place
    memory = asyncio.run(aloe.simulate(paper_cast(model()), PEOPLE, turns=3, seed=7))
    assert b"".join(tree.to_json() + b"\n" for tree in memory.trees()) == expected
    assert capsys.readouterr() == ("", "")


def test_the_same_call_resumes_and_asks_nothing_again(tmp_path: Path) -> None:
    first = asyncio.run(recorded(tmp_path / "run"))
    calls, trees = first.accounting.calls, (tmp_path / "run" / "trees.jsonl").read_bytes()
    again = asyncio.run(recorded(tmp_path / "run"))
    assert again.accounting.calls == calls == 5 * 3 * 4
    assert (tmp_path / "run" / "trees.jsonl").read_bytes() == trees
    with pytest.raises(aloe.OtherSettings, match="turns is 3 there and 2 here"):
        asyncio.run(aloe.simulate(paper_cast(model()), PEOPLE, tmp_path / "run", turns=2, seed=7))
    assert (tmp_path / "run" / "trees.jsonl").read_bytes() == trees


def test_a_recorded_call_that_was_killed_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        sys.path.insert(0, {str(ROOT)!r})
        import aloe_agents as aloe
        from tests.casts import paper_cast, people
        model = aloe.Endpoint("scripted", [aloe.ScriptedModel(latency=0.05)], aloe.Limits(capacity=4))
        asyncio.run(aloe.simulate(paper_cast(model), people(5), {str(tmp_path / "killed")!r}, turns=3, seed=7))
        """)
    process = subprocess.Popen([sys.executable, "-c", script])
    journal = tmp_path / "killed" / "journal.sqlite-wal"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 100_000) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)  # until enough is on disk
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (tmp_path / "killed" / "trees.jsonl").exists()
    asyncio.run(recorded(tmp_path / "killed"))
    asyncio.run(recorded(tmp_path / "whole"))
    assert (tmp_path / "killed" / "trees.jsonl").read_bytes() == (tmp_path / "whole" / "trees.jsonl").read_bytes()


def test_a_run_can_be_stopped_and_watched_from_its_opening(tmp_path: Path) -> None:
    runs: list[aloe.Run] = []
    seen: list[Message] = []

    def observe(message: Message, sender: str) -> None:
        seen.append(message)
        if len(seen) == 20:
            runs[0].stop()

    run = asyncio.run(
        aloe.simulate(
            paper_cast(model()), PEOPLE, tmp_path / "run", turns=3, seed=7, observers=[observe], on_open=runs.append
        )
    )
    assert run is runs[0] and run.stopped and run.accounting.pending > 0
    assert run.snapshot().requested == 5 and run.snapshot().turns_expected == 15
    assert not run.accounting.finished
    resumed = asyncio.run(recorded(tmp_path / "run"))
    assert (resumed.accounting.completed, resumed.accounting.pending, resumed.accounting.finished) == (5, 0, True)


def test_a_table_has_one_record_an_answer(tmp_path: Path) -> None:
    persona = aloe.Persona(id="a", profile="She has a cat.", personality="She is shy.", extra={"age": 5})
    run = asyncio.run(aloe.simulate(full_cast(Digest()), [persona], tmp_path / "run", turns=2, seed=7))
    table = run.table()
    assert len(table) == 4 and {row["label"] for row in table} == {"preferred", "rejected"}
    assert [row["turn"] for row in table] == [1, 1, 2, 2] and all(row["persona_age"] == 5 for row in table)
    assert sum(row["chosen"] is True for row in table) == 2
    assert all(isinstance(row["score"], int) for row in table)
    assert table == aloe.Run(tmp_path / "run").table(), "as a reader that entered nothing"


class Broken:
    name, hears = "broken", (Answered,)

    def __init__(self, essential: bool = True) -> None:
        self.essential = essential

    async def respond(self, heard: Answered, scene: aloe.Scene) -> None:
        raise TypeError("unsupported operand: 'NoneType' + 'int'")


@pytest.mark.parametrize("recording", [True, False])
def test_a_role_that_raises_says_why_where_and_how_often(tmp_path: Path, recording: bool) -> None:
    out = tmp_path / "run" if recording else None
    run = asyncio.run(aloe.simulate([*paper_cast(Digest()), Broken()], PEOPLE, out, turns=2, seed=7))
    (failure,) = run.failures()
    assert (failure.reason, failure.count, failure.agent, failure.turn) == ("role-error", 5, "broken", 1)
    assert failure.error == "TypeError: unsupported operand: 'NoneType' + 'int'"
    assert failure.conversation in {persona.id for persona in PEOPLE}
    for tree in run.trees():
        assert tree.failure is not None and tree.failure.error == failure.error and tree.failure.agent == "broken"


@pytest.mark.parametrize("recording", [True, False])
def test_what_an_inessential_role_failed_to_say_is_told_too(tmp_path: Path, recording: bool) -> None:
    out = tmp_path / "run" if recording else None
    run = asyncio.run(aloe.simulate([*paper_cast(Digest()), Broken(essential=False)], PEOPLE, out, turns=2, seed=7))
    assert run.accounting.completed == 5 and not run.failures()
    (gap,) = run.accounting.gaps
    assert (gap.agent, gap.reason, gap.count) == ("broken", "role-error", 5 * 2 * 2)
    assert run.accounting.roles["induction"].calls == 10


@pytest.mark.parametrize("recording", [True, False])
def test_a_failure_about_an_answer_that_was_not_chosen_is_a_gap(tmp_path: Path, recording: bool) -> None:
    class Mute(aloe_roles.Preferred):
        async def respond(self, heard: aloe.PersonaRevealed, scene: aloe.Scene) -> Answered:
            raise ValueError("nothing comes to mind")

    cast = paper_cast(Digest())
    cast[2] = Mute(Digest())
    run = asyncio.run(aloe.simulate(cast, people(12), tmp_path / "run" if recording else None, turns=1, seed=7))
    accounting = run.accounting
    assert 0 < accounting.completed < 12
    assert sum(failure.count for failure in accounting.failures) + sum(gap.count for gap in accounting.gaps) == 12
    assert {record.agent for record in (*accounting.failures, *accounting.gaps)} == {"preferred"}


def test_the_first_failure_of_each_kind_is_in_the_log_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="aloe_agents"):
        asyncio.run(aloe.simulate([*paper_cast(Digest()), Broken()], PEOPLE, tmp_path / "run", turns=2, seed=7))
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("Traceback") == 1 and 'raise TypeError("unsupported operand' in log
    assert len([record for record in caplog.records if getattr(record, "failure", None)]) > 1, "all were offered"


def test_two_personas_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two personas have the id 'p00000'"):
        asyncio.run(aloe.simulate(paper_cast(Digest()), [*PEOPLE, PEOPLE[0]], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


async def test_a_closed_journal_refuses_work(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.claim(seed=0, turns=1, requested=1, settings={}, endpoints={})
    for work in (journal.commit, lambda: journal.query("SELECT 1")):
        with pytest.raises(Fatal, match="is closed"):
            await asyncio.wait_for(work(), 5)
    with pytest.raises(Fatal, match="is closed"):
        journal.post(("SELECT 1", ()))


async def test_a_run_that_cannot_open_lets_go_of_its_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs settings"):
        async with aloe.Run(tmp_path / "run"):
            pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file, not a directory"):
        async with aloe.Run(tmp_path / "file", settings={}):
            pass
    async with aloe.Run(tmp_path / "run", settings={"a": "1"}):
        with pytest.raises(ConfigError, match="in use by another run"):
            async with aloe.Run(tmp_path / "run", settings={"a": "1"}):
                pass
    async with aloe.Run(tmp_path / "run", settings={"a": "1"}) as run:
        await run.finish()


def test_a_configuration_becomes_live_parts(tmp_path: Path) -> None:
    parts = aloe.build(aloe.load_config(ROOT / "examples" / "debate.toml"))
    assert [agent.name for agent in parts.cast] == ["pupil", "teacher"]
    assert parts.expansion.labels == ("for", "against", "neutral")
    assert parts.personas is not None and parts.personas[0].extra == {"school": "north"}

    async def main() -> aloe.Run:
        async with parts:
            return await aloe.simulate(
                parts.cast, parts.personas or [], tmp_path / "run", expansion=parts.expansion, turns=2
            )

    assert asyncio.run(main()).accounting.completed == 6


def test_records_survive_the_way_through_json(tmp_path: Path) -> None:
    accounting = asyncio.run(recorded(tmp_path / "run")).accounting
    assert Accounting.from_json(json.loads(json.dumps(accounting.to_json()))) == accounting
    with pytest.raises(ConfigError, match="completed"):
        Accounting.from_json({**accounting.to_json(), "completed": "many"})


# --- what a run depends on ---------------------------------------------------------------------------------------------


def test_a_changed_source_or_file_is_another_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "my_critic.py"
    text = textwrap.dedent("""
        from aloe_agents import Answered
        class Critic:
            name, hears, essential = "critic", (Answered,), False
            def __init__(self, words: str = "words.txt") -> None:
                self.words = words
            async def respond(self, heard, scene):
                return None
        """)
    source.write_text(text)
    (tmp_path / "words.txt").write_text("one")
    roles = "".join(
        f'[roles.{name}]\nendpoint = "scripted"\n' for name in ("role_player", "induction", "preferred", "rejected")
    )
    critic = '[roles.critic]\nclass = "my_critic:Critic"\noptions = {words = "words.txt"}\n'
    (tmp_path / "aloe.toml").write_text(roles + critic)
    aloe.write_personas(tmp_path / "personas.jsonl", PEOPLE[:1])
    line = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", "aloe.toml", "--personas", "personas.jsonl",
            "--out", "run", "--turns", "1", "--plain"]  # fmt: skip

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([*line, *more], capture_output=True, text=True, env=environment, check=False)

    assert run().returncode == 0 and run().returncode == 0
    source.write_text(text.replace("return None", "return  None"))
    changed = run()
    assert changed.returncode == 2 and "class of critic is my_critic:Critic (source" in changed.stderr
    source.write_text(text)
    (tmp_path / "words.txt").write_text("two")
    changed = run()
    assert changed.returncode == 2 and "options of critic" in changed.stderr and "--force" in changed.stderr
    assert run("--force").returncode == 0


def test_options_models_and_prompts_are_settings() -> None:
    described = agent_settings(paper_cast(model().using({"temperature": 0.5}))[0])
    assert described["class"] == "built in" and described["model"] == "scripted"
    assert described["sampling"] == "[('temperature', 0.5)]" and described["options"] == "attempts = 3"
    assert len(described["prompt"]) == 12


# --- casts of any shape ------------------------------------------------------------------------------------------------


def test_a_debate_runs_from_toml_alone_and_every_label_is_chosen_about_equally_often(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"p{n}", "profile": f"He is {n}.", "personality": "He is calm."}) for n in range(60)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    done = command(f"simulate {ROOT}/examples/debate.toml --personas many.jsonl --out run --plain", tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = [label for tree in read_trees(tmp_path / "run" / "trees.jsonl") for t in tree.turns for label in t.chosen]
    assert len(chosen) == 60 * 4
    for label in ("for", "against", "neutral"):  # 80 of 240 are expected; four standard deviations are 29
        assert 51 <= chosen.count(label) <= 109, label
    before = held(tmp_path / "run")["trees.jsonl"]
    done = command(f"simulate {ROOT}/examples/debate.toml --personas many.jsonl --out run --plain", tmp_path)
    assert done.returncode == 0 and held(tmp_path / "run")["trees.jsonl"] == before
    assert command("watch run --once", tmp_path).returncode == 0


def test_an_opening_is_history_to_every_role_and_no_turn_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps(
            {"profile": "x", "personality": "y", "opening": [{"user": "Hello?", "assistant": "Hi, how can I help?"}]}
        )
    )
    (persona,) = aloe.read_personas(tmp_path / "p.jsonl")
    assert persona.opening == (aloe.Exchange("Hello?", "Hi, how can I help?"),)
    asked: list[tuple[str, ...]] = []

    class Noting(Digest):
        async def chat(self, call: aloe.Call) -> aloe.Completion:
            asked.append(tuple(message["content"] for message in call.messages))
            return await super().chat(call)

    run = asyncio.run(aloe.simulate(paper_cast(Noting()), [persona], tmp_path / "run", turns=2))
    (tree,) = run.trees()
    assert len(tree.turns) == 2 and tree.persona == persona
    assert all(any("Hello?" in content for content in contents) for contents in asked), "every role saw it"
    assert tree.history(tree.turns[1].path)[0] == ("Hello?", "Hi, how can I help?")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"profile": "x", "personality": "y", "opening": 3}', "line 1: the persona's opening is a number, not a list"),
        ('{"profile": "x", "personality": "y", "opening": [3]}', "line 1: turn 1 of the opening is a number"),
        (
            '{"profile": "x", "personality": "y", "opening": [{"user": "a"}]}',
            "turn 1 of the opening: its assistant is missing",
        ),
    ],
)
def test_an_opening_that_is_none_is_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(ConfigError) as refused:
        aloe.read_personas(tmp_path / "p.jsonl")
    assert said in str(refused.value)


# --- the other verbs ---------------------------------------------------------------------------------------------------


def test_every_verb_takes_models_and_returns_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with model() as scripted:
            users = aloe.ScriptedModel("scripted-adaptive", adaptive=True)
            results = await aloe.evaluate(
                users, judge=scripted, user=scripted, cases=PEOPLE, out=tmp_path / "ev", turns=3
            )
            assert results.judges == ["judge"] and results.scores("judge").shape == (5, 3)
            assert len(results.table()) == 15
            again = await aloe.rejudge(tmp_path / "ev", aloe.ScriptedModel("second"))
            assert len(again.scores) == 15 and again.results is not None
            pool = await aloe.grow(
                "profiles", scripted, tmp_path / "p.jsonl", target=25, embedder=aloe.LexicalEmbedder(), seed=7
            )
            assert len(pool.items) == 25 and pool.ended == "target"
            assert "scripted-adaptive" in aloe.compare([results]).to_markdown()

    asyncio.run(main())
    assert capsys.readouterr() == ("", "")
