"""How long the first minute of a new user takes: the help page, and the demo."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(*arguments: str) -> float:
    """Wall seconds of one command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "aloe_agents.runners.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        helped = statistics.median(seconds("--help") for _ in range(7))
        demo = statistics.median(seconds("demo", "--out", str(Path(folder) / str(n))) for n in range(3))
    print(f"start: aloe --help {helped:.3f} s, aloe demo {demo:.2f} s")
