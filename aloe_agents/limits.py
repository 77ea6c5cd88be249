"""What an endpoint may do at once, and when: slots by priority, a pace, a pause.

Three independent parts that know nothing of models. Waiting here is never counted as a model's time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

from aloe_agents.errors import Stopping


class Slots:
    """``capacity`` places; those who wait are served by priority, then first come.

    Invariant: taken + free = capacity, whatever is cancelled or halted, at any moment.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._order = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not future.done() for _, _, future in self._waiting)

    async def take(self, priority: int) -> None:
        """Wait for a place; the highest ``priority`` first. Raises Stopping when halted while waiting."""
        if self.taken < self.capacity:
            self.taken += 1
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
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                return
        self.taken -= 1

    def halt(self) -> None:
        """Let all who wait raise Stopping."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(Stopping("the run is stopping"))


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

    def extend(self, until: float) -> None:
        """Nobody goes on before ``until`` (loop time)."""
        self.until = max(self.until, until)

    async def over(self) -> None:
        """Wait for the end of the pause, however often it is extended."""
        loop = asyncio.get_running_loop()
        while (left := self.until - loop.time()) > 0:
            await self.sleep(left)

    async def sleep(self, seconds: float) -> None:
        """Sleep. Raises Stopping when halted meanwhile."""
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


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
