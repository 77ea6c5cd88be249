"""Who feeds whom, read off the agents before anything runs.

1. :func:`check` refuses a cast in which an agent hears what nobody says, before the first call is paid.
2. :func:`flow` prints it.

It is static: it knows kinds and labels, not messages.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence

from aloe_agents.engine.agent import Agent
from aloe_agents.errors import WiringError
from aloe_agents.messages import Answered, Message, NodePath, TurnOpened, UserSaid

Saying = tuple[type[Message], str | None]
"""A kind and its label; None is any label."""


class Expansion(Agent, typing.Protocol):
    """An agent that decides which answers go on. See ``aloe_agents.engine.expansion``."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the answers that it chooses among."""

    def leaves(self, turns: int) -> int:
        """At most so many nodes of a conversation of ``turns`` turns are open at once."""

    def foreseen(self, seed: int, conversation: str, path: NodePath) -> tuple[str, ...] | None:
        """The labels that go on at a node, where that is known before the answers exist; else None."""


def says(agent: Agent) -> tuple[Saying, ...] | None:
    """What an agent may say: its ``says``, or the return annotation of ``respond``; None where neither tells."""
    if (declared := getattr(agent, "says", None)) is not None:
        return _listed(declared)
    try:
        returned = typing.get_type_hints(agent.respond).get("return", Message)
    except Exception:  # noqa: BLE001 annotations may name what only exists for type checkers
        return None
    kinds = tuple(_kinds(returned))
    return None if Message in kinds else tuple((kind, None) for kind in kinds)


def check(agents: Sequence[Agent], labels: Iterable[str] = ()) -> None:
    """Refuse a cast that cannot play. ``labels`` are the answers that the expansion chooses among.

    Raises WiringError, naming the agent and what it misses.
    """
    names = [agent.name for agent in agents]
    for name in names:
        if not name or names.count(name) > 1:
            raise WiringError(
                f"two agents are called {name!r}: give one another name (options.name)"
                if name
                else "an agent has no name"
            )
    spoken = [says(agent) for agent in agents]
    if None in spoken:  # somebody may say anything
        return
    said = {item for items in spoken if items is not None for item in items} | {(TurnOpened, None)}
    kinds = {kind for kind, _ in said}
    for agent in agents:
        for kind in agent.hears:
            if kind not in kinds:
                raise WiringError(f"agent {agent.name!r} hears {kind.__name__}, which nobody says")
        for kind, of in _listed(getattr(agent, "needs", ())):
            if not any(spoken is kind and label in (of, None) for spoken, label in said):
                raise WiringError(f"agent {agent.name!r} needs {kind.__name__}, which nobody says{_labelled(of)}")
    if UserSaid not in kinds:
        raise WiringError("nobody says UserSaid: the cast has no user")
    for label in labels:
        if (Answered, label) not in said and (Answered, None) not in said:
            raise WiringError(f"nobody gives the answer labelled {label!r}")


def flow(agents: Sequence[Agent]) -> list[str]:
    """One line an agent: what it hears, its name, what it says."""
    lines = []
    for agent in agents:
        heard = ", ".join(kind.__name__ for kind in agent.hears)
        spoken = says(agent)
        what = "anything" if spoken is None else ", ".join(f"{k.__name__}{f' {v!r}' if v else ''}" for k, v in spoken)
        lines.append(f"{heard} -> {agent.name} -> {what or 'nothing'}")
    return lines


def _listed(declared: Iterable[type[Message] | Saying]) -> tuple[Saying, ...]:
    return tuple(item if isinstance(item, tuple) else (item, None) for item in declared)


def _labelled(label: str | None) -> str:
    return f" under the label {label!r}" if label else ""


def _kinds(annotation: object) -> Iterable[type[Message]]:
    if isinstance(annotation, type) and issubclass(annotation, Message):
        yield annotation
    elif isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    elif annotation is typing.Any:
        yield Message
