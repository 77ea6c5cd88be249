"""The main job end to end: real personas, in process, over HTTP, against vLLM; in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.messages import ConversationEnded, ConversationStarted, Message
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.http import HttpModel
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.models.scripted.server import make_app, serve
from aloe_agents.personas import Persona, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.runs.reading import Reading
from aloe_agents.tree import Tree, read_trees
from tests.casts import paper_cast, people
from tests.test_dataflow import critical_path
from tests.test_resume import run, write_inputs
from tests.tiny_models import make_tiny_qwen2
from tests.vllm_server import require_vllm, vllm_server

AUTHORS = Path(__file__).parents[2] / "shared" / "data" / "aloe-authors"


def authors_personas(count: int) -> list[Persona]:
    if not AUTHORS.exists():
        pytest.skip("the authors' persona files are not here")
    pools = [read_pool(AUTHORS / name)[0] for name in ("profile.jsonl", "personality.jsonl")]
    return sample_personas(pools[0], pools[1], count, seed=7)


def simulate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_three_hundred_real_personas(tmp_path: Path) -> None:
    authors_personas(1)
    pools: list[str | Path] = [
        "--profiles",
        AUTHORS / "profile.jsonl",
        "--personalities",
        AUTHORS / "personality.jsonl",
        "--count",
        "300",
    ]
    files = []
    for name, seed in (("one", "7"), ("two", "7"), ("other", "8")):
        done = simulate(*pools, "--out", tmp_path / name, "--seed", seed)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"aloe: .*profile\.jsonl, line 6 holds 2 items; all of them are used\n", done.stderr)
        files.append((tmp_path / name / "trees.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]
    trees = list(read_trees(tmp_path / "one" / "trees.jsonl"))
    turns = [turn for tree in trees for turn in tree.turns]
    assert len(trees) == 300 and {tree.status for tree in trees} == {"completed"} and len(turns) == 3000
    assert all(set(turn.answers) == {"preferred", "rejected"} and not turn.failures for turn in turns)
    assert 0.45 < sum(turn.chosen == ("preferred",) for turn in turns) / len(turns) < 0.55
    other = {tree.id: [turn.path for turn in tree.turns] for tree in read_trees(tmp_path / "other" / "trees.jsonl")}
    assert sum(other[tree.id] != [turn.path for turn in tree.turns] for tree in trees) > 250


async def trees_of(endpoint: Endpoint, personas: list[Persona], turns: int = 10) -> list[Tree]:
    simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=turns, seed=7, live=64)
    return sorted([tree async for tree in simulation.trees(personas)], key=lambda tree: tree.id)


async def test_http_and_in_process_give_the_same_trees() -> None:
    personas = authors_personas(60)
    here = await trees_of(Endpoint("here", [ScriptedModel()]), personas)
    async with serve(make_app()) as url:
        endpoint = Endpoint("there", [HttpModel(url, "scripted")], Limits(capacity=32))
        there = await trees_of(endpoint, personas)
        await endpoint.close()
    assert [tree.to_json() for tree in there] == [tree.to_json() for tree in here]
    assert endpoint.tally.calls == 60 * 40 and not endpoint.tally.retries


async def test_over_http_a_conversation_lasts_its_critical_path_within_a_tenth() -> None:
    latency, seconds = 0.1, {}
    started: dict[str, float] = {}

    def observe(message: Message, sender: str) -> None:
        if isinstance(message, ConversationStarted):
            started[message.conversation] = time.monotonic()
        if isinstance(message, ConversationEnded):
            assert message.status == "completed"
            seconds[message.conversation] = time.monotonic() - started[message.conversation]

    command = [sys.executable, "-m", "aloe_agents.runners.cli", "serve", "scripted", "--port", "0"]
    server = await asyncio.create_subprocess_exec(*command, "--latency", str(latency), stdout=asyncio.subprocess.PIPE)
    assert server.stdout
    url = (await server.stdout.readline()).decode().split()[3]
    endpoint = Endpoint("local", [HttpModel(url, "scripted")])
    simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=10, seed=7, observers=[observe])
    await simulation.run(people(3))
    await endpoint.close()
    server.terminate()
    assert await server.wait() == 0
    ratios = sorted(lasted / (latency * critical_path(7, name, 10)) for name, lasted in seconds.items())
    assert ratios[0] >= 1 and ratios[1] < 1.1, ratios


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('model = "scripted"', r"aloe: 127\.0\.0\.1:\d+: .*(nothing|none|not|no) .*"),
        (
            'api_key_env = "ALOE_TEST_KEY"',
            r"aloe: 127\.0\.0\.1:\d+ refused the key in \$ALOE_TEST_KEY: status 401 \(.+\)",
        ),
    ],
    ids=["unknown model", "wrong key"],
)
async def test_a_wrong_key_or_model_stops_the_run_at_once_in_one_line(
    tmp_path: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALOE_TEST_KEY", "sk-canary-123")
    requests = 0

    def count(key: str | None, body: object) -> None:
        nonlocal requests
        requests += 1

    key = "right" if "key" in change else None
    async with serve(make_app(api_key=key, on_request=count)) as url:
        command = write_inputs(tmp_path, url, 50)
        config = tmp_path / "aloe.toml"
        replaced = 'model = "skripted"' if change.startswith("model") else f'model = "scripted"\n{change}'
        config.write_text(config.read_text().replace('model = "scripted"', replaced))
        process = await asyncio.create_subprocess_exec(
            *command, "--out", str(tmp_path / "run"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.count(b"\n") == 1 and re.fullmatch(message, errors.decode().strip()), errors
    assert b"50 pending of 50" in output and requests == 0
    for path in (tmp_path / "run").iterdir():
        assert b"sk-canary-123" not in path.read_bytes() + output + errors


MEMORY = """
import asyncio, resource, sys
from aloe_agents import Endpoint, Journal, Persona, RandomPath, Recorder, ScriptedModel, Simulation
from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer
from pathlib import Path

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize()

at = {}
def observe(message, sender):
    if type(message).__name__ == "ConversationEnded":
        observe.ended += 1
        if observe.ended in (500, 5000):
            at[observe.ended] = resident()
observe.ended = 0

async def main():
    model = Endpoint("scripted", [ScriptedModel()])
    journal = Journal(Path(sys.argv[1]))
    cast = [RolePlayer(model), Induction(model), Preferred(model), Rejected(model)]
    simulation = Simulation(cast, RandomPath(), turns=3, live=64, recorder=Recorder(journal), observers=[observe])
    personas = (Persona(id=f"p{n:05d}", profile=f"She is {n}. She has {n} cats. She likes tea number {n}.",
                        personality="She is witty and blunt.") for n in range(5000))
    outcome = await simulation.run(personas)
    journal.close()
    assert outcome.completed == 5000, outcome
    print(at[500], at[5000])

asyncio.run(main())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_conversations(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    early, late = map(int, done.stdout.split())
    assert late < 1.2 * early, f"{early / 2**20:.0f} MiB at 500 conversations, {late / 2**20:.0f} at 5,000"


@pytest.mark.vllm
@pytest.mark.timeout(600)
async def test_a_random_model_behind_vllm_talks_but_its_inductions_do_not_parse(tmp_path: Path) -> None:
    require_vllm()
    make_tiny_qwen2(tmp_path / "model", [p.profile + p.personality for p in people(50)])
    with vllm_server(tmp_path / "model", "tiny", tmp_path / "vllm.log", max_model_len=8192) as url:
        config = f"""
[run]
seed = 3
turns = 3
[endpoints.tiny]
base_url = "{url}"
model = "tiny"
sampling = {{max_tokens = 24, temperature = 1.0}}
[roles]
role_player.endpoint = "tiny"
induction.endpoint = "tiny"
preferred.endpoint = "tiny"
rejected.endpoint = "tiny"
"""
        write_inputs(tmp_path, url, 16)
        (tmp_path / "aloe.toml").write_text(config)
        out = tmp_path / "run"
        command = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", str(tmp_path / "aloe.toml")]
        code, output = await run([*command, "--personas", str(tmp_path / "personas.jsonl"), "--plain"], out)
    assert code == 1, output
    trees = list(read_trees(out / "trees.jsonl"))
    assert len(trees) == 16
    for tree in trees:
        # every induction is asked three times and given up; what needs no form goes on until the path needs it
        assert all(turn.failures[0]["agent"] == "induction" for turn in tree.turns)
        assert all(turn.failures[0]["reason"] == "unparsed" for turn in tree.turns)
        assert all(set(turn.answers) == {"rejected"} and turn.user for turn in tree.turns)
        needed = any(turn.chosen == ("preferred",) for turn in tree.turns)
        assert tree.status == ("failed" if needed else "completed")
    failed = sum(tree.status == "failed" for tree in trees)
    assert failed >= 8 and f"failed: {failed} unparsed" in output
    with contextlib.closing(Reading(out)) as reading:
        accounting = reading.accounting()
    assert accounting.failed == {"unparsed": failed}
    turns = sum(len(tree.turns) for tree in trees)
    assert accounting.calls == turns * (1 + 3 + 1)
