"""``grow`` from Python: under asyncio.run, in a running loop, in a thread; recorded, killed, resumed, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.model import Call, Completion
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.pools.embedding import LexicalEmbedder
from aloe_agents.pools.growing import Pool, grow
from aloe_agents.pools.growth import State
from aloe_agents.pools.items import folder_of, read_items
from aloe_agents.roles import Generator
from aloe_agents.runs.journal import Journal, open_readonly
from aloe_agents.runs.run import Run
from tests.commands import aloe
from tests.test_growth import Asked

CHILD = """
import asyncio, sys, time
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.pools.embedding import LexicalEmbedder
from aloe_agents.pools.growing import grow
from aloe_agents.roles import Generator
asyncio.run(grow("profiles", Generator(ScriptedModel(latency=0.2)), sys.argv[1], target=120, embedder=LexicalEmbedder()))
"""


async def grown(out: Path | str | None, target: int = 120, model: Asked | None = None, force: bool = False) -> Pool:
    return await grow(
        "profiles", Generator(model or ScriptedModel()), out, target=target, embedder=LexicalEmbedder(), force=force
    )


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The pool that the command grows."""
    place = tmp_path_factory.mktemp("command")
    done = aloe("personas grow profiles --embedder lexical --target 120 --out p.jsonl --quiet", place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return (place / "p.jsonl").read_bytes()


def test_under_asyncio_run_and_in_a_thread_the_pool_is_that_of_the_command(
    tmp_path: Path, by_command: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = asyncio.run(grown(str(tmp_path / "one.jsonl")))
    assert pool.path == tmp_path / "one.jsonl" and pool.ended == "target" and len(pool.texts) == 120
    assert pool.spent.calls == len(pool.rounds) > 0 and list(pool.items) == read_items(pool.path)[0]

    async def in_thread() -> Pool:
        return await asyncio.to_thread(lambda: asyncio.run(grown(tmp_path / "two.jsonl")))

    asyncio.run(in_thread())
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes() == by_command
    assert capfd.readouterr() == ("", "")


async def test_in_a_running_loop_it_grows_and_in_memory_it_writes_nothing(
    tmp_path: Path, by_command: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    states: list[tuple[int, int]] = []

    def on_round(state: State) -> None:
        states.append((len(state.rounds), len(state.items)))

    pool = await grow("profiles", Generator(ScriptedModel()), target=120, embedder=LexicalEmbedder(), on_round=on_round)
    assert pool.path is None and not os.listdir(tmp_path)
    recorded = await grown("p.jsonl")
    assert recorded.items == pool.items and (tmp_path / "p.jsonl").read_bytes() == by_command
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert states[0] == (0, 20) and [n for n, _ in states] == list(range(len(pool.rounds) + 1))


def test_killed_it_resumes_to_the_same_bytes_and_asks_nothing_twice(tmp_path: Path, by_command: bytes) -> None:
    out = tmp_path / "p.jsonl"
    for calls in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], env=dict(os.environ))
        deadline = time.monotonic() + 60
        while len(answered(out)) < calls and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    held = answered(out)
    assert len(held) >= 5 and not out.exists()
    again = Asked()
    again.name = "scripted"
    pool = asyncio.run(grown(out, model=again))
    assert pool.ended == "target" and out.read_bytes() == by_command
    assert again.keys and not held & set(again.keys)
    assert asyncio.run(grown(out, model=again)).items == pool.items


def answered(out: Path) -> set[str]:
    """The keys of the calls in the journal of a pool."""
    try:
        with contextlib.closing(open_readonly(folder_of(out))) as connection:
            return {row[0].hex() for row in connection.execute("SELECT key FROM calls")}
    except Exception:  # noqa: BLE001 it is not there yet
        return set()


async def test_it_is_stopped_from_outside_and_the_same_call_resumes(tmp_path: Path, by_command: bytes) -> None:
    runs: list[Run] = []

    class Stopping:
        name = "scripted"

        async def chat(self, call: Call) -> Completion:
            if len(runs) and (seen.append(call.key) or len(seen) == 4):  # type: ignore[func-returns-value]
                runs[0].stop()
            return await ScriptedModel().chat(call)

    seen: list[str] = []
    out = tmp_path / "p.jsonl"
    pool = await grow(
        "profiles", Generator(Stopping()), out, target=120, embedder=LexicalEmbedder(), on_open=runs.append
    )
    assert pool.ended == "" and 20 <= len(pool.items) < 120 and list(pool.items) == read_items(out)[0]
    assert (await grown(out)).ended == "target" and out.read_bytes() == by_command


async def test_other_settings_are_refused_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    await grown(out, 40)
    with pytest.raises(ConfigError, match="seed is 0 there and 3 here"):
        await grow("profiles", Generator(ScriptedModel()), out, target=40, embedder=LexicalEmbedder(), seed=3)
    pool = await grow(
        "profiles", Generator(ScriptedModel()), out, target=40, embedder=LexicalEmbedder(), seed=3, force=True
    )
    assert pool.ended == "target" and len(pool.items) == 40


async def test_seeds_are_a_file_or_texts_and_given_again_they_change_nothing(tmp_path: Path) -> None:
    texts = [f"She is {n} and keeps bees. She sings. She has a boat. She lives in Oslo. She paints." for n in (30, 44)]
    (tmp_path / "mine.txt").write_text("\n".join(texts))
    out = tmp_path / "p.jsonl"
    for target in (6, 6, 9):
        pool = await grow(
            "profiles", Generator(ScriptedModel()), out, seeds=tmp_path / "mine.txt", target=target, similarity="off"
        )
        assert pool.texts[:2] == texts and [item.source for item in pool.items[:2]] == ["seed of mine.txt"] * 2
    listed = await grow("profiles", Generator(ScriptedModel()), seeds=texts, target=9, similarity="off")
    assert listed.texts == pool.texts
    (tmp_path / "there.jsonl").write_text('"She keeps bees."\n')
    with pytest.raises(ConfigError, match="grows on from what it holds"):
        await grow("profiles", Generator(ScriptedModel()), tmp_path / "there.jsonl", seeds=texts, similarity="off")


async def test_a_fatal_keeps_what_there_is_and_a_bad_plan_writes_nothing(tmp_path: Path) -> None:
    def fatal(n: int) -> None:
        if n == 3:
            raise Fatal("the key is wrong")

    with pytest.raises(Fatal, match="the key is wrong"):
        await grown(tmp_path / "p.jsonl", model=Asked(fatal))
    assert len(read_items(tmp_path / "p.jsonl")[0]) >= 20
    with Journal(folder_of(tmp_path / "p.jsonl")):
        pass  # its lock was let go
    for fields in ({"calls": 0}, {"money": -1.0}):
        with pytest.raises(ConfigError, match="must be"):
            await grow("profiles", Generator(ScriptedModel()), tmp_path / "new.jsonl", **fields)
    assert not (tmp_path / "new.pool").exists()
