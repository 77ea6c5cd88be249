"""A pool grows: rounds of proposals on the bus, each checked, compared, and let in or dropped (paper, section 2.1).

1. A round is a conversation of its own on the bus: ``RoundOpened`` shows a few members of the pool to a generator,
   which says ``Proposed``. Several rounds are under way at once.
2. Rounds are taken in order, whichever answers first: checked, embedded, compared with the pool as the rounds before
   left it. Right then it is decided how many more to open, and with which examples, from the pool and the seed alone.
   So the pool is a function of seed and answers, under every timing.
3. Growth ends when the pool has its target size, when the last rounds brought hardly anything new (the bottleneck of
   the paper), or when the budget is spent.
4. Resume: finished rounds are read from the journal, opened rounds keep their examples, and no answer is asked for
   again. A round that failed stays failed, since later rounds were opened without its items.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Observer
from aloe_agents.errors import ConfigError
from aloe_agents.messages import RoundOpened
from aloe_agents.pools.items import Drop, Item, ids_after
from aloe_agents.pools.proposals import Kind, likeness, objection
from aloe_agents.pools.rounds import Proposal, Spent, bus_for, propose
from aloe_agents.pools.similarity import Admission, Novelty, Vectors
from aloe_agents.runs.recorder import PastConversation, Recorder

_AT_ONCE = 5000
"""How many members' vectors are fetched at a time."""

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
"""Texts to vectors (texts, dimension), such as ``VectorStore.vectors``."""


@dataclass(frozen=True, kw_only=True)
class GrowthPlan:
    """How a pool grows. The defaults are the paper's, where it gives any. Raises ConfigError for impossible values."""

    of: Kind
    target: int
    """Members at which growth ends."""
    seed: int = 0
    examples: int = 5
    """Members that a round shows to the generator."""
    wanted: int = 20
    """Items that a round asks for."""
    ahead: int = 4
    """The most rounds under way at once."""
    bottleneck: float = 0.05
    """Growth ends when a smaller share of what the last ``window`` rounds proposed was new."""
    window: int = 5
    calls: int | None = None
    """Budget of calls. All budgets count the whole growth, resumed or not."""
    tokens: int | None = None
    """Budget of tokens, of prompts and completions together."""
    money: float | None = None
    """Budget of money, by ``price``."""
    price: tuple[float, float] = (0.0, 0.0)
    """Money per million prompt tokens and per million completion tokens."""

    def __post_init__(self) -> None:
        for name in ("target", "examples", "wanted", "ahead", "window", "calls", "tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.money is not None and not self.money > 0:
            raise ConfigError(f"money must be more than 0, not {self.money:g}")
        if not 0 <= self.bottleneck <= 1:
            raise ConfigError(f"bottleneck must be from 0 to 1, not {self.bottleneck:g}")


@dataclass(slots=True)
class Round:
    """What became of one round."""

    number: int
    status: str = "completed"
    """``completed``, ``failed`` or ``pending``."""
    reason: str = ""
    """Why the round failed."""
    proposed: int = 0
    accepted: int = 0


@dataclass(slots=True)
class State:
    """Where a growth stands. One object lives as long as the growth and changes with it."""

    items: list[Item]
    drops: list[Drop] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    """The rounds that were taken, in order."""
    opened: int = 0
    """How many rounds were opened."""
    spent: Spent = field(default_factory=Spent)
    """What the taken rounds have used."""
    ended: str = ""
    """Why growth ended: ``target``, ``bottleneck``, ``budget``, ``failures``; empty while it lasts, or if it was stopped."""

    def share(self, window: int) -> float | None:
        """The share of new items in what the last ``window`` completed rounds proposed; None before there are any."""
        last = [taken for taken in self.rounds if taken.status == "completed"][-window:]
        proposed = sum(taken.proposed for taken in last)
        return sum(taken.accepted for taken in last) / max(proposed, 1) if last else None

    def dropped(self) -> Counter[str]:
        """How many drops there are for each reason."""
        return Counter(drop.reason for drop in self.drops)


class Growth:
    """One growth of one pool, from ``base`` (hand-written seeds, or the items of a pool).

    ``generator`` is an agent that hears RoundOpened and says Proposed. Without ``novelty`` only equal texts are
    dropped, and nothing is embedded. ``on_round`` is called with the state when growth begins and after each round.
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
        on_round: Callable[[State], None] | None = None,
    ) -> None:
        """``anew`` ignores the rounds in the journal, because settings have changed since. Answers are still reused.

        Raises ConfigError if the generator cannot grow a pool, or there is nothing to grow from.
        """
        check_generator(generator)
        if not base:
            raise ConfigError("a pool grows from at least one item")
        self.plan = plan
        self.state = State(list(base))
        self._ids = ids_after(item.id for item in base)
        self._embed, self._novelty = embed, novelty
        self._recorder, self._anew, self._on_round = recorder, anew, on_round
        self._bus = bus_for(generator, recorder, observers)
        self._known = {likeness(item.text) for item in base}
        self._examples: dict[str, tuple[str, ...]] = {}
        """The examples of rounds that an earlier process opened."""
        self._over: dict[str, Proposal] = {}
        """Rounds that ended in an earlier process."""
        self._in_a_row = 0
        """How many rounds failed since the last one that did not."""

    def stop(self) -> None:
        """Ask nothing more. What is in flight lands in the journal."""
        self._bus.stop()

    @property
    def stopped(self) -> bool:
        """Whether growth was stopped, by ``stop`` or by a Fatal."""
        return self._bus.stopped

    async def run(self) -> State:
        """Grow. Raises Fatal if one ended the growth, after what was in flight has landed."""
        await self._recall()
        await self._compare_with_base()
        self._judge()
        self._show()
        under_way: deque[asyncio.Task[tuple[RoundOpened, Proposal]]] = deque()
        try:
            while not self.state.ended and not self._bus.stopped:
                self._open_rounds(under_way)
                if not under_way:
                    self.state.ended = "budget"
                    break
                opening, over = await under_way.popleft()
                if over.status != "pending":
                    await self._take(opening, over)
        except BaseException:
            for task in under_way:
                task.cancel()
            raise
        finally:  # what was asked is paid for: it lands in the journal, where a resumed growth finds it
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._bus.cause:
            raise self._bus.cause
        return self.state

    # --- what an earlier process did ---

    async def _recall(self) -> None:
        if self._recorder is None:
            return
        await self._recorder.prepare()
        if self._anew:
            return
        held = await self._recorder.held("RoundOpened", "Proposed")
        self._expect(max(map(_number, held), default=0))
        for id, past in held.items():
            if opened := past.said.get("RoundOpened"):
                self._examples[id] = tuple(opened["examples"])
        self._over = _finished(held)

    def _expect(self, rounds: int) -> None:
        """Count at least so many rounds as requested."""
        if self._recorder:
            self._recorder.journal.post(("UPDATE run SET requested = max(requested, ?)", (rounds,)))

    async def _compare_with_base(self) -> None:
        if self._novelty is None or self._embed is None:
            return
        for start in range(0, len(self.state.items), _AT_ONCE):
            piece = [item.text for item in self.state.items[start : start + _AT_ONCE]]
            self._novelty.add(await self._embed(piece))

    # --- opening rounds ---

    def _open_rounds(self, under_way: deque[asyncio.Task[tuple[RoundOpened, Proposal]]]) -> None:
        while self._may_open(len(under_way)):
            self.state.opened += 1
            opening = self._opening(self.state.opened)
            under_way.append(asyncio.create_task(self._hold(opening)))

    def _may_open(self, under_way: int) -> bool:
        """Whether to open one more round now, with ``under_way`` open. It depends on the rounds taken alone."""
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

    async def _hold(self, opening: RoundOpened) -> tuple[RoundOpened, Proposal]:
        if (known := self._over.pop(opening.conversation, None)) is not None:
            return opening, known
        self._expect(self.state.opened)
        return opening, await propose(self._bus, self._recorder, opening, self.plan.seed)

    # --- taking rounds ---

    async def _take(self, opening: RoundOpened, over: Proposal) -> None:
        """Check, embed and compare what a round proposed."""
        state = self.state
        taken = Round(len(state.rounds) + 1, over.status, over.reason, len(over.items))
        before = len(state.items)
        fresh = self._checked(over.items, opening.examples, f"round {taken.number}")
        await self._admit(fresh, f"round {taken.number}")
        del state.items[max(self.plan.target, before) :]
        taken.accepted = len(state.items) - before
        state.rounds.append(taken)
        state.spent.add(over.spent)
        self._in_a_row = self._in_a_row + 1 if over.status == "failed" else 0
        self._judge()
        self._show()

    def _checked(self, items: Sequence[str], examples: Sequence[str], source: str) -> list[str]:
        """Those of ``items`` with nothing wrong on the surface; the others are dropped."""
        fresh: list[str] = []
        for text in items:
            reason = objection(text, self.plan.of, examples)
            if reason is None and likeness(text) in self._known:
                reason = "repeated"
            if reason:
                self.state.drops.append(Drop(text=text, reason=reason, source=source))
            else:
                self._known.add(likeness(text))
                fresh.append(text)
        return fresh

    async def _admit(self, fresh: Sequence[str], source: str) -> None:
        """Let those of ``fresh`` join that are new; drop the others."""
        if self._novelty is None or self._embed is None or not fresh:
            verdicts = [Admission(True, 0.0, -1)] * len(fresh)
        else:
            verdicts = self._novelty.admit(await self._embed(fresh))
        members = [item.text for item in self.state.items]
        for text, verdict in zip(fresh, verdicts, strict=True):
            if verdict.new:
                members.append(text)
                self.state.items.append(Item(text=text, id=next(self._ids), source=source))
            else:
                like, nearest = round(verdict.similarity, 4), members[verdict.nearest]
                drop = Drop(text=text, reason="similar", source=source, similarity=like, nearest=nearest)
                self.state.drops.append(drop)

    def _judge(self) -> None:
        """Decide whether growth is over."""
        plan, state = self.plan, self.state
        completed = sum(taken.status == "completed" for taken in state.rounds)
        share = state.share(plan.window)
        if len(state.items) >= plan.target:
            state.ended = "target"
        elif self._in_a_row >= plan.window:
            state.ended = "failures"
        elif completed >= plan.window and share is not None and share < plan.bottleneck:
            state.ended = "bottleneck"

    def _show(self) -> None:
        if self._on_round:
            self._on_round(self.state)


def check_generator(generator: Agent) -> None:
    """Raise ConfigError if an agent cannot grow a pool."""
    if RoundOpened not in generator.hears:
        raise ConfigError(f"agent {generator.name!r} cannot grow a pool: it does not hear RoundOpened")


_PREFIX = "round-"


def _id(number: int) -> str:
    return f"{_PREFIX}{number:05d}"


def _number(id: str) -> int:
    return int(id.removeprefix(_PREFIX))


def _finished(held: Mapping[str, PastConversation]) -> dict[str, Proposal]:
    """The rounds that ended, up to the last completed one: later ones failed, and no round was built on them."""
    last = max((id for id, past in held.items() if past.status == "completed"), default="")
    return {id: _over(past) for id, past in held.items() if id <= last and past.status in ("completed", "failed")}


def _over(past: PastConversation) -> Proposal:
    items = tuple(past.said["Proposed"]["items"]) if "Proposed" in past.said else ()
    spent = Spent(past.calls, past.prompt_tokens, past.completion_tokens)
    return Proposal(past.status, past.reason, items, spent)
