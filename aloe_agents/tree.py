"""Conversation trees: what a run is for, and their form on disk (one JSON object a line).

A tree is made of the messages of one conversation, whatever order they were said in: nodes are sorted by path,
depth first, and everything at a node goes by its address. So two runs that said the same give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.messages import Message, NodePath
from aloe_agents.personas import Persona

TREE_SCHEMA = 1


class Entry(NamedTuple):
    """A message as a tree or a journal sees it: its address and the fields of its kind."""

    path: NodePath
    kind: str
    label: str
    body: dict[str, Any]

    @classmethod
    def of(cls, message: Message) -> Entry:
        """``message``, taken apart."""
        return cls(tuple(message.path), type(message).__name__, str(message.label), message.body())


class Cause(NamedTuple):
    """Why a conversation failed: the failure that decided it, in its own words."""

    reason: str
    agent: str
    turn: int
    error: str


@dataclass(slots=True)
class Answer:
    """One answer to a user's message."""

    text: str
    scores: dict[str, float | None] = field(default_factory=dict)
    """By judge; None where a judge was asked and no score could be read."""
    finish_reason: str = "stop"


@dataclass(slots=True)
class Turn:
    """A node: a user message and the answers given to it."""

    path: NodePath
    user: str
    revealed: dict[str, str | None] | None = None
    """``profile`` and ``personality`` as far as they had shown; None where no induction got through."""
    answers: dict[str, Answer] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What custom kinds of message said here: by kind, then by label."""
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def turn(self) -> int:
        """Counted from 1."""
        return len(self.path) + 1


@dataclass(slots=True)
class Tree:
    """One conversation of one persona."""

    id: str
    seed: int
    persona: Persona
    status: str
    turns: list[Turn] = field(default_factory=list)
    """Depth first, by path."""
    usage: dict[str, int] = field(default_factory=dict)
    failure: Cause | None = None
    """Why the conversation failed, if it did: the failure that decided it."""

    def history(self, path: NodePath) -> list[tuple[str, str]]:
        """The (user message, chosen answer) pairs on the way to a node (the paper's {m_j, s_j}, j < i).

        The persona's opening comes first.
        """
        at = {turn.path: turn for turn in self.turns}
        nodes = [(at[path[:depth]], label) for depth, label in enumerate(path)]
        opening = [(past.user, past.answer) for past in self.persona.opening]
        return opening + [(node.user, node.answers[label].text) for node, label in nodes]

    def to_json(self) -> bytes:
        """One line, without its end."""
        failure = {"failure": self.failure._asdict()} if self.failure else {}
        return orjson.dumps(
            {
                "schema": TREE_SCHEMA,
                "id": self.id,
                "seed": self.seed,
                "status": self.status,
                **failure,
                "persona": self.persona.to_json(),
                "turns": [_turn_json(turn) for turn in self.turns],
                "usage": self.usage,
            },
            default=str,  # what a custom kind holds is written as the journal writes it
        )

    @classmethod
    def from_json(cls, line: bytes | str) -> Tree:
        """The tree that ``to_json`` wrote. Raises ValueError for anything else, naming what is wrong."""
        try:
            value = orjson.loads(line)
            if value["schema"] != TREE_SCHEMA:
                raise ValueError(f"schema {value['schema']} is not {TREE_SCHEMA}")
            return cls(
                id=value["id"],
                seed=value["seed"],
                persona=Persona.from_json(value["persona"]),
                status=value["status"],
                turns=[_turn_from(turn) for turn in value["turns"]],
                usage=value.get("usage", {}),
                failure=Cause(**value["failure"]) if value.get("failure") else None,
            )
        except ConfigError as error:
            raise ValueError(f"not a conversation tree ({error})") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a conversation tree ({type(error).__name__}: {error})") from None


def build_tree(
    id: str, seed: int, persona: Persona, status: str, said: Iterable[Entry], usage: dict[str, int], reason: str = ""
) -> Tree:
    """The tree of what was said, in whatever order. A node where the user said nothing is no turn.

    ``reason`` is why the conversation failed, where it did.
    """
    nodes: dict[NodePath, Turn] = {}
    rest: list[Entry] = []
    said = list(said)
    for item in said:
        if item.kind == "UserSaid":
            nodes[item.path] = Turn(path=item.path, user=item.body["text"])
        else:
            rest.append(item)
    for path, kind, label, body in sorted(rest, key=lambda item: (item.path, item.kind, item.label)):
        if (node := nodes.get(path)) is not None:
            _take_up(node, kind, label, body)
    cause = cause_of(reason, (item for item in said if item.kind == "Failed")) if status == "failed" else None
    return Tree(id, seed, persona, status, [nodes[path] for path in sorted(nodes)], usage, cause)


def _take_up(node: Turn, kind: str, label: str, body: dict[str, Any]) -> None:
    match kind:
        case "Answered":
            node.answers[label] = Answer(text=body["text"], finish_reason=body["finish_reason"])
        case "PersonaRevealed":
            node.revealed = {"profile": body["profile"], "personality": body["personality"]}
        case "Chosen":
            node.chosen = tuple(body["labels"])
        case "Scored":
            answer, _, judge = label.partition("/")
            if answer in node.answers:
                node.answers[answer].scores[judge] = body["score"]
        case "Failed":
            node.failures.append({name: body[name] for name in ("agent", "reason", "error")})
        case "TurnOpened":
            pass
        case _:
            node.notes.setdefault(kind, {})[label] = body


def cause_of(reason: str, failures: Iterable[Entry]) -> Cause:
    """The failure that decided a conversation: the first one with this reason, nearest to the root."""
    essential = [item for item in failures if item.body["reason"] == reason and item.body["essential"]]
    if not essential:
        return Cause(reason, "", 1, "no agent was left to say what the conversation needed next")
    first = min(essential, key=lambda item: (len(item.path), item.path, item.label))
    return Cause(reason, first.body["agent"], len(first.path) + 1, first.body["error"])


def read_trees(path: Path | str) -> Iterator[Tree]:
    """The trees of a JSONL file, one by one. Raises ConfigError, naming the line, for a line that is none."""
    return read_lines(path, lambda number, line: Tree.from_json(line))


def read_lines(path: Path | str, parse: Callable[[int, bytes], Tree]) -> Iterator[Tree]:
    """The trees that ``parse`` makes of the lines of a file and their numbers; its ValueErrors name the line."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield parse(number, line)
                    except ValueError as error:
                        raise ConfigError(f"{path}, line {number}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _turn_json(turn: Turn) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for label in sorted(turn.answers):
        answer = turn.answers[label]
        answers[label] = {"text": answer.text}
        if answer.scores:
            answers[label]["scores"] = answer.scores
        if answer.finish_reason != "stop":
            answers[label]["finish_reason"] = answer.finish_reason
    value = {
        "path": turn.path,
        "turn": turn.turn,
        "user": turn.user,
        "revealed": turn.revealed,
        "answers": answers,
        "chosen": turn.chosen,
    }
    if turn.notes:
        value["notes"] = turn.notes
    if turn.failures:
        value["failures"] = turn.failures
    return value


def _turn_from(value: dict[str, Any]) -> Turn:
    return Turn(
        path=tuple(value["path"]),
        user=value["user"],
        revealed=value["revealed"],
        answers={
            label: Answer(answer["text"], answer.get("scores", {}), answer.get("finish_reason", "stop"))
            for label, answer in value["answers"].items()
        },
        chosen=tuple(value["chosen"]),
        notes=value.get("notes", {}),
        failures=value.get("failures", []),
    )
