"""A pool grows: rounds of proposals on the bus, each checked, compared, and let in or dropped (paper, section 2.1).

1. A round is a conversation of its own on the bus: ``RoundOpened`` shows a few members of the pool to a generator,
   ``Proposed`` is what it says. Several rounds are under way at once.
2. Rounds are taken in order, whichever answers first: checked, embedded, compared with the pool as the rounds before
   left it. How many more are opened, and with which examples, is decided right then, from the pool and the seed alone.
   So the pool is a function of seed and answers, under every timing.
3. Growth ends when the pool has its target size, when the last rounds brought hardly anything new (the bottleneck of
   the paper), or when the budget is spent.
4. Resume: rounds that the journal holds are read from it, opened rounds keep their examples, answers are not asked
   again. A round that failed stays failed, since what came after it was asked without it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Bus, Observer, ask_plainly
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.outcome import hold_conversation
from aloe_agents.errors import ConfigError, FailureReason, Fatal
from aloe_agents.messages import Proposed, RoundOpened, SketchGiven
from aloe_agents.personas import Persona
from aloe_agents.pools.items import Drop, Item, ids_after
from aloe_agents.pools.proposals import Kind, likeness, objection
from aloe_agents.pools.similarity import Novelty, Vectors
from aloe_agents.runs.recorder import Recorder

_AT_ONCE = 5000
"""Members whose vectors are fetched at a time."""

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
"""Texts to vectors (texts, dimension); ``VectorStore.vectors``, as a rule."""


@dataclass(frozen=True, kw_only=True)
class GrowthPlan:
    """How a pool is to grow. The defaults are the paper's, where it gives any."""

    of: Kind
    target: int
    """Members at which growth ends."""
    seed: int = 0
    examples: int = 5
    """Members that a round shows to the generator."""
    wanted: int = 20
    """Items that a round asks for."""
    ahead: int = 4
    """Rounds under way at once, at the most."""
    bottleneck: float = 0.05
    """Growth ends when a smaller share of what the last ``window`` rounds proposed was new."""
    window: int = 5
    calls: int | None = None
    """Budget, counted over the whole growth, resumed or not; so are the next two."""
    tokens: int | None = None
    money: float | None = None
    price: tuple[float, float] = (0.0, 0.0)
    """Of a million prompt and completion tokens."""


@dataclass(slots=True)
class Spent:
    """What the rounds that were taken have used."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, price: tuple[float, float]) -> float:
        """In money."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6


@dataclass(slots=True)
class Round:
    """What became of one round."""

    number: int
    status: str = "completed"
    """``completed``, ``failed`` or ``pending``."""
    reason: str = ""
    proposed: int = 0
    accepted: int = 0


@dataclass(slots=True)
class State:
    """Where a growth stands; shown while it goes on."""

    items: list[Item]
    drops: list[Drop] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    """Those that were taken, in order."""
    opened: int = 0
    spent: Spent = field(default_factory=Spent)
    ended: str = ""
    """Why growth ended: ``target``, ``bottleneck``, ``budget``, ``failures``; empty while it goes on, or if it was
    stopped.
    """

    def share(self, window: int) -> float | None:
        """The share that was new of what the last ``window`` completed rounds proposed; None before there are any."""
        last = [taken for taken in self.rounds if taken.status == "completed"][-window:]
        proposed = sum(taken.proposed for taken in last)
        return sum(taken.accepted for taken in last) / max(proposed, 1) if last else None

    def dropped(self) -> Counter[str]:
        """Drops by reason."""
        return Counter(drop.reason for drop in self.drops)


class Growth:
    """One growth of one pool, from ``base`` (hand-written seeds, or a pool that is to grow on).

    ``generator`` is an agent that hears RoundOpened and says Proposed. Without ``novelty`` only equal texts are
    dropped, and nothing is embedded.
    """

    def __init__(
        self,
        generator: Agent,
        base: Sequence[Item],
        plan: GrowthPlan,
        embed: Embed | None,
        novelty: Novelty | None,
        *,
        recorder: Recorder | None = None,
        observers: Sequence[Observer] = (),
        anew: bool = False,
    ) -> None:
        """``anew``: the journal's openings are not to be kept, since the run's settings were changed.

        Raises ConfigError for a plan that cannot be.
        """
        if RoundOpened not in generator.hears:
            raise ConfigError(f"agent {generator.name!r} cannot grow a pool: it does not hear RoundOpened")
        if not base:
            raise ConfigError("a pool grows from at least one item")
        if min(plan.target, plan.wanted, plan.ahead, plan.window, plan.examples) < 1:
            raise ConfigError("target, wanted, ahead, window and examples are 1 or more")
        self.plan = plan
        self.state = State(list(base))
        self._ids = ids_after(item.id for item in base)
        self._embed, self._novelty = embed, novelty
        self._recorder, self._anew = recorder, anew
        watching = [*([recorder.observe] if recorder else []), *observers]
        self._bus = Bus([generator], watching, record=recorder.record if recorder else ask_plainly)
        self._known = {likeness(item.text) for item in base}
        self._examples: dict[str, tuple[str, ...]] = {}
        """Of rounds that an earlier process opened."""
        self._over: dict[str, _Over] = {}
        """Rounds that came to an end in an earlier process."""
        self._in_a_row = 0

    def stop(self) -> None:
        """Ask nothing more; what is in flight lands in the journal."""
        self._bus.stop()

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called, or a Fatal did it."""
        return self._bus.stopped

    async def run(self) -> State:
        """Grow. Raises Fatal if one ended it, after what was in flight had landed."""
        await self._recall()
        if self._novelty is not None and self._embed is not None:
            for start in range(0, len(self.state.items), _AT_ONCE):
                piece = [item.text for item in self.state.items[start : start + _AT_ONCE]]
                self._novelty.add(await self._embed(piece))
        self._judge()
        under_way: deque[asyncio.Task[_Over]] = deque()
        try:
            while not self.state.ended and not self._bus.stopped:
                while self._may_open(len(under_way)):
                    self.state.opened += 1
                    opening = self._opening(self.state.opened)
                    under_way.append(asyncio.create_task(self._hold(opening)))
                if not under_way:
                    self.state.ended = "budget"
                    break
                if (over := await under_way.popleft()).status != "pending":
                    await self._take(over)
        except BaseException:
            for task in under_way:
                task.cancel()
            raise
        finally:  # what was asked is paid for: it lands in the journal, for a growth that goes on from here
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._bus.cause:
            raise self._bus.cause
        return self.state

    async def _recall(self) -> None:
        if self._recorder is None:
            return
        await self._recorder.prepare()
        if self._anew:
            return
        for id, held in (await self._recorder.held("RoundOpened", "Proposed")).items():
            if opened := held.said.get("RoundOpened"):
                self._examples[id] = tuple(opened["examples"])
            if held.status in ("completed", "failed"):
                items = tuple(held.said["Proposed"]["items"]) if "Proposed" in held.said else ()
                spent = Spent(held.calls, held.prompt_tokens, held.completion_tokens)
                self._over[id] = _Over(held.status, held.reason, items, self._examples.get(id, ()), spent)
        last = max((id for id, over in self._over.items() if over.status == "completed"), default="")
        self._over = {id: over for id, over in self._over.items() if id <= last}  # nothing was asked without the others

    def _may_open(self, under_way: int) -> bool:
        """Whether one more round is to be opened now, with so many under way. It depends on the rounds taken alone."""
        plan, state = self.plan, self.state
        if _id(state.opened + 1) in self._examples:  # paid for already
            return under_way < plan.ahead
        missing = plan.target - len(state.items)
        share = state.share(plan.window)
        needed = math.ceil(missing / (plan.wanted * max(share if share is not None else 1.0, plan.bottleneck, 0.01)))
        return under_way < min(plan.ahead, needed) and self._within_budget(under_way + 1)

    def _within_budget(self, more: int) -> bool:
        """Whether ``more`` rounds like those before fit into what is left."""
        plan, spent, taken = self.plan, self.state.spent, len(self.state.rounds)
        if not taken:  # what a round costs is not known yet
            return more <= (plan.calls or more) and (more == 1 or (plan.tokens is None and plan.money is None))
        used = (spent.calls, spent.prompt_tokens + spent.completion_tokens, spent.cost(plan.price))
        limits = (plan.calls, plan.tokens, plan.money)
        return all(limit is None or use * (1 + more / taken) <= limit for use, limit in zip(used, limits, strict=True))

    def _opening(self, number: int) -> RoundOpened:
        id, plan = _id(number), self.plan
        examples = self._examples.get(id)
        if examples is None:
            members = [item.text for item in self.state.items]
            examples = tuple(random.Random(f"{id} {plan.seed}").sample(members, min(plan.examples, len(members))))
        return RoundOpened(conversation=id, of=plan.of, examples=examples, wanted=plan.wanted)

    async def _hold(self, opening: RoundOpened) -> _Over:
        id = opening.conversation
        if id in self._over:
            return self._over.pop(id)
        if self._recorder:
            requested = ("UPDATE run SET requested = max(requested, ?)", (self.state.opened,))
            self._recorder.journal.post(requested)
        return await _propose(self._bus, self._recorder, opening, self.plan.seed, opening.examples)

    async def _take(self, over: _Over) -> None:
        """Check, embed and compare what a round proposed."""
        state = self.state
        taken = Round(len(state.rounds) + 1, over.status, over.reason, len(over.items))
        source = f"round {taken.number}"
        fresh: list[str] = []
        for text in over.items:
            reason = objection(text, self.plan.of, over.examples)
            reason = reason or ("repeated" if likeness(text) in self._known else None)
            if reason:
                state.drops.append(Drop(text=text, reason=reason, source=source))
            else:
                self._known.add(likeness(text))
                fresh.append(text)
        if self._novelty is not None and self._embed is not None and fresh:
            verdicts = self._novelty.admit(await self._embed(fresh))
        else:
            verdicts = None
        before = len(state.items)
        members = [item.text for item in state.items]
        for n, text in enumerate(fresh):
            if verdicts is None or verdicts[n].new:
                members.append(text)
                state.items.append(Item(text=text, id=next(self._ids), source=source))
            else:
                near = verdicts[n]
                state.drops.append(
                    Drop(
                        text=text,
                        reason="similar",
                        source=source,
                        similarity=round(near.similarity, 4),
                        nearest=members[near.nearest],
                    )
                )
        del state.items[max(self.plan.target, before) :]
        taken.accepted = len(state.items) - before
        state.rounds.append(taken)
        state.spent.calls += over.spent.calls
        state.spent.prompt_tokens += over.spent.prompt_tokens
        state.spent.completion_tokens += over.spent.completion_tokens
        self._in_a_row = self._in_a_row + 1 if over.status == "failed" else 0
        self._judge()

    def _judge(self) -> None:
        """Whether growth is over."""
        plan, state = self.plan, self.state
        completed = sum(taken.status == "completed" for taken in state.rounds)
        share = state.share(plan.window)
        if len(state.items) >= plan.target:
            state.ended = "target"
        elif self._in_a_row >= plan.window:
            state.ended = "failures"
        elif completed >= plan.window and share is not None and share < plan.bottleneck:
            state.ended = "bottleneck"


async def expand(
    generator: Agent,
    sketches: Sequence[str],
    *,
    live: int = 64,
    recorder: Recorder | None = None,
    observers: Sequence[Observer] = (),
    on_bus: Callable[[Bus], None] = lambda bus: None,
) -> list[str | None]:
    """Full profiles of personas in a sentence each, in their order; None where none could be had.

    ``generator`` hears SketchGiven. ``on_bus`` gets the bus, whose ``stop`` ends it. Raises Fatal if one ended it.
    """
    if SketchGiven not in generator.hears:
        raise ConfigError(f"agent {generator.name!r} cannot expand sketches: it does not hear SketchGiven")
    watching = [*([recorder.observe] if recorder else []), *observers]
    bus = Bus([generator], watching, record=recorder.record if recorder else ask_plainly)
    on_bus(bus)
    held = {}
    if recorder:
        await recorder.prepare()
        held = await recorder.held("Proposed")
    places = asyncio.Semaphore(live)

    async def one(number: int, sketch: str) -> str | None:
        id = f"sketch-{number:06d}"
        if id in held and held[id].status == "completed" and "Proposed" in held[id].said:
            return str(held[id].said["Proposed"]["items"][0])
        async with places:
            if bus.stopped:
                return None
            over = await _propose(bus, recorder, SketchGiven(conversation=id, text=sketch), 0, ())
        return over.items[0] if over.items else None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n, sketch)) for n, sketch in enumerate(sketches, 1)]
    if bus.cause:
        raise bus.cause
    return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class _Over:
    """A round that came to its end."""

    status: str
    reason: str
    items: tuple[str, ...]
    examples: tuple[str, ...]
    spent: Spent


async def _propose(
    bus: Bus, recorder: Recorder | None, opening: RoundOpened | SketchGiven, seed: int, examples: tuple[str, ...]
) -> _Over:
    id = opening.conversation
    nobody = Persona(id=id, profile="", personality="")
    conversation = Conversation(id=id, seed=seed, persona=nobody, turns=1)
    try:
        status, reason = await hold_conversation(bus, recorder, conversation, opening, _verdict)
    except Fatal as fatal:
        bus.stop(fatal)
        status, reason = "pending", ""
    proposed = conversation.said.get(("Proposed", (), ""))
    items = proposed.items if isinstance(proposed, Proposed) else ()
    spent = Spent(conversation.calls, conversation.prompt_tokens, conversation.completion_tokens)
    return _Over(status, reason, items, examples, spent)


def _verdict(conversation: Conversation) -> tuple[str, str]:
    if conversation.interrupted:
        return "pending", ""
    if ("Proposed", (), "") in conversation.said:
        return "completed", ""
    return "failed", conversation.failures[0].reason if conversation.failures else str(FailureReason.STUCK)


def _id(number: int) -> str:
    return f"round-{number:05d}"
