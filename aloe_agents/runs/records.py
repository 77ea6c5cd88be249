"""What is counted of a run, as plain records that turn into JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from aloe_agents.errors import ConfigError


class Record:
    """A frozen dataclass with ``to_json`` and a ``from_json`` that checks types."""

    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The record that ``to_json`` wrote. Raises ConfigError, naming the field, for anything else."""
        from pydantic import TypeAdapter, ValidationError  # not needed to write records

        try:
            return TypeAdapter(cls).validate_python(value, strict=False)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "it"
            raise ConfigError(f"not a record of {cls.__name__}: {place}: {problem['msg'].lower()}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord(Record):
    """One reason for which conversations failed (or answers are missing), with the first case in its own words."""

    reason: str
    """One of :class:`~aloe_agents.errors.FailureReason`."""
    count: int
    error: str
    """What the first one said."""
    agent: str
    turn: int
    """Counted from 1."""
    conversation: str
    """The first one's id."""

    def __str__(self) -> str:
        return f"{self.count} {self.reason}: {self.error} ({self.where})"

    @property
    def where(self) -> str:
        """Agent, turn and conversation of the first case."""
        who = f"agent {self.agent}, " if self.agent else ""
        return f"{who}turn {self.turn} of {self.conversation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Record):
    """Calls, and tokens as the server counted them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the server took from its prefix cache."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting(Record):
    """What became of everything that was requested: completed + failed + pending = requested, always."""

    requested: int
    completed: int
    failed: Mapping[str, int]
    """Conversations by reason."""
    pending: int
    """Neither completed nor failed: a run that is resumed takes them up."""
    finished: bool
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    retries: Mapping[str, int]
    """Attempts that brought no usable answer, by reason."""
    uncertain: int = 0
    """Attempts that were cut off: the server may have charged for them."""
    cost: float = 0.0
    """Money, by the endpoints' prices."""
    roles: Mapping[str, Usage]
    """By agent."""
    failures: tuple[FailureRecord, ...] = ()
    """Why conversations failed, by reason."""
    gaps: tuple[FailureRecord, ...] = ()
    """What agents failed to say in conversations that went on all the same, by agent and reason: inessential agents, and
    essential ones where it concerned an answer that was not chosen."""
