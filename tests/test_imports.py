"""Importing the package costs next to nothing, the help page loads no command, and imports run downwards only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aloe_agents

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "vllm", "ray", "openai", "aiohttp", "numpy", "pydantic"}
HELP = """
import contextlib, io, sys
from aloe_agents.runners.cli import main
sys.argv = ["aloe", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
    main()
assert "simulate" in page.getvalue()
"""


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        env={**os.environ, "PYTHONPATH": str(Path(aloe_agents.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_next_to_nothing() -> None:
    modules = loaded("import aloe_agents")
    assert len(modules) < 150
    assert not modules & {*HEAVY, "rich", "click", "orjson", "asyncio", "sqlite3"}
    assert [name for name in modules if name.startswith("aloe_agents")] == ["aloe_agents"]


def test_the_help_page_loads_what_prints_it() -> None:
    modules = loaded(HELP)
    assert "click" in modules and not modules & {*HEAVY, "rich", "orjson", "sqlite3"}
    assert "aloe_agents.runners.simulate" not in modules and "aloe_agents.config" not in modules


@pytest.mark.parametrize(
    ("code", "spared"),
    [
        ("from aloe_agents import Persona, Simulation, RandomPath, Tree", {*HEAVY, "rich", "click"}),
        ("import aloe_agents.roles", {*HEAVY, "rich", "click"}),
        ("import aloe_agents.testing", {*HEAVY, "rich", "click"}),
        ("import aloe_agents.training.authors, aloe_agents.runs.reading", {*HEAVY, "rich", "click"}),
        ("import aloe_agents.runs.console", HEAVY),
        ("from aloe_agents import HttpModel, Endpoint, Journal", HEAVY - {"aiohttp"}),
        ("import aloe_agents.runners.simulate", {"torch", "transformers", "vllm", "ray", "openai", "numpy", "httpx"}),
    ],
)
def test_what_is_imported_loads_only_what_it_uses(code: str, spared: set[str]) -> None:
    assert not loaded(code) & spared


def test_imports_run_downwards_only() -> None:
    lint = "import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-cache']; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", lint], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken\.", done.stdout)
