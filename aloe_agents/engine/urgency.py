"""Which call matters most: how many calls of a conversation's longest chain start at it.

An endpoint serves the longest remaining chain first. So what only the unchosen answer needs waits behind what opens the
next turn, and no role has to say so. The number follows from who says what (``wiring``) and from the labels that are
known to go on; it knows kinds and labels, not messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.wiring import Expansion, says
from aloe_agents.messages import Answered, Message, NodePath, TurnOpened


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

    def _from(self, conversation: Conversation, agent: str, path: NodePath) -> int:
        longest = self._inside.get(agent, 1)
        if len(path) + 1 < conversation.turns:
            known = self._expansion.foreseen(conversation.seed, conversation.id, path)
            for label in self._expansion.labels if known is None else known:
                if to := self._to.get((agent, label), 0):
                    certain = known is not None and len(known) == 1
                    longest = max(longest, to + self._after(conversation, (*path, label), certain))
        return longest

    def _after(self, conversation: Conversation, path: NodePath, certain: bool) -> int:
        """The longest chain from the opening of the node ``path``."""
        if not certain:  # exact counting would walk every branch
            return (conversation.turns - len(path)) * max(self._turn, 1)
        openers, known, way = self._hearers.get(TurnOpened, ()), conversation.chains, []
        node: NodePath | None = path
        while node is not None and node not in known:  # to the end and back: the last turn's chain is known first
            way.append(node)
            node = self._only(conversation, node)
        for node in reversed(way):
            known[node] = max((self._from(conversation, name, node) for name in openers), default=0)
        return known[path]

    def _only(self, conversation: Conversation, path: NodePath) -> NodePath | None:
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
