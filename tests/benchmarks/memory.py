"""Resident memory a live conversation with two calls in flight, beside the same over bare aiohttp."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.http import HttpModel
from aloe_agents.runners.terminal import loop_runner
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.progress import Progress
from aloe_agents.runs.recorder import Recorder
from tests.benchmarks.client import bare, people
from tests.benchmarks.server import load_server
from tests.casts import paper_cast

CONVERSATIONS = 1000


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def grown(run: Callable[[], Awaitable[object]], in_flight: Callable[[], int]) -> int:
    """By how many bytes this process grew until all conversations have two calls in flight."""
    before = resident()
    task = asyncio.ensure_future(run())
    while in_flight() < 2 * CONVERSATIONS:
        assert not task.done(), task
        await asyncio.sleep(0.2)
    size = resident() - before
    task.cancel()
    await asyncio.wait([task])
    return size


async def ours(url: str) -> int:
    """With journal and picture's observer."""
    endpoint = Endpoint("load", [HttpModel(url, "load")], Limits(capacity=4 * CONVERSATIONS))
    progress = Progress("memory", 1, 10, CONVERSATIONS)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        simulation = Simulation(
            paper_cast(endpoint),
            RandomPath(),
            live=CONVERSATIONS,
            recorder=Recorder(journal),
            observers=[progress.observe],
        )
        size = await grown(lambda: simulation.run(people(CONVERSATIONS)), lambda: endpoint.slots.taken)
        await endpoint.close()
    return size


async def bare_aiohttp(url: str) -> int:
    """Only the conversations' own loop."""
    flying = 0

    def count(by: int) -> None:
        nonlocal flying
        flying += by

    return await grown(lambda: bare(url, CONVERSATIONS, 4 * CONVERSATIONS, count), lambda: flying)


def main() -> None:
    """Print the figures."""
    print(f"memory a live conversation with two calls in flight, {CONVERSATIONS} at once")
    sizes = {}
    for client in ("bare", "ours"):
        with load_server(hold=True) as url:
            command = [sys.executable, "-m", "tests.benchmarks.memory", client, url]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        sizes[client] = int(done.stdout) / CONVERSATIONS / 1e3
    print(f"  bare aiohttp {sizes['bare']:.1f} kB; this program, with its journal {sizes['ours']:.1f} kB")


if __name__ == "__main__":
    with loop_runner() as runner:
        print(runner.run((ours if sys.argv[1] == "ours" else bare_aiohttp)(sys.argv[2])))
