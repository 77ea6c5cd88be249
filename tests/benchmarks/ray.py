"""The same run here and on Ray with two workers: the same trees, and what the way through the ledger costs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from aloe_agents.runs.reading import Reading
from tests.benchmarks.client import configured, people
from tests.benchmarks.server import load_server
from tests.test_resume import write_personas

COMMAND = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", "--plain"]
RAY = ["--on", "ray", "--workers", "2"]


def seconds(*arguments: str) -> float:
    """Wall seconds of one command."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def ratio(out: Path) -> float:
    """Makespan over its lower bound, by the journal's own times."""
    with contextlib.closing(Reading(out)) as reading:
        efficiency = reading.efficiency()
    assert efficiency is not None
    return efficiency.ratio


def main(conversations: int = 2000) -> None:
    """Print the figures."""
    if find_spec("ray") is None:
        print("ray: not measured, it is not installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here, there = folder / "here", folder / "there"
        personas = write_personas(folder, people(conversations))
        calls = conversations * 40
        alone = seconds(*personas, "--out", str(here))
        spread = seconds(*personas, "--out", str(there), *RAY)
        same = (here / "trees.jsonl").read_bytes() == (there / "trees.jsonl").read_bytes()
        print(f"ray, {conversations} conversations x 10 turns on the scripted model: here {calls / alone:.0f} calls a "
              f"second, two workers {calls / spread:.0f} (start of Ray included); "
              f"{'the same trees' if same else 'OTHER TREES'}")  # fmt: skip
        with load_server(0.4) as url:
            config, few = folder / "load.toml", write_personas(folder, people(300))
            config.write_text(configured(url, 128).to_toml())
            for out, where in (("a", []), ("b", RAY)):
                seconds(str(config), *few, "--out", str(folder / out), *where)
        print(f"  300 x 10 turns, 128 slots, 400 ms a call: makespan / lower bound here {ratio(folder / 'a'):.3f}, "
              f"two workers {ratio(folder / 'b'):.3f}")  # fmt: skip
