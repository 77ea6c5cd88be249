"""Resume is replay: killed at any instant and started again, a run gives the bytes of an undisturbed one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shlex
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from aloe_agents.models.scripted.server import make_app, serve
from aloe_agents.personas import Persona
from aloe_agents.runners import demo
from tests.casts import people

CAPACITY = 8
CONFIG = """
[run]
seed = 5
turns = 8
live = 16
[endpoints.local]
base_url = "{url}"
model = "scripted"
capacity = 8
[roles]
role_player.endpoint = "local"
induction.endpoint = "local"
preferred.endpoint = "local"
rejected.endpoint = "local"
"""


def write_inputs(folder: Path, url: str, count: int) -> list[str]:
    """The files of a run in ``folder``, and its command line but for --out."""
    (folder / "aloe.toml").write_text(CONFIG.format(url=url))
    command = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", str(folder / "aloe.toml")]
    return [*command, *write_personas(folder, people(count)), "--plain"]


def write_personas(folder: Path, personas: Sequence[Persona]) -> list[str]:
    """A file of personas in ``folder``, and the option that names it."""
    lines = [{"id": p.id, "profile": p.profile, "personality": p.personality} for p in personas]
    (folder / "personas.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return ["--personas", str(folder / "personas.jsonl")]


async def run(command: list[str], out: Path) -> tuple[int, str]:
    """Run to the end; exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *command, "--out", str(out), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def keys(out: Path, table: str, where: str = "") -> set[str]:
    """The keys of the calls in a journal."""
    with contextlib.closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        return {row[0].hex() for row in journal.execute(f"SELECT key FROM {table} {where}")}


class Counting:
    """Counts the requests by call, and says when so many have come."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.total = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def __call__(self, key: str | None, body: dict[str, Any]) -> None:
        assert key
        self.seen[key] += 1
        self.total += 1
        for number, event in self._waiting:
            if self.total >= number:
                event.set()

    async def reach(self, number: int) -> None:
        event = asyncio.Event()
        self._waiting.append((number, event))
        if self.total < number:
            await event.wait()


@pytest.mark.slow
async def test_killed_twenty_times_and_resumed_it_gives_the_same_bytes_and_pays_nothing_twice(tmp_path: Path) -> None:
    counting = Counting()
    instants = random.Random(2026)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    async with serve(make_app(latency=0.004, on_request=counting)) as url:
        command = write_inputs(tmp_path, url, 40)
        assert (await run(command, undisturbed))[0] == 0
        calls = set(counting.seen)
        assert len(calls) == 40 * 8 * 4 and set(counting.seen.values()) == {1}
        counting.seen.clear()

        committed: set[str] = set()
        in_flight: set[str] = set()
        for _ in range(20):
            process = await asyncio.create_subprocess_exec(
                *command, "--out", str(disturbed), stdout=asyncio.subprocess.DEVNULL
            )
            await counting.reach(counting.total + instants.randint(1, 55))
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            committed |= keys(disturbed, "calls")
            now = keys(disturbed, "attempts", "WHERE state = 'sent'")
            assert len(now) <= CAPACITY
            in_flight |= now
            assert {key for key, count in counting.seen.items() if count > 1} <= in_flight
        before = counting.seen.copy()
        code, output = await run(command, disturbed)
        assert code == 0, output
        paid_again = {key for key in committed if counting.seen[key] > before[key]}

    assert not paid_again
    assert set(counting.seen) == calls
    assert (disturbed / "trees.jsonl").read_bytes() == (undisturbed / "trees.jsonl").read_bytes()
    assert counting.total - 2 * len(calls) <= 20 * CAPACITY
    assert keys(disturbed, "attempts", "WHERE state = 'uncertain'") <= in_flight


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_lets_what_is_in_flight_land_and_pays_for_nothing_after(
    tmp_path: Path, number: signal.Signals
) -> None:
    counting = Counting()
    out = tmp_path / "run"
    async with serve(make_app(latency=0.05, on_request=counting)) as url:
        command = write_inputs(tmp_path, url, 20)
        process = await asyncio.create_subprocess_exec(
            *command, "--out", str(out), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await counting.reach(60)
        process.send_signal(number)
        output, errors = await process.communicate()
        assert process.returncode == 130, errors
        assert b"Resume with:" in output and b"Traceback" not in errors
        assert counting.total <= 60 + CAPACITY  # those that were on their way to the server
        assert keys(out, "calls") == set(counting.seen)
        assert not keys(out, "attempts", "WHERE state <> 'answered'")
        resumed = await run(command, out)
        assert resumed[0] == 0
        assert set(counting.seen.values()) == {1}


@pytest.mark.parametrize("step", ["grow", "evaluate"])
def test_an_interrupted_demo_ends_there_and_names_the_directory_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sys, "argv", ["aloe", "demo", "--turns", "2", "--plain"])
    with monkeypatch.context() as patched:
        patched.setattr(demo, step, lambda *_, **__: 130)
        done = CliRunner().invoke(demo.command, sys.argv[2:], standalone_mode=False)
    assert done.return_value == 130, done.output
    (out,) = tmp_path.iterdir()
    *before, last = done.output.splitlines()
    assert last == f"Resume with:  aloe demo --turns 2 --plain --out {out}"
    assert bool(before) == (step == "evaluate")
    assert CliRunner().invoke(demo.command, shlex.split(last)[4:], standalone_mode=False).return_value == 0
    assert list(tmp_path.iterdir()) == [out]


async def test_an_edited_prompt_asks_anew_only_what_it_touches(tmp_path: Path) -> None:
    counting = Counting()
    out = tmp_path / "run"
    async with serve(make_app(on_request=counting)) as url:
        command = write_inputs(tmp_path, url, 3)
        assert (await run(command, out))[0] == 0
        first, config = counting.total, tmp_path / "aloe.toml"
        prompt = tmp_path / "hint.md"
        prompt.write_text("## user\n{message}\n(Known: <revealed>{revealed}</revealed>)\n")
        config.write_text(config.read_text() + 'preferred.prompt = "hint.md"\n')
        code, output = await run(command, out)
        assert code == 2 and "prompt of preferred is" in output and output.count("\n") == 1
        assert counting.total == first
        code, output = await run([*command, "--force"], out)
        assert code == 0, output
        assert first < counting.total <= first + 3 * 8 * 4
        assert (await run([*command, "--force"], out))[0] == 0
        assert counting.total - first < first  # the first turns' users, their inductions and rejected answers were kept


async def test_a_run_that_is_over_is_not_done_again_but_its_trees_are_if_they_are_gone(tmp_path: Path) -> None:
    command, out = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", "--plain"], tmp_path / "run"
    command += write_personas(tmp_path, people(5))
    assert (await run(command, out))[0] == 0
    trees = (out / "trees.jsonl").read_bytes()
    written = (out / "trees.jsonl").stat().st_mtime_ns
    assert (await run(command, out))[0] == 0
    assert (out / "trees.jsonl").stat().st_mtime_ns == written
    (out / "trees.jsonl").unlink()
    code, output = await run(command, out)
    assert code == 0 and "5 trees in" in output
    assert (out / "trees.jsonl").read_bytes() == trees


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    from aloe_agents.errors import ConfigError
    from aloe_agents.runs.journal import Journal

    journal = Journal(tmp_path)
    try:
        with pytest.raises(ConfigError, match=f"in use by another run \\(process {os.getpid()}"):
            Journal(tmp_path)
    finally:
        journal.close()
