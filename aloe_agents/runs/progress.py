"""What a run looks like at one moment, for whoever shows it.

A :class:`Snapshot` is plain data. :class:`Progress` makes it inside the run, as an observer that counts and keeps
the text of two conversations; ``reading`` makes the same from a journal. Nothing in here draws.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
from aloe_agents.runs.records import FailureRecord
from aloe_agents.tree import Entry, cause_of

WINDOW = 10.0
"""Seconds over which rates are taken."""
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
    failures: list[FailureRecord] = field(default_factory=list)
    """The reasons in ``failed``, each with the first case in its own words."""
    live: int = 0
    turns_done: int = 0
    turns_expected: float = 0.0
    """How many turns there will be in all, as far as can be told: :func:`expected_turns`."""
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


def expected_turns(requested: int, turns: int, ended: int, ended_turns: float) -> float:
    """The turns of a whole run: those of the ``ended`` conversations, and for each other one as many as they had on average
    (``turns`` before any has ended). Branching conversations have more than ``turns``, those that failed fewer.
    """
    each = ended_turns / ended if ended else turns
    return ended_turns + (requested - ended) * each


def seconds_left(now: Snapshot, turns_per_second: float) -> float | None:
    """The one estimate of the time left: turns that are missing at the present rate; None where it cannot be told."""
    if now.finished or turns_per_second <= 0:
        return None
    return max(0.0, now.turns_expected - now.turns_done) / turns_per_second


class Progress:
    """The observer inside a run. ``endpoints`` is asked for its lines whenever a snapshot is made."""

    def __init__(
        self, name: str, seed: int, turns: int, requested: int, endpoints: Callable[[], Sequence[EndpointLine]] = list
    ) -> None:
        self._name, self._seed, self._turns, self.requested = name, seed, turns, requested
        self._endpoints = endpoints
        self.skipped = 0
        """Conversations that an earlier process completed."""
        self._ended_turns = 0
        self._failing: dict[str, list[Entry]] = {}
        self._failures: dict[str, FailureRecord] = {}
        self.gaps: dict[tuple[str, str], FailureRecord] = {}
        """What agents failed to say in conversations that went on all the same, by agent and reason."""
        self.roles: dict[str, list[int]] = {}
        """By agent: calls, prompt tokens, completion tokens, cached tokens."""
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
                used = self.roles.setdefault(message.agent, [0, 0, 0, 0])
                used[0] += 1
                used[1] += message.prompt_tokens
                used[2] += message.completion_tokens
                used[3] += message.cached_tokens
                return
            case ConversationStarted(persona=persona):
                self.live += 1
                self._show(message.conversation, persona)
            case ConversationEnded():
                self.live -= 1
                if message.status == "completed":
                    self.completed += 1
                self._note_end(message)
                if (shown := self._shown.get(message.conversation)) is not None:
                    shown.status, shown.ended = message.status, time.monotonic()
            case UserSaid():
                self.turns_done += 1
            case Failed():
                self._failing.setdefault(message.conversation, []).append(Entry.of(message))
        if (shown := self._shown.get(message.conversation)) is not None and isinstance(
            message, UserSaid | Answered | Chosen | PersonaRevealed | Failed
        ):
            shown.add(message.path, type(message).__name__, message.label, message.body())

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run now. Rates are over the last few seconds, as far as snapshots reach back."""
        now = time.monotonic()
        self._pace.append((now, self.calls, self.turns_done))
        then, calls, turns = next((p for p in self._pace if p[0] > now - WINDOW), self._pace[0])
        if finished or now - then < 0.2:
            then, calls, turns = self._started, 0, 0
        over = max(now - then, 1e-9)
        completed = self.completed + self.skipped
        ended, skipped_turns = completed + sum(self.failed.values()), self.skipped * self._turns
        made = Snapshot(
            name=self._name,
            seed=self._seed,
            turns=self._turns,
            requested=self.requested,
            completed=completed,
            failed=dict(self.failed),
            failures=list(self._failures.values()),
            live=self.live,
            turns_done=self.turns_done + skipped_turns,
            turns_expected=expected_turns(self.requested, self._turns, ended, self._ended_turns + skipped_turns),
            calls=self.calls,
            replayed=self.replayed,
            calls_per_second=(self.calls - calls) / over,
            seconds=now - self._started,
            endpoints=list(self._endpoints()),
            dialogues=list(self._shown.values()),
            finished=finished,
        )
        made.seconds_left = seconds_left(made, (self.turns_done - turns) / over)
        return made

    def resumed(self, completed: int) -> None:
        """So many conversations were completed by an earlier process."""
        self.skipped = completed

    def _note_end(self, ended: ConversationEnded) -> None:
        failures = self._failing.pop(ended.conversation, [])
        if ended.status == "pending":
            return
        self._ended_turns += ended.turns
        if ended.status == "failed":
            count = self.failed[ended.reason] = self.failed.get(ended.reason, 0) + 1
            if (known := self._failures.get(ended.reason)) is None:
                cause = cause_of(ended.reason, failures)
                known = FailureRecord(**cause._asdict(), count=1, conversation=ended.conversation)
            self._failures[ended.reason] = replace(known, count=count)
        for failure in failures:
            if ended.status == "completed" or not failure.body["essential"]:
                self._note_gap(ended.conversation, failure)

    def _note_gap(self, conversation: str, failure: Entry) -> None:
        agent, reason = failure.body["agent"], failure.body["reason"]
        if (known := self.gaps.get((agent, reason))) is not None:
            self.gaps[agent, reason] = replace(known, count=known.count + 1)
            return
        error, turn = failure.body["error"], len(failure.path) + 1
        self.gaps[agent, reason] = FailureRecord(
            reason=reason, count=1, error=error, agent=agent, turn=turn, conversation=conversation
        )

    def _show(self, conversation: str, persona: Persona) -> None:
        if len(self._shown) >= SHOWN:
            gone = time.monotonic() - LINGER
            over = next((name for name, d in self._shown.items() if d.status != "running" and d.ended < gone), None)
            if over is None:
                return
            del self._shown[over]
        self._shown[conversation] = Dialogue(conversation, persona)
