"""A misspelt field or sampling parameter is found by mypy, where it stands, before anything is paid for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import tomli_w
from mypy import api

ROOT = Path(__file__).parents[1]
USES = Path(__file__).with_name("wrong_uses.py.txt")


OTHERS = [
    "aiohttp.*",
    "click.*",
    "httpx.*",
    "numpy.*",
    "openai.*",
    "pydantic.*",
    "pydantic_core.*",
    "rich.*",
    "tenacity.*",
]
"""What the package stands on and its messages, roles and scenes do not: not read here, which is most of the time."""


def test_mypy_finds_every_wrong_use_and_nothing_else(tmp_path: Path) -> None:
    file, settings = tmp_path / "wrong_uses.py", tmp_path / "pyproject.toml"
    text = USES.read_text()
    file.write_text(text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    project["overrides"].append({"module": OTHERS, "follow_imports": "skip", "ignore_missing_imports": True})
    settings.write_text(tomli_w.dumps({"tool": {"mypy": project}}))
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    said, fault, _ = api.run([*options, "--hide-error-context", "--no-pretty", str(file)])
    assert not fault
    place = re.escape(str(file))
    found = {
        (int(error[1]), error[2])
        for error in re.finditer(rf"^{place}:(\d+): error: .*\[([\w-]+)\]$", said, re.MULTILINE)
    }
    marked = {
        (number, code)
        for number, line in enumerate(text.splitlines(), 1)
        for code in line.partition("  # error: ")[2].split()
    }
    assert len(marked) >= 15 and found == marked, said
