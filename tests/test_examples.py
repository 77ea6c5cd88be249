"""The examples run, do what they say, stay short, and stand on the public API alone."""

from __future__ import annotations

import ast
import asyncio
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aloe_agents
from aloe_agents.models.scripted.model import TRAITS

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("0*.py"))
"""Those that take no time; ``test_closed_loop`` runs the other one."""


def flags_every_answer(lines: list[str]) -> None:
    assert [line.split(":")[0] for line in lines] == [
        f"{n} {label}" for n in (1, 2, 3) for label in ("preferred", "rejected")
    ]


def scores_twice(scores: list[dict[str, float | None]]) -> None:
    assert len(scores) == 10 and all(set(given) == {"judge", "style.brisk", "style.warm"} for given in scores)
    assert all(1 <= (given["judge"] or 0) <= 5 and 0 <= (given["style.brisk"] or 0) <= 10 for given in scores)
    assert any((given["style.brisk"] or 0) > 5 for given in scores), "on a scale of its own"


def says_the_script_and_leaves(said: list[str]) -> None:
    assert said == ["I have a goat.", "She ate my timetable again.", "Never mind, I like the night shift."]


def changes_at_turn_five(said: list[str]) -> None:
    def sarcastic(text: str) -> bool:
        return any(mark in text for mark in TRAITS["sarcastic"][0] + TRAITS["witty"][0] + TRAITS["anxious"][0])

    assert not any(map(sarcastic, said[:4])) and all(map(sarcastic, said[4:])) and len(said) == 8


def grows_of_the_old(texts: list[str]) -> None:
    assert len(texts) == len(set(texts)) == 30
    assert all(int(re.search(r"\d\d", text)[0]) > 70 for text in texts)  # type: ignore[index]


EFFECTS: dict[str, Callable[[Any], None]] = {
    "01_safety_critic": flags_every_answer,
    "02_second_judge": scores_twice,
    "03_scripted_user": says_the_script_and_leaves,
    "04_changing_persona": changes_at_turn_five,
    "05_own_generator": grows_of_the_old,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EFFECTS[path.stem](asyncio.run(runpy.run_path(str(path))["main"]()))
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 40
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aloe_agents"):
            assert node.module in ("aloe_agents", "aloe_agents.roles")
            names = {alias.name for alias in node.names}
            assert node.module == "aloe_agents.roles" or names <= set(aloe_agents.__all__)
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"))


def test_every_example_is_checked() -> None:
    assert {path.stem for path in EXAMPLES} == set(EFFECTS)
