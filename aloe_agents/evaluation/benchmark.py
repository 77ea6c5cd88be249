"""The package's own cases: 20 profiles with 5 personalities each, held out from every pool that the package ships."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aloe_agents.personas import Persona, read_personas


def benchmark() -> list[Persona]:
    """The package's 100 cases."""
    return read_personas(Path(str(files(__package__) / "benchmark.jsonl")))
