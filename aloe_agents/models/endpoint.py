"""An endpoint: where a model is reached, within limits, with as many attempts as it takes.

The way of a call: a slot (by urgency) -> the pace, the shared pause, the breaker -> written down as sent -> a replica,
under a wall-clock deadline. What may pass is tried again:

- A lost connection, a timeout, 408, 409, 5xx or a body that is no answer: after a wait that grows and has jitter, up to
  ``attempts`` times and ``deadline`` seconds in all.
- 429: the whole endpoint pauses (``limits.Refusals``) and sends fewer calls at once from then on. It costs no attempt.
- A server that answers nobody: the breaker opens (``limits.Breaker``), one call at a time tries the server, and none
  of these costs an attempt.

In the last two cases the run ends after ``patience`` seconds. Nothing else retries. Time spent waiting for a slot, a
pause or the pace does not count as a model's time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import tenacity

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal, Stopping, Transient
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.adaptive import AdaptiveCapacity
from aloe_agents.models.limits import LONGEST_PAUSE, Breaker, Pace, Pause, Refusals, Replicas, Slots

FIRST, MOST = 8, 1024
"""Calls at once to a server whose capacity is not given: at the start, and at most."""
POLL = 2.0
"""Seconds between two looks at an engine's own count of waiting requests."""
SILENT = frozenset({FailureReason.UNREACHABLE, FailureReason.DEADLINE, FailureReason.SERVER_ERROR})
"""Failures that a server causes which is down, starting or stuck."""
LONGEST_WAIT = 30.0
"""Seconds between two attempts of a call, at most."""


_jitter = random.Random()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an endpoint is allowed. Times are in seconds; None is no limit. Raises ConfigError for what cannot be."""

    capacity: int | None = None
    """Calls in flight at once; None: measured (``adaptive``), up to MOST."""
    requests_per_minute: float | None = None
    """Requests sent per minute, evenly spaced."""
    tokens_per_minute: float | None = None
    """Tokens per minute, of prompts and answers together."""
    timeout: float = 120.0
    """For one attempt, from sending to the last byte."""
    deadline: float = 600.0
    """For all attempts of a call and the waits between them."""
    attempts: int = 6
    """How often a call is sent before it fails."""
    patience: float = 900.0
    """For how long an endpoint may give no answer at all before the run ends."""

    def __post_init__(self) -> None:
        _check_count("capacity", 1 if self.capacity is None else self.capacity)
        _check_count("attempts", self.attempts)
        for name in ("requests_per_minute", "tokens_per_minute"):
            _check_positive(name, 1.0 if getattr(self, name) is None else getattr(self, name))
        for name in ("timeout", "deadline", "patience"):
            _check_positive(name, getattr(self, name))


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} must be a whole number, at least 1, not {value!r}")


def _check_positive(name: str, value: object) -> None:
    if not (isinstance(value, int | float) and value > 0):
        raise ConfigError(f"{name} must be above 0, not {value!r}")


@dataclass(slots=True)
class Tally:
    """What an endpoint has done so far."""

    calls: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0


class Endpoint:
    """A ChatModel with limits and retries around one or several replicas of a model.

    ``replicas`` are ChatModels of one name; a conversation stays with one of them, and moves on only when that one
    fails. ``sampling`` goes with every call. ``price`` is money per million prompt and completion tokens.
    ``async with Endpoint(...) as model:`` closes its connections at the end. Raises ConfigError where there is no
    replica, or where they are not one model.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[ChatModel],
        limits: Limits = Limits(),
        *,
        sampling: Mapping[str, object] | None = None,
        price: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._models = tuple(replicas)
        if not self._models:
            raise ConfigError(f"endpoint {name!r} has no replica; give it at least one model")
        if others := {model.name for model in self._models} - {self._models[0].name}:
            raise ConfigError(
                f"the replicas of endpoint {name!r} must be one model, not {self._models[0].name!r} and {min(others)!r}"
            )
        self.label = name
        self.limits = limits
        self.sampling: Mapping[str, object] = dict(sampling or {})
        self.price = price
        self.tally = Tally()
        capacity = limits.capacity
        self._adaptive = AdaptiveCapacity(capacity or MOST, None if capacity else FIRST, given=capacity is not None)
        self.slots = Slots(self._adaptive.now)
        self.pause = Pause()
        self.breaker = Breaker(name, self.pause, limits.patience)
        self._refusals = Refusals(name, self.pause, limits.patience)
        self._replicas = Replicas(len(self._models))
        self._requests = Pace(limits.requests_per_minute)
        self._tokens = Pace(limits.tokens_per_minute)
        self._polled = 0.0
        self._poll: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The model's name, which answers are kept under; the endpoint's own is ``label``, which may change."""
        return self._models[0].name

    def using(self, sampling: Mapping[str, object]) -> ChatModel:
        """The same endpoint, limits and all, with other sampling on top of its own."""
        return _Sampled(self, {**self.sampling, **sampling})

    def lend(self, slots: int) -> None:
        """Use at most ``slots`` calls at once from now on: this worker's share of a capacity."""
        self._adaptive.limit(slots)
        self.slots.resize(self._adaptive.now)

    def halt(self) -> None:
        """The run is stopping: whoever waits raises Stopping; what was sent lands."""
        self.slots.halt()
        self.pause.halt()
        self.breaker.halt()

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])
        for model in self._models:
            if close := getattr(model, "close", None):
                await close()

    async def chat(self, call: Call) -> Completion:
        """Answer ``call``. Raises CallFailed once that is hopeless, Fatal where it would be for every other call too, and
        Stopping where the run stops first.
        """
        tries = _Tries(self, call)
        try:
            return await self._attempt(call, tries)
        except Transient as failure:
            return await self._again(call, tries, failure)

    async def _again(self, call: Call, tries: _Tries, failure: Transient) -> Completion:
        """The attempts after the first. tenacity's machinery costs as much as the rest of a call, and nearly every call
        succeeds at once. So it starts only here, and takes ``failure`` for the outcome of its first attempt.
        """
        known: list[Transient] = [failure]

        async def attempt() -> Completion:
            if known:
                raise known.pop()
            return await self._attempt(call, tries)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tries.exhausted,
            wait=tries.wait,
            sleep=lambda seconds: self.pause.sleep(seconds, call.stopping),
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, call: Call, tries: _Tries) -> Completion:
        loop = asyncio.get_running_loop()
        queued = loop.time()
        if call.stopping():
            raise Stopping("the run is stopping")
        await self.slots.take(call.remaining)
        trying = False
        try:
            estimate = await self._turn_comes(call)
            trying = self.breaker.open and await self.breaker.admit(call.stopping)
            if call.stopping():
                raise Stopping("the run is stopping")
            sent = loop.time()
            if call.log:
                await call.log.sent(self.label, sent - queued)
                sent = loop.time()
            ticket, took = self._adaptive.started(self.slots.taken), None
            try:
                completion = await self._send(call, tries)
                took = loop.time() - sent
            except (CallFailed, Fatal) as failure:
                self._failed(call, failure, tries, loop.time() - sent)
                raise
            finally:
                if self._adaptive.finished(ticket, took):
                    self.slots.resize(self._adaptive.now)
            self._answered(completion, estimate)
            return completion
        finally:
            if trying:
                self.breaker.tried()
            self.slots.give()

    async def _turn_comes(self, call: Call) -> float:
        """Wait for pause and pace, both; returns the tokens that were booked."""
        loop = asyncio.get_running_loop()
        estimate = 0.0
        if self.limits.tokens_per_minute:  # four characters a token, and the answer at its longest
            characters = sum(len(message["content"]) for message in call.messages)
            longest = call.sampling.get("max_tokens")
            estimate = characters / 4 + (longest if isinstance(longest, int | float) else 256)
        while True:
            wait = max(self._requests.book(1, loop.time()), self._tokens.book(estimate, loop.time()))
            if wait > 0:
                await self.pause.sleep(wait, call.stopping)
            if not await self.pause.over(call.stopping):
                return estimate
            # what was booked passed during the pause: book anew, lest all who waited go at once

    async def _send(self, call: Call, tries: _Tries) -> Completion:
        now = asyncio.get_running_loop().time
        place = self._replicas.place(call.conversation, now())
        seconds = max(0.001, min(self.limits.timeout, self.limits.deadline - tries.spent))
        try:
            async with asyncio.timeout(seconds):
                return await self._models[place].chat(call)
        except TimeoutError:
            self._replicas.rest(place, now())
            text = f"{self.label} gave no answer within {seconds:g} s"
            raise Transient(FailureReason.DEADLINE, text, uncertain=True) from None
        except Transient as failure:
            if failure.reason in SILENT:
                self._replicas.rest(place, now())
            raise

    def _failed(self, call: Call, failure: CallFailed | Fatal, tries: _Tries, seconds: float) -> None:
        """Write a failed attempt down, and draw the conclusions that concern everybody."""
        reason = failure.reason if isinstance(failure, CallFailed) else FailureReason.REFUSED_REQUEST
        uncertain = bool(getattr(failure, "uncertain", False))
        if call.log:
            call.log.failed(str(reason), uncertain=uncertain)
        self.tally.retries[reason] = self.tally.retries.get(reason, 0) + 1
        if reason not in SILENT:  # whatever it said, it is there
            self.breaker.answered()
        if not isinstance(failure, Transient):
            return
        now = asyncio.get_running_loop().time()
        if reason is FailureReason.RATE_LIMITED:
            if self._refusals.refused(failure.retry_after, now):
                self._adaptive.refused()
                self.slots.resize(self._adaptive.now)
            return
        if reason in SILENT:
            wished = failure.retry_after or 0.0
            self.breaker.failed(call.conversation, str(failure), now, refused=not uncertain, wished=wished)
        if not self.breaker.open:
            tries.failures += 1
            tries.spent += seconds

    def _answered(self, completion: Completion, estimate: float) -> None:
        now = asyncio.get_running_loop().time()
        self._refusals.answered()
        self.breaker.answered()
        tally = self.tally
        tally.calls += 1
        tally.prompt_tokens += completion.prompt_tokens
        tally.completion_tokens += completion.completion_tokens
        tally.cached_tokens += completion.cached_tokens
        paid = completion.prompt_tokens * self.price[0] + completion.completion_tokens * self.price[1]
        tally.cost += paid / 1e6
        self._tokens.correct(completion.prompt_tokens + completion.completion_tokens - estimate)
        if self.limits.capacity is None and now > self._polled + POLL and (self._poll is None or self._poll.done()):
            self._polled = now
            self._poll = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Ask the engines how many requests wait in them, where they tell (``ChatModel.waiting``)."""
        counts = [await count() for model in self._models if (count := getattr(model, "waiting", None))]
        known = [count for count in counts if count is not None]
        if not known:
            self._polled = float("inf")  # they never will
        elif self._adaptive.queued(sum(known)):
            self.slots.resize(self._adaptive.now)


@dataclass(slots=True)
class _Tries:
    """One call's attempts: the stop and the wait that tenacity asks for.

    The wait is drawn anew each time, between 0.1 seconds and 0.5 * 2**failures, and is at least what the server asks for.
    """

    endpoint: Endpoint
    call: Call
    failures: int = 0
    spent: float = 0.0

    def exhausted(self, state: tenacity.RetryCallState) -> bool:
        limits = self.endpoint.limits
        return self.failures >= limits.attempts or self.spent >= limits.deadline

    def wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Transient) and failure.reason is FailureReason.RATE_LIMITED:
            return 0.0  # the shared pause is the wait
        if self.endpoint.breaker.open:
            return 0.0  # so is the breaker
        longest = min(LONGEST_WAIT, 0.5 * 2.0**self.failures)
        wished = failure.retry_after if isinstance(failure, Transient) else None
        seconds = max(_jitter.uniform(0.1, longest), min(wished or 0.0, LONGEST_PAUSE))
        self.spent += seconds
        return seconds


class _Sampled:
    """An endpoint with other sampling on top of its own."""

    def __init__(self, endpoint: Endpoint, sampling: Mapping[str, object]) -> None:
        self.endpoint = endpoint
        self.sampling = sampling
        self.chat = endpoint.chat
        self.halt = endpoint.halt

    @property
    def name(self) -> str:
        return self.endpoint.name
