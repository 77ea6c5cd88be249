"""What a run looks like at one moment, for whoever shows it.

A :class:`Snapshot` is plain data. :class:`Progress` makes it inside the run, as an observer that counts and keeps
the text of two conversations; ``reading`` makes the same from a journal. Nothing in here draws.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloe_agents.messages import (
    Answered,
    CallFinished,
    Chosen,
    ConversationEnded,
    ConversationStarted,
    Failed,
    Message,
    NodePath,
    PersonaRevealed,
    UserSaid,
)
from aloe_agents.personas import Persona

SHOWN = 2
"""Conversations whose dialogue is kept for showing."""
LINGER = 3.0
"""Seconds for which a finished dialogue stays before the next one takes its place."""


@dataclass(slots=True)
class EndpointLine:
    """One endpoint, as far as it is known from where the picture is made."""

    name: str
    model: str
    capacity: int | None
    """Calls that may be in flight at the moment; None: not known from there."""
    in_flight: int = 0
    waiting: int = 0
    calls: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    paused: float = 0.0
    """Seconds left of a pause."""
    trouble: str = ""
    """Why it answers nobody, if so."""


@dataclass(slots=True)
class Node:
    """One turn of a shown dialogue."""

    user: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Dialogue:
    """A conversation as it grows."""

    conversation: str
    persona: Persona
    nodes: dict[NodePath, Node] = field(default_factory=dict)
    profile: str | None = None
    personality: str | None = None
    status: str = "running"
    ended: float = 0.0

    def add(self, path: NodePath, kind: str, label: str, body: dict[str, object]) -> None:
        """Take up one message, by its kind's name."""
        match kind:
            case "UserSaid":
                self.nodes.setdefault(path, Node()).user = str(body["text"])
            case "Answered":
                self.nodes.setdefault(path, Node()).answers[label] = str(body["text"])
            case "Chosen":
                labels = body["labels"]
                assert isinstance(labels, list | tuple)
                self.nodes.setdefault(path, Node()).chosen = tuple(labels)
            case "PersonaRevealed":
                self.profile, self.personality = (
                    None if body[part] is None else str(body[part]) for part in ("profile", "personality")
                )
            case "Failed":
                self.nodes.setdefault(path, Node()).failures.append(f"{body['agent']}: {body['error']}")


@dataclass(slots=True)
class Snapshot:
    """A run at one moment."""

    name: str
    seed: int
    turns: int
    requested: int
    completed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    live: int = 0
    turns_done: int = 0
    calls: int = 0
    replayed: int = 0
    calls_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    endpoints: list[EndpointLine] = field(default_factory=list)
    dialogues: list[Dialogue] = field(default_factory=list)
    finished: bool = False

    @property
    def pending(self) -> int:
        """Requested, but neither completed nor failed."""
        return self.requested - self.completed - sum(self.failed.values())

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens over all endpoints."""
        return sum(e.prompt_tokens for e in self.endpoints), sum(e.completion_tokens for e in self.endpoints)

    @property
    def cost(self) -> float:
        """Over all endpoints; 0 where no price is set."""
        return sum(endpoint.cost for endpoint in self.endpoints)


class Progress:
    """The observer inside a run. ``endpoints`` is asked for its lines whenever a snapshot is made."""

    def __init__(
        self, name: str, seed: int, turns: int, requested: int, endpoints: Callable[[], Sequence[EndpointLine]] = list
    ) -> None:
        self._name, self._seed, self._turns, self.requested = name, seed, turns, requested
        self._endpoints = endpoints
        self.skipped = 0
        """Conversations that an earlier process completed."""
        self.completed = 0
        self.failed: dict[str, int] = {}
        self.live = 0
        self.turns_done = 0
        self.calls = 0
        self.replayed = 0
        self._started = time.monotonic()
        self._pace: deque[tuple[float, int, int]] = deque(maxlen=32)
        self._shown: dict[str, Dialogue] = {}

    def observe(self, message: Message, sender: str) -> None:
        """Count ``message``, and keep it if it belongs to a shown conversation."""
        match message:
            case CallFinished():
                self.calls += 1
                self.replayed += message.replayed
                return
            case ConversationStarted(persona=persona):
                self.live += 1
                self._show(message.conversation, persona)
            case ConversationEnded():
                self.live -= 1
                if message.status == "completed":
                    self.completed += 1
                elif message.status == "failed":
                    self.failed[message.reason] = self.failed.get(message.reason, 0) + 1
                if (shown := self._shown.get(message.conversation)) is not None:
                    shown.status, shown.ended = message.status, time.monotonic()
            case UserSaid():
                self.turns_done += 1
        if (shown := self._shown.get(message.conversation)) is not None and isinstance(
            message, UserSaid | Answered | Chosen | PersonaRevealed | Failed
        ):
            shown.add(message.path, type(message).__name__, message.label, message.body())

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run now. Rates are over the last few seconds, as far as snapshots reach back."""
        now = time.monotonic()
        self._pace.append((now, self.calls, self.turns_done))
        then, calls, turns = next((p for p in self._pace if p[0] > now - 10), self._pace[0])
        over = now - self._started if finished or now - then < 0.2 else now - then
        calls, turns = (
            (self.calls, self.turns_done) if over != now - then else (self.calls - calls, self.turns_done - turns)
        )
        completed = self.completed + self.skipped
        waiting = self.requested - completed - sum(self.failed.values()) - self.live
        left = (waiting + self.live / 2) * self._turns  # on average half of a live one is done
        return Snapshot(
            name=self._name,
            seed=self._seed,
            turns=self._turns,
            requested=self.requested,
            completed=completed,
            failed=dict(self.failed),
            live=self.live,
            turns_done=self.turns_done,
            calls=self.calls,
            replayed=self.replayed,
            calls_per_second=calls / over if over > 0 else 0.0,
            seconds=now - self._started,
            seconds_left=None if finished or turns <= 0 else left * over / turns,
            endpoints=list(self._endpoints()),
            dialogues=list(self._shown.values()),
            finished=finished,
        )

    def _show(self, conversation: str, persona: Persona) -> None:
        if len(self._shown) >= SHOWN:
            gone = time.monotonic() - LINGER
            over = next((name for name, d in self._shown.items() if d.status != "running" and d.ended < gone), None)
            if over is None:
                return
            del self._shown[over]
        self._shown[conversation] = Dialogue(conversation, persona)
