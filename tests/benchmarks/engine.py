"""CPU of the engine, per call, without a network: what is the bus's, what journal and picture add."""

from __future__ import annotations

import asyncio
import os
import pty
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.runners.terminal import loop_runner
from aloe_agents.runs.console import follow
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.progress import Progress
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.run import endpoint_line
from tests.casts import paper_cast, people

CONVERSATIONS, TURNS = 400, 10
CALLS = CONVERSATIONS * TURNS * 4


async def simulate(journal: Journal | None, screen: Console | None) -> tuple[float, float]:
    """CPU seconds of a run on the scripted model, and of them those that drawing took."""
    endpoints = {"scripted": Endpoint("scripted", [ScriptedModel()], Limits(capacity=1024))}
    progress = Progress(
        "benchmark", 1, TURNS, CONVERSATIONS, lambda: [endpoint_line(name, one) for name, one in endpoints.items()]
    )
    simulation = Simulation(
        paper_cast(endpoints["scripted"]),
        RandomPath(),
        turns=TURNS,
        seed=1,
        recorder=Recorder(journal) if journal else None,
        observers=[progress.observe] if screen else [],
    )
    over, drawing = asyncio.Event(), 0.0
    began = time.process_time()
    if screen:
        picture = asyncio.create_task(follow(screen, progress.snapshot, over))
    await simulation.run(people(CONVERSATIONS))
    over.set()
    if screen:
        drawing = await picture
    return time.process_time() - began, drawing


def terminal() -> Console:
    """A console on a pseudo-terminal of 160 x 50 that somebody reads."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        with suppress(OSError):  # the other end was closed
            while os.read(ours, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    return Console(file=os.fdopen(theirs, "w"), force_terminal=True, width=160, height=50)


def main() -> None:
    """Print the figures."""
    screen = terminal()
    print(f"engine CPU, {CONVERSATIONS} conversations x {TURNS} turns, {CALLS} calls on the scripted model, in process")
    with tempfile.TemporaryDirectory() as folder:
        for name, journaled, shown in (("plain", False, False), ("journal", True, False), ("all", True, True)):
            with Journal(Path(folder) / name) if journaled else nullcontext() as journal, loop_runner() as runner:
                seconds, drawing = runner.run(simulate(journal, screen if shown else None))
            figures = f"{seconds / CALLS * 1e6:6.0f} us of CPU a call"
            if journaled:
                size = (Path(folder) / name / "journal.sqlite").stat().st_size
                figures += f", journal {size / CALLS:.0f} bytes a call"
            if shown:
                figures += f", drawing {drawing / seconds:.2%} of the run's CPU time"
            print(f"  {name:<8} {figures}")
