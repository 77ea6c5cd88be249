"""Draw docs/live.svg: the picture of a real run, taken while it goes on. Run: python docs/make_picture.py"""

from __future__ import annotations

import asyncio
import re
import tempfile
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.messages import Message
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer
from aloe_agents.runners.simulate import endpoint_lines
from aloe_agents.runs.console import render
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.progress import Progress
from aloe_agents.runs.recorder import Recorder

WIDTH, HEIGHT = 120, 34


async def main() -> None:
    data = Path(str(files("aloe_agents.pools")))
    profiles, personalities = (read_pool(data / name)[0] for name in ("profiles.txt", "personalities.txt"))
    endpoints = {"scripted": Endpoint("scripted", [ScriptedModel(latency=0.2)], Limits(capacity=64))}
    model = endpoints["scripted"]
    cast = (RolePlayer(model), Induction(model), Preferred(model), Rejected(model), Judge(model))
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        progress = Progress("runs/demo", 7, 10, 60, lambda: endpoint_lines(endpoints))
        ready = asyncio.Event()

        def watch(message: Message, sender: str) -> None:
            progress.observe(message, sender)
            shown = progress.snapshot().dialogues if progress.completed else []
            if shown and all(dialogue.status == "running" and len(dialogue.nodes) >= 5 for dialogue in shown):
                ready.set()

        simulation = Simulation(
            cast, RandomPath(), turns=10, seed=7, live=24, recorder=Recorder(journal), observers=[watch]
        )
        task = asyncio.create_task(simulation.run(sample_personas(profiles, personalities, 60, 7)))
        await ready.wait()
        console = Console(record=True, width=WIDTH, height=HEIGHT, force_terminal=True, color_system="truecolor")
        console.print(render(progress.snapshot(), WIDTH, HEIGHT), height=HEIGHT)
        await task
    svg = console.export_svg(title="aloe simulate aloe.toml --personas personas.jsonl --out runs/demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # the reader's own monospace font will do
    (Path(__file__).parent / "live.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
