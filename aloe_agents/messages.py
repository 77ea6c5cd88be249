"""What is said on the bus.

1. A message is a small frozen dataclass at an address: its kind, its path, its label.
2. The path is the labels chosen so far: ``()`` is the first turn, ``("preferred",)`` the turn after the preferred
   answer. It names a node of the conversation's tree.
3. The label tells apart several messages of one kind at one node.
4. An address is assigned once in a conversation. That is what makes a run independent of its schedule.

A role says ``Answered(label="preferred", text=text)``. The bus fills in where it stands: conversation, path and label
are those of the message that the role heard, unless the role names others.

Define a kind by subclassing :class:`Message` with ``@dataclass(frozen=True, kw_only=True)``. It is journaled, shown and
put into the tree like the built-in ones. Its name is how journals and trees know it, so it must be unique.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from aloe_agents.errors import ConfigError
from aloe_agents.personas import Persona

NodePath = tuple[str, ...]
Address = tuple[str, NodePath, str]


class _SamePath(tuple[str, ...]):
    """The path of whatever the role heard."""


class _SameLabel(str):
    """The label of whatever the role heard."""

    __slots__ = ()


_SAME_PATH: NodePath = _SamePath()
_SAME_LABEL: str = _SameLabel()
_KINDS: dict[str, type[Message]] = {}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing said in one conversation at one node.

    Defining a second kind of the same name raises ConfigError, naming the modules of both.
    """

    conversation: str = ""
    path: NodePath = _SAME_PATH
    label: str = _SAME_LABEL

    observed_only: ClassVar[bool] = False
    """True for kinds that only observers see: no agent hears them and they take no address."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = _KINDS.setdefault(cls.__name__, cls)
        if known is not cls and not _same_definition(known, cls):
            raise ConfigError(
                f"the message kind {cls.__name__} of {cls.__module__} has the name of one in {known.__module__}; "
                "journals and trees know kinds by name, so rename it"
            )
        _KINDS[cls.__name__] = cls

    @property
    def address(self) -> Address:
        """Kind, path and label: unique in a conversation."""
        return type(self).__name__, self.path, self.label

    @property
    def turn(self) -> int:
        """The turn of the node, counted from 1."""
        return len(self.path) + 1

    def at(self, heard: Message) -> Self:
        """This message where ``heard`` stands: what it leaves open of conversation, path and label is that of ``heard``."""
        return replace(
            self,
            conversation=self.conversation or heard.conversation,
            path=tuple(heard.path if self.path is _SAME_PATH else self.path),
            label=str(heard.label if self.label is _SAME_LABEL else self.label),
        )

    def body(self) -> dict[str, object]:
        """The kind's own fields, without the address."""
        return {name: getattr(self, name) for name in _own_fields(type(self))}  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _own_fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name not in ("conversation", "path", "label"))


def _same_definition(one: type, other: type) -> bool:
    """Whether two classes are one: a notebook's cell run again, a script that is also imported, ``slots=True``."""
    if one.__module__ not in sys.modules:  # the first one's module is gone: code that was run from a file or a cell
        return True
    if one.__qualname__ != other.__qualname__:
        return False
    files = [getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in (one, other)]
    return one.__module__ == other.__module__ or (files[0] is not None and files[0] == files[1])


@dataclass(frozen=True, kw_only=True)
class TurnOpened(Message):
    """A node of the tree exists; the user is to speak."""


@dataclass(frozen=True, kw_only=True)
class Chosen(Message):
    """Which answers of a node go on (the paper's s_i). Said as soon as it is known: for a coin, before they exist."""

    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UserSaid(Message):
    """The user's message m_i."""

    text: str


@dataclass(frozen=True, kw_only=True)
class PersonaRevealed(Message):
    """What m_1..m_i have shown of the persona, in its own words; None where nothing has shown."""

    profile: str | None
    personality: str | None


@dataclass(frozen=True, kw_only=True)
class Answered(Message):
    """An answer to the user's message; the label says which one (``preferred``, ``rejected``, ...)."""

    text: str
    finish_reason: str = "stop"
    """``length`` where the model was cut off by its token limit."""


@dataclass(frozen=True, kw_only=True)
class Scored(Message):
    """A judge's score of one answer. Its label is ``ANSWER/JUDGE``, as :meth:`label_of` makes it."""

    score: float | None
    """None: the judge was asked and no score could be read from what it said. Missing, not guessed."""

    @staticmethod
    def label_of(answer: str, judge: str) -> str:
        """The label under which ``judge`` scores the answer labelled ``answer``."""
        return f"{answer}/{judge}"

    @classmethod
    def of(cls, answer: Answered, *, judge: str, score: float | None) -> Self:
        """The score that ``judge`` gives to ``answer``."""
        return cls(path=answer.path, label=cls.label_of(answer.label, judge), score=score)


@dataclass(frozen=True, kw_only=True)
class RoundOpened(Message):
    """A round of a pool's growth begins: new items are to be proposed (section 2.1)."""

    of: str
    """``profiles`` or ``personalities``."""
    examples: tuple[str, ...]
    """Members of the pool, drawn at random."""
    wanted: int


@dataclass(frozen=True, kw_only=True)
class SketchGiven(Message):
    """A persona in a sentence, to be made a full profile."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Proposed(Message):
    """What a generator proposes for a pool, in its order; nothing is checked yet."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConversationStarted(Message):
    """For observers: a conversation was admitted."""

    observed_only = True
    persona: Persona


@dataclass(frozen=True, kw_only=True)
class ConversationEnded(Message):
    """For observers: a conversation is over. ``status`` is ``completed``, ``failed`` or ``pending``."""

    observed_only = True
    status: str
    reason: str = ""
    turns: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Failed(Message):
    """For observers: an agent could not respond to a message. ``label`` is the agent's name and what it heard."""

    observed_only = True
    agent: str
    heard: Address
    reason: str
    error: str
    essential: bool = True


@dataclass(frozen=True, kw_only=True)
class CallFinished(Message):
    """For observers: an agent's question was answered, by a model or by the journal (``replayed``)."""

    observed_only = True
    agent: str
    model: str
    replayed: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
