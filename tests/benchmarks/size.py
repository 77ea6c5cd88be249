"""A large run on the scripted model, as a command: memory, journal, trees, and how long its resumption takes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

TURNS = 10
COMMAND = [sys.executable, "-m", "aloe_agents.runners.cli", "simulate", "--plain", "--turns", str(TURNS)]


def write_pools(folder: Path, profiles: int = 2000, personalities: int = 200) -> list[str]:
    """Pools of texts of a real length, and the options that name them."""
    facts = "a locksmith who mends old radios at night and sings in a choir. She has two cats. She likes rain."
    pools = {
        "profiles": [f"She is a {20 + n % 60}-year-old from street {n}. " + facts * 4 for n in range(profiles)],
        "personalities": [f"She is {n} times blunt but warm. She is slow to trust. " * 5 for n in range(personalities)],
    }
    options = []
    for name, texts in pools.items():
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, texts)))
        options += [f"--{name}", str(folder / f"{name}.jsonl")]
    return options


def watched(command: list[str]) -> tuple[float, float, list[float]]:
    """Wall and CPU seconds of a command, and its resident megabytes all along."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    memory = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu, [size for size in memory if size]


def main(conversations: int = 10_000) -> None:
    """Print the figures."""
    calls = conversations * TURNS * 4
    print(f"{conversations} conversations x {TURNS} turns = {calls} calls on the scripted model, as a command")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [*COMMAND, *write_pools(Path(folder)), "--count", str(conversations), "--out", str(out)]
        wall, cpu, memory = watched(command)
        journal, trees = ((out / name).stat().st_size for name in ("journal.sqlite", "trees.jsonl"))
        print(f"  {wall:.0f} s, {calls / wall:.0f} calls a second, {cpu / calls * 1e6:.0f} us of CPU a call, all told")
        tenth = len(memory) // 10
        print(f"  resident {memory[tenth]:.0f} MB after a tenth of the time, {max(memory):.0f} MB at the most")
        print(f"  journal {journal / 1e9:.2f} GB = {journal / calls:.0f} bytes a call; trees {trees / 1e9:.2f} GB")
        wall, cpu, memory = watched(command)
        print(f"  the same command again, all being done: {wall:.1f} s, {max(memory):.0f} MB")
        (out / "trees.jsonl").unlink()
        wall, _, memory = watched(command)
        print(f"  ... with the trees to be written anew: {wall:.1f} s, {max(memory):.0f} MB")
