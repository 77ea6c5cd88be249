"""What an endpoint may do at once, and when: slots by priority, a pace, a pause, refusals, a breaker, replicas at rest.

Small parts that know nothing of models. Refusals and the breaker act on the pause, which everybody waits for. Time spent
waiting here never counts as a model's time.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aloe_agents.errors import Fatal, Stopping

LONGEST_PAUSE = 3600.0
"""Seconds: a server that asks for a longer pause ends the run."""
REST = 30.0
"""Seconds for which a replica that gave no answer is passed over, where there are others."""

log = logging.getLogger(__name__)


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
        """Have ``capacity`` places from now on. Where more are taken, none is handed out until enough are back."""
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
        """Loop time at which it ends."""
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._jitter = random.Random()

    @property
    def left(self) -> float:
        """Seconds that are left of it; 0.0 outside of an event loop."""
        try:
            return max(0.0, self.until - asyncio.get_running_loop().time())
        except RuntimeError:
            return 0.0

    def extend(self, seconds: float, now: float) -> None:
        """Send nothing for ``seconds`` from ``now`` (loop time), and up to a fifth longer, lest many clients return at
        once. It never ends earlier than it would have.
        """
        self.until = max(self.until, now + seconds * (1 + 0.2 * self._jitter.random()))

    async def over(self, stopping: Callable[[], bool]) -> bool:
        """Wait for the end of the pause, however often it is extended. Says whether there was one."""
        loop = asyncio.get_running_loop()
        waited = False
        while (left := self.until - loop.time()) > 0:
            waited = True
            await self.sleep(left, stopping)
        return waited

    async def sleep(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Sleep. Raises Stopping when halted meanwhile, and at once where the caller's run is ``stopping``: the pause
        belongs to the endpoint, which may serve another run after this one.
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


class Refusals:
    """Episodes of 429, each from the first refusal to the next answer.

    ===============  ===============================================  ===========
    state            a call is refused                                an answer
    ===============  ===============================================  ===========
    no episode       it begins: a first pause, one step down          no change
    in its pause     the pause may grow; no step, for these calls     ends it
                     left before it began
    pause over       a longer pause, another step down                ends it
    over patience    the run ends                                     --
    ===============  ===============================================  ===========

    A pause lasts as long as the server asks (Retry-After), or else 1, 2, 4 ... 60 seconds.
    """

    def __init__(self, label: str, pause: Pause, patience: float) -> None:
        self._label, self._pause, self._patience = label, pause, patience
        self._since: float | None = None
        self._steps = 0

    def refused(self, wished: float | None, now: float) -> bool:
        """A call was refused, with a wish for ``wished`` seconds of rest. Says whether to take a step down in capacity.

        Raises Fatal where the server asks for more than LONGEST_PAUSE, or an episode outlasts the patience.
        """
        self._since = now if self._since is None else self._since
        if now - self._since > self._patience:
            raise Fatal(
                f"{self._label} has answered 429 for {(now - self._since) / 60:.0f} minutes; all answers so far are kept: "
                "run the same command again later, or lower its capacity or requests_per_minute"
            )
        if wished is not None and wished > LONGEST_PAUSE:
            raise Fatal(
                f"{self._label} asked us to wait {wished / 3600:.1f} hours (Retry-After); all answers so far are kept: "
                "run the same command again then"
            )
        step_down = now >= self._pause.until
        self._steps += step_down
        growing = min(60.0, 0.5 * 2.0 ** min(self._steps, 10))
        self._pause.extend(growing if wished is None else wished, now)
        return step_down

    def answered(self) -> None:
        """A call was answered, which ends the episode."""
        self._since, self._steps = None, 0


class Breaker:
    """Open while a server answers nobody: then one call at a time goes through, to try, and the others wait.

    ========  ==============================  ============================  ==============
    state     a call fails                    a call is answered            who is sent
    ========  ==============================  ============================  ==============
    closed    the third in a row opens it     failures are forgotten        everybody
    open      no change: it left before       closes it                     nobody
    trying    open again, pause twice as      closes it                     the one that
              long, up to 30 seconds                                        tries
    ========  ==============================  ============================  ==============

    It opens at the third failure in a row where nothing was sent (refused, 503), or where three different callers
    failed otherwise: one caller alone may have asked what breaks the server. After ``patience`` seconds the run ends.
    """

    FAILURES = 3

    def __init__(self, label: str, pause: Pause, patience: float) -> None:
        self.since: float | None = None
        """When the first of the failures came, loop time; None while the server answers."""
        self.open = False
        self.why = ""
        """The words of the last failure."""
        self._label, self._pause, self._patience = label, pause, patience
        self._refusals = 0
        self._callers: set[str] = set()
        self._wait = 1.0
        self._trying = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def failed(self, caller: str, why: str, now: float, *, refused: bool, wished: float = 0.0) -> None:
        """A call of ``caller`` got no answer, for the reason ``why``. ``refused``: the server did no work for it;
        ``wished``: seconds of rest that it asks for. Raises Fatal once the patience is over.
        """
        self.since = now if self.since is None else self.since
        self.why = why
        was_open = self.open
        if wait := self._counted(caller, refused):
            self._pause.extend(max(wait, min(wished, LONGEST_PAUSE)), now)
        if self.open and not was_open:
            log.warning("%s does not answer (%s); waiting for it, and sending nothing until it does", self._label, why)
        if self.open and now - self.since > self._patience:
            raise Fatal(
                f"{self._label} has not answered any request for {self._patience / 60:.0f} minutes ({why}); all answers "
                "so far are kept: run the same command again when it is back"
            )

    def answered(self) -> None:
        """A call was answered, in whatever way: the server is there."""
        if self.since is None:
            return
        was_open = self.open
        self.since, self.open, self._refusals, self._wait = None, False, 0, 1.0
        self._callers.clear()
        self._wake_all()
        if was_open:
            log.warning("%s answers again", self._label)

    async def admit(self, stopping: Callable[[], bool]) -> bool:
        """Wait until the server may be asked. True: this call is the one that tries; it must :meth:`tried` after."""
        while self.open:
            await self._pause.over(stopping)
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

    def _counted(self, caller: str, refused: bool) -> float:
        """Count a failure. Returns the seconds for which to leave the server alone."""
        self._refusals += refused
        self._callers.add(caller)
        if not self.open:
            self.open = max(self._refusals, len(self._callers)) >= self.FAILURES
            return self._wait if self.open else 0.0
        if not self._trying:  # it was sent before the breaker opened
            return 0.0
        self._wait = min(30.0, 2 * self._wait)
        return self._wait

    def _wake_all(self) -> None:
        while self._waiting:
            _wake(self._waiting.popleft())


class Replicas:
    """Which of ``count`` replicas a conversation asks: its own, or the next that is not resting.

    ========  ==========================  ===========================================
    state     it gives no answer          who asks it
    ========  ==========================  ===========================================
    well      rests for REST seconds      its conversations, and those of its resting
                                          neighbours
    resting   the rest begins anew        nobody, unless all rest: then those whose
                                          rest ends first
    ========  ==========================  ===========================================
    """

    def __init__(self, count: int) -> None:
        self._rests = [0.0] * count

    def place(self, conversation: str, now: float) -> int:
        """The number of the replica to ask at ``now`` (loop time)."""
        count = len(self._rests)
        if count == 1:
            return 0
        home = int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:4], "big")
        places = [(home + step) % count for step in range(count)]
        return next((place for place in places if self._rests[place] <= now), min(places, key=self._rests.__getitem__))

    def rest(self, place: int, now: float) -> None:
        """Pass the replica over for REST seconds."""
        self._rests[place] = now + REST


@dataclass
class Leases:
    """Slots lent to workers that share them, so that no call has to ask: never more in all than there are."""

    slots: int
    """How many there are."""
    lent: dict[int, int] = field(default_factory=dict)
    """How many each worker may use, or still uses."""
    wanted: dict[int, int] = field(default_factory=dict)
    """How many each worker could use."""

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
