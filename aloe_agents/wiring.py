"""Who feeds whom, read off the agents before anything runs.

1. :func:`check` refuses a cast in which an agent hears what nobody says, before the first call is paid.
2. :func:`flow` prints it.
3. :class:`Chains` works out how many calls of a conversation's longest chain start at a given call. That number
   is the call's urgency: an endpoint serves the longest remaining chain first, so what only the unchosen answer
   needs waits behind what opens the next turn, and no role has to say so.

It is static: it knows kinds and labels, not messages.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence

from aloe_agents.agent import Agent
from aloe_agents.conversation import Conversation
from aloe_agents.errors import WiringError
from aloe_agents.messages import Answered, Message, Path, TurnOpened, UserSaid

Said = tuple[type[Message], str | None]
"""A kind and its label; None is any label."""


class Expansion(Agent, typing.Protocol):
    """An agent that decides which answers go on. See ``aloe_agents.expansion``."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the answers that it chooses among."""

    def leaves(self, turns: int) -> int:
        """At most so many nodes of a conversation of ``turns`` turns are open at once."""

    def foreseen(self, seed: int, conversation: str, path: Path) -> tuple[str, ...] | None:
        """The labels that go on at a node, where that is known before the answers exist; else None."""


def says(agent: Agent) -> tuple[Said, ...] | None:
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


class Chains:
    """The longest chain of calls that starts at an agent's delivery, one call a delivery assumed.

    Within a node it follows from who says what; beyond it from the labels that are known to go on. Where that is
    not known (a beam), every label may, and a later turn counts as long as its longest way to an answer.
    """

    def __init__(self, agents: Sequence[Agent], expansion: Expansion) -> None:
        self._expansion = expansion
        told = {agent.name: says(agent) for agent in agents}
        self._says = {name: said or () for name, said in told.items()}
        self._untold = {name for name, said in told.items() if said is None}
        self._hearers: dict[type[Message], list[str]] = {}
        for agent in agents:
            for kind in agent.hears:
                self._hearers.setdefault(kind, []).append(agent.name)
        self._inside = {name: self._longest(name, None, frozenset()) for name in self._says}
        self._to = {
            (name, label): self._longest(name, label, frozenset()) for name in self._says for label in expansion.labels
        }
        opening = self._hearers.get(TurnOpened, [])
        self._turn = max((self._to[name, label] for name in opening for label in expansion.labels), default=1)

    def remaining(self, conversation: Conversation, agent: str, heard: Message) -> int:
        """Calls of the longest chain that starts with ``agent``'s call on ``heard``, itself included."""
        return self._from(conversation, agent, heard.path)

    def leads_to(self, agent: str) -> set[str]:
        """The labels of the answers that ``agent``'s messages lead to: all, where it does not tell what it says."""
        every = self._expansion.labels
        return {label for label in every if agent in self._untold or self._to.get((agent, label))}

    def _from(self, conversation: Conversation, agent: str, path: Path) -> int:
        longest = self._inside.get(agent, 1)
        if len(path) + 1 < conversation.turns:
            known = self._expansion.foreseen(conversation.seed, conversation.id, path)
            for label in self._expansion.labels if known is None else known:
                if to := self._to.get((agent, label), 0):
                    certain = known is not None and len(known) == 1
                    longest = max(longest, to + self._after(conversation, (*path, label), certain))
        return longest

    def _after(self, conversation: Conversation, path: Path, certain: bool) -> int:
        """The longest chain from the opening of the node ``path``."""
        if not certain:  # exact counting would walk every branch
            return (conversation.turns - len(path)) * max(self._turn, 1)
        openers, known, way = self._hearers.get(TurnOpened, ()), conversation.chains, []
        node: Path | None = path
        while node is not None and node not in known:  # to the end and back: the last turn's chain is known first
            way.append(node)
            node = self._only(conversation, node)
        for node in reversed(way):
            known[node] = max((self._from(conversation, name, node) for name in openers), default=0)
        return known[path]

    def _only(self, conversation: Conversation, path: Path) -> Path | None:
        """The node that opens after ``path``, where that is known to be one."""
        if len(path) + 1 >= conversation.turns:
            return None
        known = self._expansion.foreseen(conversation.seed, conversation.id, path)
        return (*path, known[0]) if known is not None and len(known) == 1 else None

    def _longest(self, name: str, label: str | None, met: frozenset[str]) -> int:
        """Deliveries from ``name`` to the answer ``label`` (0: it leads to none), or to the node's end (None)."""
        if name in met:
            return 0
        longest = 0 if label is not None else 1
        for kind, of in self._says[name]:
            if kind is Answered and label is not None and of in (label, None):
                longest = max(longest, 1)
            if kind is not TurnOpened:
                for hearer in self._hearers.get(kind, ()):
                    if rest := self._longest(hearer, label, met | {name}):
                        longest = max(longest, 1 + rest)
        return longest


def _listed(declared: Iterable[type[Message] | Said]) -> tuple[Said, ...]:
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
