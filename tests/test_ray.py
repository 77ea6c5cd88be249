"""The same run on Ray: the same trees, whoever is lost on the way; nothing that was committed is paid twice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aloe_agents.models.limits import Leases
from aloe_agents.models.scripted.server import Handler, make_app, serve
from tests.test_resume import CAPACITY, Counting, keys, run, write_inputs

pytestmark = pytest.mark.timeout(300)


def workers_of(driver: int) -> list[int]:
    """The processes of the workers that a driver started, all of whose processes are its descendants."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid = int(entry.parent.name)
            parents[pid] = int(entry.read_text().rpartition(")")[2].split()[1])
            names[pid] = (entry.parent / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = []
    for pid, name in names.items():
        above = pid
        while above in parents and above != driver:
            above = parents[above]
        if above == driver and name.startswith("ray::Worker"):
            found.append(pid)
    return found


async def start(command: list[str], out: Path) -> asyncio.subprocess.Process:
    pipes: dict[str, Any] = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    return await asyncio.create_subprocess_exec(*command, "--out", str(out), "--on", "ray", "--workers", "2", **pipes)


@pytest.mark.slow
async def test_a_worker_is_killed_in_the_middle_and_the_trees_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    alone, counting = tmp_path / "alone", Counting()
    async with serve(make_app(latency=0.02)) as url:
        code, output = await run(write_inputs(tmp_path, url, 60), alone)
        assert code == 0, output
    async with serve(make_app(latency=0.02, on_request=counting)) as url:
        command, out = write_inputs(tmp_path, url, 60), tmp_path / "out"
        process = await start(command, out)
        assert process.pid
        await counting.reach(600)
        committed = keys(out, "calls")
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        output_, errors = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0, errors.decode()
        assert b"is lost" in errors and b"60 completed, 0 failed, 0 pending" in output_
        again = await run([*command, "--on", "ray", "--workers", "2"], out)
        assert again[0] == 0

    assert (out / "trees.jsonl").read_bytes() == (alone / "trees.jsonl").read_bytes()
    assert set(counting.seen) == keys(out, "calls") == keys(alone, "calls")
    twice = {key for key, count in counting.seen.items() if count > 1}
    assert not twice & committed and len(twice) <= CAPACITY
    assert twice <= keys(out, "attempts", "WHERE state = 'uncertain'")
    assert not keys(out, "attempts", "WHERE state = 'sent'")


@pytest.mark.slow
async def test_the_capacity_is_the_whole_cluster_s_and_an_interrupt_lands(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    counting, out = Counting(), tmp_path / "out"
    at_once: list[int] = []
    under_way = 0

    app = make_app(latency=0.03, on_request=counting)

    @web.middleware
    async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        try:
            return await handler(request)
        finally:
            under_way -= 1

    app.middlewares.append(watched)
    async with serve(app) as url:
        process = await start(write_inputs(tmp_path, url, 40), out)
        await counting.reach(300)
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 130, errors.decode()
        assert b"Resume with:" in output and b"Traceback" not in errors
        assert keys(out, "calls") == set(counting.seen)
        code, said = await run(write_inputs(tmp_path, url, 40), out)  # here, what was begun there
        assert code == 0, said
    assert set(counting.seen.values()) == {1}
    assert CAPACITY / 2 < max(at_once) <= CAPACITY


async def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = write_inputs(tmp_path, "http://127.0.0.1:9/v1", 2)
    code, said = await run([*command, "--on", "ray", "--address", "127.0.0.1:9"], tmp_path / "out")
    assert code == 2 and said.startswith("aloe: no Ray cluster at '127.0.0.1:9'") and said.count("\n") == 1
    code, said = await run([*command, "--workers", "2"], tmp_path / "out")
    assert code == 2 and "--on ray" in said
    assert not (tmp_path / "out").exists()


def test_leases_never_exceed_what_there_is_and_go_where_they_are_wanted() -> None:
    leases = Leases(10)
    assert leases.report(1, 0, 100) == 10  # alone
    assert leases.report(2, 0, 100) == 0  # all are lent
    assert leases.report(1, 10, 100) == 5  # to give back as they come free
    assert leases.report(2, 0, 100) == 0
    assert leases.report(1, 7, 100) == 5
    assert leases.report(2, 0, 100) == 3
    assert leases.report(1, 5, 100) == 5 and leases.report(2, 3, 100) == 5
    assert leases.report(1, 1, 1) == 1  # it wants no more
    assert leases.report(2, 5, 100) == 9
    leases.forget(2)
    assert leases.report(1, 1, 100) == 10
    assert sum(leases.lent.values()) <= 10
