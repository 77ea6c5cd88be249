"""An endpoint: where a model is reached, within limits, again if need be.

The way of a call: a slot (by urgency) -> the shared pause and the pace -> written down as sent -> the model, under a
wall-clock deadline. What may pass is tried again:

- a lost connection, a timeout, 408, 409, 5xx, a body that is no answer: after a jittered, growing wait, up to
  ``attempts`` times and ``deadline`` seconds in all;
- 429: the whole endpoint pauses, for as long as the server asks or else for a growing while, and the call does not
  count it as an attempt. If nothing gets through for ``patience`` seconds, the run ends.

This is the one layer that retries. Time spent waiting for a slot, a pause or the pace is no model's time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tenacity

from aloe_agents.errors import CallFailed, FailureReason, Fatal, Stopping, Transient
from aloe_agents.limits import Pace, Pause, Slots
from aloe_agents.model import Call, ChatModel, Completion

LONGEST_PAUSE = 3600.0
"""A server that asks for a longer one is not waited for."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an endpoint is allowed. Times are in seconds; None is no limit."""

    capacity: int = 64
    """Calls in flight."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    """For one attempt, from sending to the last byte."""
    deadline: float = 600.0
    """For all attempts of a call and the waits between them."""
    attempts: int = 6
    patience: float = 900.0


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

    ``replicas`` are ChatModels of one identity; a conversation stays with one of them, and moves on only when that
    one fails. ``sampling`` goes with every call. ``price`` is money per million prompt and completion tokens.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[ChatModel],
        limits: Limits = Limits(),
        *,
        sampling: Mapping[str, Any] | None = None,
        price: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.label = name
        self.limits = limits
        self.sampling: Mapping[str, Any] = dict(sampling or {})
        self.price = price
        self.tally = Tally()
        self.slots = Slots(limits.capacity)
        self.pause = Pause()
        self._replicas = tuple(replicas)
        self._requests = Pace(limits.requests_per_minute)
        self._tokens = Pace(limits.tokens_per_minute)
        self._refused_since: float | None = None
        self._refusals = 0
        self._jitter = random.Random()

    @property
    def name(self) -> str:
        """The model's identity; not the endpoint's, which may move."""
        return self._replicas[0].name

    def using(self, sampling: Mapping[str, Any]) -> ChatModel:
        """The same endpoint, limits and all, with other sampling on top of its own."""
        return _Sampled(self, {**self.sampling, **sampling})

    def halt(self) -> None:
        """The run is stopping: whoever waits raises Stopping; what was sent lands."""
        self.slots.halt()
        self.pause.halt()

    async def close(self) -> None:
        """Close the connections."""
        for replica in self._replicas:
            if close := getattr(replica, "close", None):
                await close()

    async def chat(self, call: Call) -> Completion:
        """Answer ``call``. Raises CallFailed once it is hopeless, Fatal where every other call is, Stopping."""
        tries = _Tries(self, call)
        try:
            return await self._attempt(call, tries)
        except Transient as failure:
            return await self._again(call, tries, failure)

    async def _again(self, call: Call, tries: _Tries, failure: Transient) -> Completion:
        """The attempts after the first. tenacity's machinery costs as much as the rest of a call, and nearly every
        call succeeds at once: so it is entered here, and takes ``failure`` for the outcome of its first attempt.
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
            sleep=self.pause.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, call: Call, tries: _Tries) -> Completion:
        loop = asyncio.get_running_loop()
        queued = loop.time()
        if call.stopping():
            raise Stopping("the run is stopping")
        await self.slots.take(call.remaining)
        try:
            estimate = await self._turn_comes(call)
            sent = loop.time()
            if call.log:
                await call.log.sent(self.label, sent - queued)
                sent = loop.time()
            try:
                completion = await self._send(call, tries)
            except CallFailed as failure:
                self._note(call, failure, tries, loop.time() - sent)
                raise
        finally:
            self.slots.give()
        self._refused_since, self._refusals = None, 0
        self._count(completion)
        self._tokens.correct(completion.prompt_tokens + completion.completion_tokens - estimate)
        return completion

    async def _turn_comes(self, call: Call) -> float:
        """Wait for pause and pace, both; returns the tokens that were booked."""
        loop = asyncio.get_running_loop()
        estimate = 0.0
        if self.limits.tokens_per_minute:  # four characters a token, and the answer at its longest
            characters = sum(len(message["content"]) for message in call.messages)
            estimate = characters / 4 + call.sampling.get("max_tokens", 256)
        wait = max(self._requests.book(1, loop.time()), self._tokens.book(estimate, loop.time()))
        if wait > 0:
            await self.pause.sleep(wait)
        await self.pause.over()
        if call.stopping():
            raise Stopping("the run is stopping")
        return estimate

    async def _send(self, call: Call, tries: _Tries) -> Completion:
        replica = self._replicas[0]
        if len(self._replicas) > 1:
            replica = self._replicas[(_home(call.conversation) + tries.moves) % len(self._replicas)]
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await replica.chat(call)
        except TimeoutError:
            text = f"{self.label} gave no answer within {self.limits.timeout:g} s"
            raise Transient(FailureReason.DEADLINE, text, uncertain=True) from None

    def _note(self, call: Call, failure: CallFailed, tries: _Tries, seconds: float) -> None:
        """Write a failed attempt down, and draw the conclusions that concern everybody."""
        uncertain = isinstance(failure, Transient) and failure.uncertain
        if call.log:
            call.log.failed(str(failure.reason), uncertain=uncertain)
        self.tally.retries[failure.reason] = self.tally.retries.get(failure.reason, 0) + 1
        if not isinstance(failure, Transient):
            return
        if failure.reason is FailureReason.RATE_LIMITED:
            self._refused(failure)
            return
        tries.failures += 1
        tries.spent += seconds
        if failure.reason in (FailureReason.UNREACHABLE, FailureReason.DEADLINE, FailureReason.SERVER_ERROR):
            tries.moves += 1

    def _refused(self, failure: Transient) -> None:
        now = asyncio.get_running_loop().time()
        self._refused_since = now if self._refused_since is None else self._refused_since
        if now - self._refused_since > self.limits.patience:
            minutes = (now - self._refused_since) / 60
            raise Fatal(
                f"{self.label} has answered 429 for {minutes:.0f} minutes; all that was answered is kept: "
                "run the same command again later, or lower its capacity or requests_per_minute"
            )
        if now >= self.pause.until:  # one step up an episode, not one a refused call
            self._refusals += 1
        growing = min(60.0, 0.5 * 2.0 ** min(self._refusals, 10))
        wait = growing if failure.retry_after is None else failure.retry_after
        if wait > LONGEST_PAUSE:
            raise Fatal(
                f"{self.label} asks to be left alone for {wait / 3600:.1f} hours; all that was answered is kept: "
                "run the same command again then"
            )
        self.pause.extend(now + wait * (1 + 0.2 * self._jitter.random()))

    def _count(self, completion: Completion) -> None:
        tally = self.tally
        tally.calls += 1
        tally.prompt_tokens += completion.prompt_tokens
        tally.completion_tokens += completion.completion_tokens
        tally.cached_tokens += completion.cached_tokens
        paid = completion.prompt_tokens * self.price[0] + completion.completion_tokens * self.price[1]
        tally.cost += paid / 1e6


@dataclass(slots=True)
class _Tries:
    """One call's attempts: the stop and the wait that tenacity asks for."""

    endpoint: Endpoint
    call: Call
    failures: int = 0
    spent: float = 0.0
    moves: int = 0

    def exhausted(self, state: tenacity.RetryCallState) -> bool:
        limits = self.endpoint.limits
        return self.failures >= limits.attempts or self.spent >= limits.deadline

    def wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Transient) and failure.reason is FailureReason.RATE_LIMITED:
            return 0.0  # the shared pause is the wait
        longest = min(30.0, 0.5 * 2.0**self.failures)
        wished = failure.retry_after if isinstance(failure, Transient) else None
        seconds = max(self.endpoint._jitter.uniform(0.1, longest), min(wished or 0.0, LONGEST_PAUSE))
        self.spent += seconds
        return seconds


class _Sampled:
    """An endpoint seen through other sampling."""

    def __init__(self, endpoint: Endpoint, sampling: Mapping[str, Any]) -> None:
        self.endpoint = endpoint
        self.sampling = sampling
        self.chat = endpoint.chat
        self.halt = endpoint.halt

    @property
    def name(self) -> str:
        return self.endpoint.name


def _home(conversation: str) -> int:
    return int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:4], "big")
