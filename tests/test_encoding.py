"""A terminal that cannot show a character gets another in its place; a finished run never ends in an error over it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import aloe

ASCII = {"PYTHONIOENCODING": "ascii"}
COMMANDS = [
    "demo --out demo",
    "status run",
    "status run --json",
    "watch run",
    "compare ev",
    "compare ev --out table.md",
    "doctor",
    "personas stats profiles.jsonl --embedder lexical",
    "export run --to aloe --out rows.jsonl",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Personas whose words are not ASCII, a run and an evaluation of them, made with an ASCII output."""
    folder = tmp_path_factory.mktemp("ascii")
    people = [
        {"id": f"Zoë {n}", "profile": f"Zoë {n} keeps bees — in Kraków.", "personality": "She is naïve 🐝."}
        for n in (1, 2)
    ]
    (folder / "personas.jsonl").write_text("".join(json.dumps(person, ensure_ascii=False) + "\n" for person in people))
    (folder / "profiles.jsonl").write_text("".join(f'"Zoë {n} keeps bees — in Kraków."\n' for n in range(5)))
    for command in (
        "simulate --personas personas.jsonl --turns 2 --out run",
        "evaluate --model scripted-generic --model scripted-adaptive --count 2 --turns 2 --out ev",
    ):
        done = aloe(command, folder, ASCII, process=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_is_not_utf_8_ends_no_command_with_an_error(place: Path, command: str) -> None:
    done = aloe(command, place, ASCII)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stdout.strip() and "Error" not in done.stderr


def test_an_error_names_what_it_can(place: Path) -> None:
    for process in (False, True):
        done = aloe("status Kraków", place, ASCII, process=process)
        assert done.returncode == 2 and "holds no run" in done.stderr and "Traceback" not in done.stderr


def test_what_is_kept_is_whole(place: Path) -> None:
    assert (place / "run/trees.jsonl").read_text(encoding="utf-8").count("Zoë") >= 2
