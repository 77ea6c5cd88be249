"""What an endpoint may do at once, and when: slots by priority, a pace, a pause, a breaker.

Independent parts that know nothing of models. Waiting here is never counted as a model's time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aloe_agents.errors import Stopping


class Slots:
    """``capacity`` places, which may change; those who wait are served by priority, then first come.

    Invariant: a place that was taken is given back or handed on, whatever is cancelled or halted, at any moment.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.peak = 0
        """The most that were ever taken."""
        self._order = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not future.done() for _, _, future in self._waiting)

    async def take(self, priority: int) -> None:
        """Wait for a place; the highest ``priority`` first. Raises Stopping when halted while waiting."""
        if self.taken < self.capacity:
            self._occupy()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._waiting, (-priority, self._order, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give()  # the place was handed over at the moment of the cancellation
            raise

    def give(self) -> None:
        """Give a place back: to the first in line, if any."""
        self.taken -= 1
        self._hand_out()

    def resize(self, capacity: int) -> None:
        """Have so many places from now on. Where more are taken, none is handed out until enough are back."""
        self.capacity = capacity
        self._hand_out()

    def halt(self) -> None:
        """Let all who wait raise Stopping."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(Stopping("the run is stopping"))

    def _hand_out(self) -> None:
        while self._waiting and self.taken < self.capacity:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                self._occupy()

    def _occupy(self) -> None:
        self.taken += 1
        self.peak = max(self.peak, self.taken)


class Pace:
    """At most ``per_minute`` units a minute, evenly: each unit books the next free moment. None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    def book(self, units: float, now: float) -> float:
        """Book ``units`` and return how many seconds to wait before using them."""
        if not self._seconds:
            return 0.0
        start = max(self._next, now)
        self._next = start + units * self._seconds
        return start - now

    def correct(self, units: float) -> None:
        """Book ``units`` more (or fewer, if negative): what was booked was an estimate."""
        self._next += units * self._seconds


class Pause:
    """One pause for everybody, and a sleep that ends when the run stops."""

    def __init__(self) -> None:
        self.until = 0.0
        self._sleepers: deque[asyncio.Future[None]] = deque()

    @property
    def left(self) -> float:
        """Seconds that are left of it; 0.0 outside of an event loop."""
        try:
            return max(0.0, self.until - asyncio.get_running_loop().time())
        except RuntimeError:
            return 0.0

    def extend(self, until: float) -> None:
        """Nobody goes on before ``until`` (loop time)."""
        self.until = max(self.until, until)

    async def over(self, stopping: Callable[[], bool]) -> bool:
        """Wait for the end of the pause, however often it is extended. Says whether there was one."""
        loop = asyncio.get_running_loop()
        waited = False
        while (left := self.until - loop.time()) > 0:
            waited = True
            await self.sleep(left, stopping)
        return waited

    async def sleep(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Sleep. Raises Stopping when halted meanwhile, and at once where the caller's run is ``stopping``: a pause is the
        endpoint's, which may serve another run after this one.
        """
        if stopping():
            raise Stopping("the run is stopping")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        handle = loop.call_later(seconds, _wake, future)
        self._sleepers.append(future)
        try:
            await future
        finally:
            handle.cancel()
            self._sleepers.remove(future)

    def halt(self) -> None:
        """Let all who sleep raise Stopping."""
        for future in tuple(self._sleepers):
            if not future.done():
                future.set_exception(Stopping("the run is stopping"))


class Breaker:
    """Open while a server answers nobody: then one call at a time goes through, to try, and the others wait.

    It opens at the third failure in a row where nothing was sent (refused, 503), or where three different callers
    failed otherwise: one caller alone may have asked what breaks the server.
    """

    FAILURES = 3

    def __init__(self) -> None:
        self.since: float | None = None
        """When the first of the failures came, loop time; None while the server answers."""
        self.open = False
        self.why = ""
        self.closed_after = 0.0
        """Seconds for which it was open, over all times."""
        self._refusals = 0
        self._callers: set[str] = set()
        self._wait = 1.0
        self._trying = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def failed(self, caller: str, why: str, now: float, *, refused: bool) -> float:
        """A call failed. Returns how many seconds to leave the server alone, 0.0 while it is closed."""
        self.since = now if self.since is None else self.since
        self.why = why
        self._refusals += refused
        self._callers.add(caller)
        if not self.open:
            self.open = max(self._refusals, len(self._callers)) >= self.FAILURES
            return self._wait if self.open else 0.0
        if not self._trying:  # sent before it opened
            return 0.0
        self._wait = min(30.0, 2 * self._wait)
        return self._wait

    def succeeded(self, now: float) -> bool:
        """A call was answered. Says whether that closed the breaker."""
        if self.since is None:
            return False
        was_open = self.open
        if was_open:
            self.closed_after += now - self.since
        self.since, self.open, self._refusals, self._wait = None, False, 0, 1.0
        self._callers.clear()
        self._wake_all()
        return was_open

    async def admit(self, pause: Pause, stopping: Callable[[], bool]) -> bool:
        """Wait until the server may be asked. True: this call is the one that tries; it must :meth:`tried` after."""
        while self.open:
            await pause.over(stopping)
            if not self.open:
                break
            if not self._trying:
                self._trying = True
                return True
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        return False

    def tried(self) -> None:
        """The call that tried is over, whatever became of it."""
        self._trying = False
        self._wake_all()

    def halt(self) -> None:
        """Let all who wait raise Stopping."""
        while self._waiting:
            if not (future := self._waiting.popleft()).done():
                future.set_exception(Stopping("the run is stopping"))

    def _wake_all(self) -> None:
        while self._waiting:
            _wake(self._waiting.popleft())


@dataclass
class Leases:
    """Slots lent to workers that share them, so that no call has to ask: never more in all than there are."""

    slots: int
    lent: dict[int, int] = field(default_factory=dict)
    wanted: dict[int, int] = field(default_factory=dict)

    def report(self, worker: int, taken: int, wanted: int) -> int:
        """A worker has ``taken`` slots in use and could use ``wanted``. Returns how many it may use from now on."""
        self.wanted[worker] = wanted
        free = self.slots - sum(lent for other, lent in self.lent.items() if other != worker)
        grant = max(0, min(self._share(worker), free))
        self.lent[worker] = max(grant, taken)  # what is in use is lent until it is back
        return grant

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        self.lent.pop(worker, None)
        self.wanted.pop(worker, None)

    def _share(self, worker: int) -> int:
        """Equal shares; what some do not want goes to those who do, and what nobody wants to all alike."""
        left, shares = self.slots, dict.fromkeys(self.wanted, 0)
        for place, one in enumerate(sorted(self.wanted, key=lambda one: (self.wanted[one], one))):
            shares[one] = min(self.wanted[one], -(-left // (len(shares) - place)))
            left -= shares[one]
        return shares[worker] + left // len(shares)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
