"""How near a run came to the shortest time that it could have taken.

No schedule is shorter than the work of an endpoint divided by its slots, nor than the longest chain of calls that had
to wait for one another. Who waited for whom is read off addresses: a call waits for the message that its agent heard,
that message for the calls of its sender at the same node, an opened turn for the answer that its path ends with. What
cannot be told from them (which of several deliveries a message came from, what else an agent needed) counts as
nothing, so the bound is never too high.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aloe_agents.messages import Address, NodePath


@dataclass(frozen=True)
class Efficiency:
    """A run's makespan beside its lower bound, in seconds."""

    makespan: float
    """From the first call that queued to the last that was answered."""
    work: Mapping[str, float]
    """By endpoint: service seconds of all attempts, divided by its slots."""
    chain: float
    """The longest chain of service seconds in one conversation; 0.0 where none is longer than the work."""

    @property
    def bound(self) -> float:
        """What no schedule goes below."""
        return max(self.chain, *self.work.values())

    @property
    def ratio(self) -> float:
        """Makespan over bound: 1.0 is as good as can be."""
        return self.makespan / self.bound if self.bound > 0 else 1.0

    def __str__(self) -> str:
        if self.bound > max(self.work.values()):
            least = f"the longest chain of calls takes {self.chain:.1f} s"
        else:
            name, seconds = max(self.work.items(), key=lambda item: item[1])
            least = f"the work of {name} on all its slots takes {seconds:.1f} s"
        return f"{self.makespan:.1f} s of calls, {self.ratio:.2f} times the least possible ({least})"


def longest_chain(calls: Iterable[tuple[str, Address, float]], senders: Mapping[Address, str]) -> float:
    """Seconds of the longest chain of one conversation's calls, each given as agent, heard address and seconds.

    ``senders`` are the addresses that were said, and by whom.
    """
    deliveries: dict[tuple[str, NodePath], dict[Address, float]] = {}
    for agent, heard, seconds in calls:  # an agent may ask several times for one message, at once for all we know
        at = deliveries.setdefault((agent, heard[1]), {})
        at[heard] = max(at.get(heard, 0.0), seconds)
    ready: dict[Address, float] = {}

    def said_at(address: Address) -> float:
        if address not in ready:
            kind, path, _ = address
            ready[address] = 0.0  # a circle is no chain
            if kind == "TurnOpened" and path:
                ready[address] = said_at(("Answered", path[:-1], path[-1]))
            else:
                own = deliveries.get((senders.get(address, ""), path), {})
                ready[address] = min((said_at(heard) + seconds for heard, seconds in own.items()), default=0.0)
        return ready[address]

    longest = 0.0
    for _, own in sorted(deliveries.items(), key=lambda item: len(item[0][1])):  # turn by turn: no deep recursion
        longest = max(longest, *(said_at(heard) + seconds for heard, seconds in own.items()))
    return longest
