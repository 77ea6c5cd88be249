"""Who feeds whom, read off the agents before anything runs.

1. :func:`check` refuses a cast in which an agent hears what nobody says, before the first call is paid.
2. :func:`flow` prints it.

It is static: it knows kinds and labels, not messages.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence

from aloe_agents.engine.agent import Agent
from aloe_agents.errors import WiringError
from aloe_agents.messages import Answered, Message, NodePath, Scored, TurnOpened, UserSaid

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

    Labels are compared as they are at run time: a kind without a label in ``needs`` is the label "", and a judge scores
    under ``ANSWER/JUDGE`` with its own name. Raises WiringError, naming the agent and what is wrong.
    """
    labels = tuple(labels)
    _check_objects(agents)
    spoken = {agent.name: says(agent) for agent in agents}
    for agent in agents:
        _check_echo(agent, spoken[agent.name] or ())
    if None in spoken.values():  # somebody may say anything
        return
    said = _said(agents, spoken, labels)
    for agent in agents:
        _check_hearer(agent, said)
    _check_scores(spoken, said)
    if UserSaid not in {kind for kind, _ in said}:
        raise WiringError("nobody says UserSaid: the cast has no user")
    for label in labels:
        if not _is_said(Answered, label, said):
            raise WiringError(f"nobody gives the answer labelled {label!r}")


def _check_objects(agents: Sequence[Agent]) -> None:
    """Every member is an agent, not its class, and has a name that no other has."""
    for agent in agents:
        if isinstance(agent, type):
            raise WiringError(f"{agent.__name__} is a class: put an object into the cast, {agent.__name__}(...)")
        for needed in ("name", "hears", "respond"):
            if not hasattr(agent, needed):
                raise WiringError(f"{type(agent).__name__} is not an agent: it has no {needed!r}")
    names = [agent.name for agent in agents]
    for name in names:
        if not name:
            raise WiringError("an agent has no name")
        if names.count(name) > 1:
            raise WiringError(f"two agents are called {name!r}: give one another name (options.name)")


def _check_echo(agent: Agent, says: Iterable[Saying]) -> None:
    """``agent`` does not answer itself."""
    for kind, _ in says:
        if kind in agent.hears and kind is not TurnOpened:  # an expansion opens the next turn
            raise WiringError(
                f"agent {agent.name!r} hears {kind.__name__}, which it says itself, so it would answer itself for ever"
            )


def _said(
    agents: Sequence[Agent], spoken: Mapping[str, tuple[Saying, ...] | None], labels: Iterable[str]
) -> set[Saying]:
    """All that the cast says; the scores of judges that do not list their labels are put under ANSWER/JUDGE."""
    said = {item for items in spoken.values() for item in items or ()} | {(TurnOpened, None)}
    return (said - {(Scored, None)}) | _scores(agents, spoken, said, labels)


def _check_hearer(agent: Agent, said: set[Saying]) -> None:
    """Somebody says what ``agent`` hears and needs."""
    kinds = {kind for kind, _ in said}
    for kind in agent.hears:
        if kind not in kinds:
            raise WiringError(f"agent {agent.name!r} hears {kind.__name__}, which nobody says")
    for item in getattr(agent, "needs", ()):
        kind, label = item if isinstance(item, tuple) else (item, "")  # as Scene.need has it
        if not _is_said(kind, label or "", said):
            raise WiringError(f"agent {agent.name!r} needs {kind.__name__}, which nobody says{_labelled(label)}")


def _scores(
    agents: Sequence[Agent], spoken: Mapping[str, tuple[Saying, ...] | None], said: set[Saying], labels: Iterable[str]
) -> set[Saying]:
    """The labels of the scores of judges that do not list them: every answer, under the judge's ``score_names``."""
    answers = {label for kind, label in said if kind is Answered and label} | set(labels)
    judges = [
        name
        for agent in agents
        if (Scored, None) in (spoken[agent.name] or ())
        for name in getattr(agent, "score_names", (agent.name,))
    ]
    return {(Scored, Scored.label_of(answer, judge)) for judge in judges for answer in answers}


def _check_scores(spoken: Mapping[str, tuple[Saying, ...] | None], said: set[Saying]) -> None:
    """Every score that is declared under a label is about an answer that somebody gives."""
    for name, items in spoken.items():
        for kind, label in items or ():
            answer, _, judge = (label or "").partition("/")
            if kind is Scored and label is not None and (not judge or not _is_said(Answered, answer, said)):
                raise WiringError(
                    f"agent {name!r} says Scored under {label!r}, which nobody expects: a score's label is ANSWER/JUDGE, "
                    "and ANSWER the label of an answer"
                )


def _is_said(kind: type[Message], label: str, said: set[Saying]) -> bool:
    return (kind, label) in said or (kind, None) in said


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
