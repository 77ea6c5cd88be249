"""How many calls a server takes at once, measured while it is used.

A hosted API refuses what is too much (429); a local engine queues it, and never says so. Both show their throughput:
mean calls in flight over mean seconds per call. So the capacity is judged once per epoch, over the first calls that
start in it (those that finish first are the short ones, and would flatter):

1. It grows only while most of it is in use, and only while throughput grows with it: by at least RISE of what it would
   if calls took no longer. It doubles at first, and grows by a quarter after the first doubt.
2. Where throughput no longer grows, the step is taken back and the capacity held; after HOLD epochs the next step is
   tried. When calls take half as long again as they used to, a step down is tried the same way.
3. A refusal (429) takes off 30 percent, and later ones 15, once per episode; from then on steps are small. Calls that
   wait in the engine (by its own metrics) are taken off: they wait better here, where the urgent go first.

It is arithmetic on what it is told; it knows no clock, no server and no task.
"""

from __future__ import annotations

import math

IN_USE = 0.8  # of the capacity: less is no demand for more
RISE = 0.25
HOLD = 6
SLOWER = 1.5  # seconds a call, over what they used to be
LEAST = 32  # calls an epoch, or twice the capacity where that is more


class AdaptiveCapacity:
    """Between 1 and ``ceiling`` calls at once. ``given``: the user set the ceiling, and only refusals cut it."""

    def __init__(self, ceiling: int, start: int | None = None, *, given: bool = False) -> None:
        self.ceiling = ceiling
        self.now = min(ceiling, start or ceiling)
        self._given = given
        self._step = 2.0
        self._came_from: tuple[int, float] | None = None
        self._usual: float | None = None
        self._hold = 0
        self._waited_before = False
        self._epoch = 0
        self._begin()

    def started(self, in_flight: int) -> int:
        """A call leaves, as the ``in_flight``-th at the moment. Returns its ticket, for :meth:`finished`."""
        if (self._given and self.now == self.ceiling) or self._tickets >= self._size:
            return -1
        self._tickets += 1
        self._in_flight += in_flight
        return self._epoch

    def finished(self, ticket: int, seconds: float | None) -> bool:
        """The call with this ticket ended: answered after ``seconds``, or not (None). Says whether the capacity changed."""
        if ticket != self._epoch:
            return False
        self._over += 1
        if seconds is not None:
            self._answered += 1
            self._seconds += seconds
        if self._over < 0.9 * self._size:  # the last stragglers are not waited for
            return False
        before, in_flight = self.now, self._in_flight / self._tickets
        if in_flight >= IN_USE * self.now and self._answered >= self._over / 2:  # else it is not slots that matter
            self._judge(in_flight, self._seconds / self._answered)
        self._begin()
        return self.now != before

    def limit(self, ceiling: int) -> None:
        """Have another ceiling from now on, and move to it if the old one was reached."""
        self.now = ceiling if self.now == self.ceiling else min(self.now, ceiling)
        self.ceiling = ceiling

    def refused(self) -> None:
        """The server said that this is too much. Call it once per episode."""
        self._settle(self.now * (0.7 if self._step > 1.25 else 0.85))
        self._step, self._hold = 1.1, HOLD // 2
        self._begin()

    def queued(self, waiting: int) -> bool:
        """The engine says that ``waiting`` calls wait in it; believed the second time. Says whether the capacity changed."""
        too_many = waiting > max(2, self.now // 4)
        believed, self._waited_before = too_many and self._waited_before, too_many
        if believed:
            self._waited_before = False  # the engine gets time to show the difference
            self._settle(self.now - waiting + max(2, self.now // 8))  # a few keep its batches full
            self._begin()
        return believed

    def _begin(self) -> None:
        self._epoch += 1
        self._size = max(LEAST, 2 * self.now)
        self._tickets = self._over = self._answered = self._in_flight = 0
        self._seconds = 0.0

    def _judge(self, in_flight: float, latency: float) -> None:
        """Draw the conclusion of an epoch: settle where a trial did not pay, or else try another capacity, or hold."""
        throughput = in_flight / max(latency, 1e-9)
        if self._given:  # to be trusted again soon
            self._move(self.now * 1.1)
        elif self._trial_pays(throughput, latency):
            self._next(throughput, latency)

    def _trial_pays(self, throughput: float, latency: float) -> bool:
        """Judge the trial that is under way, if any. False: it is over, and the capacity is settled."""
        trial = self._came_from
        if trial is not None and trial[0] == self.now:  # it could not go where it was to be tried
            trial = self._came_from = None
        if trial is None:
            self._usual = latency if self._usual is None else self._usual
            return True
        capacity, before = trial
        rise = math.log(throughput / before) / math.log(self.now / capacity)
        down = self.now < capacity
        if down or rise < RISE:
            self._settle(self.now if down and rise < RISE else capacity)
            return False
        if rise < 2 * RISE:
            self._step = min(self._step, 1.25)
        return True

    def _next(self, throughput: float, latency: float) -> None:
        """Step down where calls take much longer than they did; hold; or try a step up."""
        if self._came_from is None and self._usual is not None and latency > SLOWER * self._usual:
            self._usual = latency
            self._came_from = (self.now, throughput)
            self._move(self.now * 0.8)
        elif self._hold > 0:
            self._hold -= 1
        elif self.now < self.ceiling:
            self._came_from = (self.now, throughput)
            self._move(self.now * self._step)

    def _settle(self, capacity: float) -> None:
        self._move(capacity)
        self._came_from, self._usual, self._hold = None, None, HOLD
        self._step = min(self._step, 1.25)

    def _move(self, capacity: float) -> None:
        step = math.ceil(capacity) if capacity > self.now else int(capacity)
        self.now = max(1, min(self.ceiling, step))
