"""An endpoint: where a model is reached, within limits, again if need be.

The way of a call: a slot (by urgency) -> the pace, the shared pause, the breaker -> written down as sent -> a replica,
under a wall-clock deadline. What may pass is tried again:

- a lost connection, a timeout, 408, 409, 5xx, a body that is no answer: after a jittered, growing wait, up to
  ``attempts`` times and ``deadline`` seconds in all;
- 429: the whole endpoint pauses, for as long as the server asks or else for a growing while, fewer calls are sent at
  once from then on, and the call does not count it as an attempt;
- a server that answers nobody: the breaker opens, one call at a time tries it, and none of them counts an attempt.
  If it is refused or dead for ``patience`` seconds, the run ends.

This is the one layer that retries. Time spent waiting for a slot, a pause or the pace is no model's time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tenacity

from aloe_agents.errors import CallFailed, FailureReason, Fatal, Stopping, Transient
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.models.adaptive import AdaptiveCapacity
from aloe_agents.models.limits import Breaker, Pace, Pause, Slots

LONGEST_PAUSE = 3600.0
"""A server that asks for a longer one is not waited for."""
REST = 30.0
"""Seconds for which a replica that did not answer is passed over, where there are others."""
FIRST, MOST = 8, 1024
"""Calls at once to a server whose capacity is not given: at the start, and ever."""
POLL = 2.0
"""Seconds between two looks at an engine's own count of waiting requests."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an endpoint is allowed. Times are in seconds; None is no limit."""

    capacity: int | None = None
    """Calls in flight; None: found out (``adaptive``), up to MOST."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    """For one attempt, from sending to the last byte."""
    deadline: float = 600.0
    """For all attempts of a call and the waits between them."""
    attempts: int = 6
    patience: float = 900.0
    """How long an endpoint may answer nobody before the run ends."""


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
        capacity = limits.capacity
        self._adaptive = AdaptiveCapacity(capacity or MOST, None if capacity else FIRST, given=capacity is not None)
        self.slots = Slots(self._adaptive.now)
        self.pause = Pause()
        self.breaker = Breaker()
        self._replicas = tuple(replicas)
        self._rests = [0.0] * len(self._replicas)
        self._polled = 0.0
        self._poll: asyncio.Task[None] | None = None
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

    def lend(self, slots: int) -> None:
        """Have so many slots from now on, of a capacity that is shared with others."""
        self._adaptive.limit(slots)
        self.slots.resize(self._adaptive.now)

    def halt(self) -> None:
        """The run is stopping: whoever waits raises Stopping; what was sent lands."""
        self.slots.halt()
        self.pause.halt()
        self.breaker.halt()

    async def close(self) -> None:
        """Close the connections."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])
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
            trying = self.breaker.open and await self.breaker.admit(self.pause, call.stopping)
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
                self._note(call, failure, tries, loop.time() - sent)
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
        place = self._place(call.conversation)
        seconds = max(0.001, min(self.limits.timeout, self.limits.deadline - tries.spent))
        try:
            async with asyncio.timeout(seconds):
                return await self._replicas[place].chat(call)
        except TimeoutError:
            self._rests[place] = asyncio.get_running_loop().time() + REST
            text = f"{self.label} gave no answer within {seconds:g} s"
            raise Transient(FailureReason.DEADLINE, text, uncertain=True) from None
        except Transient as failure:
            if failure.reason in _SILENT:
                self._rests[place] = asyncio.get_running_loop().time() + REST
            raise

    def _place(self, conversation: str) -> int:
        """The conversation's own replica, or the next one that is not resting."""
        count = len(self._replicas)
        if count == 1:
            return 0
        home = int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:4], "big")
        now = asyncio.get_running_loop().time()
        places = [(home + step) % count for step in range(count)]
        return next((place for place in places if self._rests[place] <= now), min(places, key=self._rests.__getitem__))

    def _note(self, call: Call, failure: CallFailed | Fatal, tries: _Tries, seconds: float) -> None:
        """Write a failed attempt down, and draw the conclusions that concern everybody."""
        reason = failure.reason if isinstance(failure, CallFailed) else FailureReason.REFUSED_REQUEST
        uncertain = isinstance(failure, Transient) and failure.uncertain
        if call.log:
            call.log.failed(str(reason), uncertain=uncertain)
        self.tally.retries[reason] = self.tally.retries.get(reason, 0) + 1
        if reason not in _SILENT:  # whatever it said, it is there
            self._there()
        if not isinstance(failure, Transient):
            return
        if reason is FailureReason.RATE_LIMITED:
            self._refused(failure)
            return
        if reason in _SILENT:
            self._silent(call, failure)
        if not self.breaker.open:
            tries.failures += 1
            tries.spent += seconds

    def _silent(self, call: Call, failure: Transient) -> None:
        """The server gave no answer: leave it alone for a while if it gives none to anybody."""
        now, was_open = asyncio.get_running_loop().time(), self.breaker.open
        wait = self.breaker.failed(call.conversation, str(failure), now, refused=not failure.uncertain)
        if wait:
            wait = max(wait, min(failure.retry_after or 0.0, LONGEST_PAUSE))
            self.pause.extend(now + wait * (1 + 0.2 * self._jitter.random()))
        if self.breaker.open and not was_open:
            log.warning("%s does not answer (%s); waiting for it, nothing is sent meanwhile", self.label, failure)
        if self.breaker.open and now - (self.breaker.since or now) > self.limits.patience:
            raise Fatal(
                f"{self.label} has answered nobody for {self.limits.patience / 60:.0f} minutes ({failure}); all that "
                "was answered is kept: run the same command again when it is back"
            )

    def _there(self) -> None:
        if self.breaker.succeeded(asyncio.get_running_loop().time()):
            log.warning("%s answers again", self.label)

    def _refused(self, failure: Transient) -> None:
        now = asyncio.get_running_loop().time()
        self._refused_since = now if self._refused_since is None else self._refused_since
        if now - self._refused_since > self.limits.patience:
            minutes = (now - self._refused_since) / 60
            raise Fatal(
                f"{self.label} has answered 429 for {minutes:.0f} minutes; all that was answered is kept: "
                "run the same command again later, or lower its capacity or requests_per_minute"
            )
        if now >= self.pause.until:  # one step an episode, not one a refused call
            self._refusals += 1
            self._adaptive.refused()
            self.slots.resize(self._adaptive.now)
        growing = min(60.0, 0.5 * 2.0 ** min(self._refusals, 10))
        wait = growing if failure.retry_after is None else failure.retry_after
        if wait > LONGEST_PAUSE:
            raise Fatal(
                f"{self.label} asks to be left alone for {wait / 3600:.1f} hours; all that was answered is kept: "
                "run the same command again then"
            )
        self.pause.extend(now + wait * (1 + 0.2 * self._jitter.random()))

    def _answered(self, completion: Completion, estimate: float) -> None:
        now = asyncio.get_running_loop().time()
        self._refused_since, self._refusals = None, 0
        self._there()
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
        counts = [await count() for replica in self._replicas if (count := getattr(replica, "waiting", None))]
        known = [count for count in counts if count is not None]
        if not known:
            self._polled = float("inf")  # they never will
        elif self._adaptive.queued(sum(known)):
            self.slots.resize(self._adaptive.now)


_SILENT = (FailureReason.UNREACHABLE, FailureReason.DEADLINE, FailureReason.SERVER_ERROR)
"""Failures of which a server that is down, starting or stuck is the likely cause."""


@dataclass(slots=True)
class _Tries:
    """One call's attempts: the stop and the wait that tenacity asks for."""

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
