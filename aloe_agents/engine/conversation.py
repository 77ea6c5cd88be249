"""One live conversation: a single-assignment store of addressed messages.

1. An address is assigned once and never changes, so whoever reads it reads the same, under every schedule.
2. Reading an address that is not assigned yet parks the reader until it is.
3. The store counts the deliveries that can still move. When none can and some are parked, nobody is left to
   say what they wait for: all of them are woken with :class:`~aloe_agents.errors.Stuck`.

It knows no agent, no model and no bus; the bus puts messages in, scenes read them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aloe_agents.errors import SaidTwice, Stuck
from aloe_agents.messages import Address, Answered, Failed, Message, NodePath, UserSaid
from aloe_agents.personas import Exchange, Persona


@dataclass(slots=True)
class Delivery:
    """One agent's work on one heard message, as far as the count of the movable goes."""

    needs: int = 0
    asks: int = 0
    parked: bool = False
    over: bool = False
    landed: asyncio.Future[None] | None = None
    """Awaited where its agent is done while calls that it made are in flight."""


@dataclass(slots=True)
class Conversation:
    """The state of one conversation while it lives; nothing keeps it once it has ended."""

    id: str
    seed: int
    persona: Persona
    turns: int
    said: dict[Address, Message] = field(default_factory=dict)
    failures: list[Failed] = field(default_factory=list)
    interrupted: bool = False
    """A call was not made because the run is stopping."""
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chains: dict[NodePath, int] = field(default_factory=dict)
    """Memo of the longest chain of calls from a node on (``wiring``)."""
    _histories: dict[NodePath, tuple[Exchange, ...]] = field(default_factory=dict)
    """What was said does not change, so a node's history is put together once for all who see it."""
    _movable: int = 0
    _waiting: dict[Address, list[tuple[asyncio.Future[None], Delivery]]] = field(default_factory=dict)

    def assign(self, message: Message) -> None:
        """Store ``message`` and wake whoever waits for it. Raises SaidTwice if its address is taken."""
        address = message.address
        if address in self.said:
            raise SaidTwice(f"{describe(address)} was said before")
        self.said[address] = message

    def wake(self, address: Address) -> None:
        """Let those go on who wait for ``address``, which is assigned."""
        for future, delivery in self._waiting.pop(address, ()):
            self._unpark(delivery)
            if not future.done():
                future.set_result(None)

    async def read(self, address: Address, delivery: Delivery) -> Message:
        """The message at ``address``, waited for. Raises Stuck if nobody is left to say it."""
        if (message := self.said.get(address)) is not None:
            return message
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, []).append((future, delivery))
        delivery.needs += 1
        self.settle(delivery)
        try:
            await future
        except asyncio.CancelledError:
            waiting = self._waiting.get(address, [])
            if (future, delivery) in waiting:
                waiting.remove((future, delivery))
                self._unpark(delivery)
            raise
        return self.said[address]

    def begin(self, delivery: Delivery) -> None:
        """A delivery starts; it can move."""
        self._movable += 1

    async def land(self, delivery: Delivery) -> None:
        """Wait for the calls of a delivery whose agent is done, and let go what else of it waits: an agent that failed in
        one branch of a ``gather`` leaves the others behind.
        """
        if delivery.needs:
            for waiting in self._waiting.values():
                for future in [future for future, mine in waiting if mine is delivery]:
                    future.cancel()
        while delivery.asks:
            delivery.landed = asyncio.get_running_loop().create_future()
            await delivery.landed

    def end(self, delivery: Delivery) -> None:
        """A delivery is over."""
        delivery.over = True
        if not delivery.parked:
            self._movable -= 1
        self._break_deadlock()

    def settle(self, delivery: Delivery) -> None:
        """Count ``delivery`` anew after its needs or asks changed: it cannot move while all it does is wait."""
        if delivery.landed is not None and not delivery.landed.done() and not delivery.asks:
            delivery.landed.set_result(None)
        if delivery.over:
            return
        parked = delivery.needs > 0 and delivery.asks == 0
        if parked != delivery.parked:
            delivery.parked = parked
            self._movable += -1 if parked else 1
            if parked:
                self._break_deadlock()

    def history(self, path: NodePath) -> tuple[Exchange, ...]:
        """The exchanges on the way to the node ``path``, oldest first; the persona's opening comes before all."""
        if not path:
            return self.persona.opening
        if (known := self._histories.get(path)) is None:
            *before, label = path
            node = tuple(before)
            user, answer = self.said["UserSaid", node, ""], self.said["Answered", node, label]
            assert isinstance(user, UserSaid) and isinstance(answer, Answered)
            known = self._histories[path] = (*self.history(node), Exchange(user.text, answer.text, label))
        return known

    def _unpark(self, delivery: Delivery) -> None:
        delivery.needs -= 1
        self.settle(delivery)

    def _break_deadlock(self) -> None:
        if self._movable or not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for address, waiters in waiting.items():
            for future, delivery in waiters:
                self._unpark(delivery)
                if not future.done():
                    future.set_exception(Stuck(f"nobody is left to say {describe(address)}"))


def describe(address: Address) -> str:
    """An address in words: ``Scored 'preferred/judge' at turn 3 (preferred, rejected)``."""
    kind, path, label = address
    way = f" ({', '.join(path)})" if path else ""
    return f"{kind}{f' {label!r}' if label else ''} at turn {len(path) + 1}{way}"
