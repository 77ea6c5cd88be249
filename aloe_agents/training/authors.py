"""Trees in the form that the paper's authors publish, written and read.

A conversation is a JSON object with ``profile``, ``personality`` and ``conversations``. The last is a list of turns, each
with ``user``, ``assistant`` (``preferred`` and ``rejected``), ``chosen`` (a label; null where the conversation ended),
``inferred_profile`` and ``inferred_personality``. The form knows one path, two labels, no scores and no failures. Of a tree
that branches it holds the first path, and only turns with both answers; :func:`to_authors` counts what that leaves out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.messages import NodePath
from aloe_agents.personas import Persona
from aloe_agents.tree import Answer, Tree, Turn, read_lines

LABELS = ("preferred", "rejected")


class AuthorsTurn(TypedDict):
    """A turn in the authors' form."""

    user: str
    assistant: dict[str, str]
    """By label: ``preferred`` and ``rejected``."""
    chosen: str | None
    inferred_profile: str
    inferred_personality: str


class AuthorsConversation(TypedDict):
    """A conversation in the authors' form."""

    id: str
    profile: str
    personality: str
    conversations: list[AuthorsTurn]


def to_authors(tree: Tree) -> tuple[AuthorsConversation, int]:
    """``tree`` in the authors' form, and the number of its turns that were left out."""
    turns: list[AuthorsTurn] = []
    for turn, chosen in _first_path(tree):
        if not all(label in turn.answers for label in LABELS):
            break
        revealed = turn.revealed or {}
        turns.append(
            {
                "user": turn.user,
                "assistant": {label: turn.answers[label].text for label in LABELS},
                "chosen": chosen if chosen in LABELS else None,
                "inferred_profile": revealed.get("profile") or "None",
                "inferred_personality": revealed.get("personality") or "None",
            }
        )
        if chosen not in LABELS:
            break
    value: AuthorsConversation = {
        "id": tree.persona.id,
        "profile": tree.persona.profile,
        "personality": tree.persona.personality,
        "conversations": turns,
    }
    return value, len(tree.turns) - len(turns)


def check_labels(labels: Collection[str]) -> None:
    """Raise ConfigError where the answers of a whole run lack a label that the form needs."""
    if labels and (missing := [label for label in LABELS if label not in labels]):
        raise ConfigError(
            f"the authors' form needs answers labelled {' and '.join(LABELS)}, but there is no {' and no '.join(missing)} "
            f"answer (labels: {', '.join(sorted(labels))}); export rows instead"
        )


def from_authors(value: Mapping[str, Any], id: str) -> Tree:
    """The tree of a conversation in the authors' form. Raises ValueError, naming what is wrong."""
    try:
        persona = Persona(id=str(value.get("id") or id), profile=value["profile"], personality=value["personality"])
        turns: list[Turn] = []
        path: NodePath = ()
        for number, turn in enumerate(value["conversations"], 1):
            answers = {label: Answer(turn["assistant"][label]) for label in LABELS}
            chosen = turn["chosen"]
            if chosen not in LABELS and (chosen is not None or number < len(value["conversations"])):
                raise ValueError(f"turn {number}: chosen is {chosen!r}, not one of {', '.join(LABELS)}")
            revealed = {
                "profile": _unless_none(turn["inferred_profile"]),
                "personality": _unless_none(turn["inferred_personality"]),
            }
            turns.append(Turn(path, turn["user"], revealed, answers, (chosen,) if chosen else ()))
            path = (*path, chosen)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a conversation in the authors' form ({type(error).__name__}: {error})") from None
    return Tree(persona.id, 0, persona, "completed", turns)


def read_authors(path: Path | str) -> Iterator[Tree]:
    """The trees of a JSONL file in the authors' form. Raises ConfigError, naming the line, for any other line."""
    return read_lines(path, lambda number, line: from_authors(orjson.loads(line), f"p{number:05d}"))


def _first_path(tree: Tree) -> Iterator[tuple[Turn, str | None]]:
    """The turns from the root along the first label that goes on, each with that label."""
    at = {turn.path: turn for turn in tree.turns}
    path: NodePath = ()
    while (turn := at.get(path)) is not None:
        onward = [label for label in turn.chosen if (*path, label) in at] or turn.chosen
        yield turn, onward[0] if onward else None
        if not onward:
            return
        path = (*path, onward[0])


def _unless_none(text: str) -> str | None:
    return None if text.strip().rstrip(".").lower() == "none" else text
