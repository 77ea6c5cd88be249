"""The seam to language models: one coroutine from a :class:`Call` to a :class:`Completion`.

Anything that answers is a :class:`ChatModel`: a server behind HTTP, the scripted stand-in, or any class with a
``name`` and a ``chat``. Limits, retries and the journal wrap it (``models.endpoint``, ``runs.recorder``); a model
knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict


class ChatMessage(TypedDict):
    """One message of a prompt, in the form of OpenAI's chat completions."""

    role: str
    content: str


class Sampling(TypedDict, total=False):
    """How an answer is drawn: what a call may ask of a server beside its prompt, under the names of the HTTP API.

    It cannot hold what the framework sets itself (:data:`RESERVED`). A server's own parameters that are not listed here
    go into the endpoint's ``sampling``, which takes any name but the reserved ones.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int
    max_completion_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[str, float]
    logprobs: bool
    top_logprobs: int
    response_format: Mapping[str, object]
    structured_outputs: Mapping[str, object]
    reasoning_effort: str
    chat_template_kwargs: Mapping[str, object]


RESERVED = ("model", "messages", "stream", "n")
"""Parameters of a request that the framework sets itself: no sampling may hold them."""


class AttemptLog(Protocol):
    """Where an endpoint writes down each sending of a call, so that what was paid can be accounted for."""

    async def sent(self, endpoint: str, queued: float) -> None:
        """The request is about to leave; returns when that is on disk. ``queued`` is seconds spent waiting."""

    def failed(self, reason: str, *, uncertain: bool) -> None:
        """The sending brought no usable answer; ``uncertain``: the server may have done the work."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One chat completion to be made. Made by the bus; models read it and change nothing."""

    messages: tuple[ChatMessage, ...]
    sampling: Mapping[str, object] = field(default_factory=dict)
    """Temperature, max_tokens, seed and so on, sent as they stand (:class:`Sampling`)."""
    key: str = ""
    """The call's identity in the journal, sent as Idempotency-Key."""
    conversation: str = ""
    """One conversation stays with one replica, whose prefix cache holds its history."""
    remaining: int = 1
    """How many calls of the conversation's longest chain start with this one: the urgency."""
    stopping: Callable[[], bool] = lambda: False
    """Whether the run is stopping, so that nothing more may be sent."""
    log: AttemptLog | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model answered."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    raw: bytes = b""
    """The answer as it came, kept in the journal. Empty where the model has none apart from its text."""


class ChatModel(Protocol):
    """Whatever answers calls.

    ``name`` is the model's identity in the journal: answers of one name are taken for answers of one model.
    ``chat`` raises :class:`~aloe_agents.errors.Transient` where asking again may help,
    :class:`~aloe_agents.errors.CallFailed` where it will not, and :class:`~aloe_agents.errors.Fatal` where no
    other call can succeed either.

    Three attributes are optional: ``sampling``, a mapping sent with every call unless the role overrides it;
    ``halt()``, called when a run stops, which must make calls that wait (but not those already sent) raise
    :class:`~aloe_agents.errors.Stopping`; and the coroutine ``waiting()``, how many requests wait inside the server
    (None: it does not tell), by which an endpoint of unknown capacity is steered.
    """

    @property
    def name(self) -> str: ...

    async def chat(self, call: Call) -> Completion: ...
