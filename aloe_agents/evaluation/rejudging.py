"""Finished trees are scored again: what was said is said once more on the bus, and only judges are asked.

A pass is a conversation of its own for every tree, so that several passes are several samples of each judgement; how far
they agree is the judge's own variance.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.bus import Bus, Observer, ask_plainly
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.outcome import hold_conversation
from aloe_agents.errors import Fatal
from aloe_agents.evaluation.metrics import kappa
from aloe_agents.messages import Answered, Message, Scored, TurnOpened, UserSaid
from aloe_agents.runs.recorder import Recorder
from aloe_agents.tree import Tree

Scores = dict[tuple[str, tuple[str, ...], str], list[float | None]]
"""By tree, path and label of the answer: the score of each pass, None where one is missing."""


class _Recalled:
    """Says all that a finished tree holds."""

    name = "recalled"
    hears = (TurnOpened,)
    says = (UserSaid, Answered)

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = {tree.id: tree for tree in trees}

    async def respond(self, heard: TurnOpened, scene: Scene) -> list[Message]:
        said: list[Message] = []
        for turn in self._trees[heard.conversation.rpartition("#")[0]].turns:
            said.append(UserSaid(conversation=heard.conversation, path=turn.path, text=turn.user))
            for label, answer in turn.answers.items():
                said.append(Answered(conversation=heard.conversation, path=turn.path, label=label, text=answer.text))
        return said


async def rejudge(
    trees: Sequence[Tree],
    judge: Agent,
    *,
    passes: int = 1,
    live: int = 256,
    recorder: Recorder | None = None,
    observers: Sequence[Observer] = (),
    on_bus: Callable[[Bus], None] = lambda bus: None,
) -> Scores:
    """The scores that ``judge`` gives to every answer of ``trees``, ``passes`` times. ``on_bus`` gets the bus, whose
    ``stop`` ends it. Raises Fatal if one ended it.
    """
    watching = [*([recorder.observe] if recorder else []), *observers]
    bus = Bus([_Recalled(trees), judge], watching, record=recorder.record if recorder else ask_plainly)
    on_bus(bus)
    if recorder:
        await recorder.prepare()
    scores: Scores = {}
    for tree in trees:
        for turn in tree.turns:
            for label in turn.answers:
                scores[tree.id, turn.path, label] = [None] * passes
    places = asyncio.Semaphore(live)

    async def one(tree: Tree, number: int) -> None:
        async with places:
            if bus.stopped:
                return
            conversation = Conversation(id=f"{tree.id}#{number + 1}", seed=number, persona=tree.persona, turns=1)
            try:
                await hold_conversation(bus, recorder, conversation, TurnOpened(conversation=conversation.id), _verdict)
            except Fatal as fatal:
                bus.stop(fatal)
                return
            for message in conversation.said.values():
                if isinstance(message, Scored):
                    answer = message.label.rpartition("/")[0]
                    scores[tree.id, message.path, answer][number] = message.score

    async with asyncio.TaskGroup() as group:
        for tree, number in itertools.product(trees, range(passes)):
            group.create_task(one(tree, number))
    if bus.cause:
        raise bus.cause
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAgreement:
    """How far several passes of one judge agree."""

    passes: int
    answers: int
    """Those that every pass scored."""
    deviation: float
    """Mean standard deviation of the scores of one answer."""
    equal: float
    """Share of the answers to which every pass gave the same score."""
    kappa: float
    """Mean over pairs of passes, quadratic weights, of scores rounded to whole ones."""


def self_agreement(scores: Scores) -> SelfAgreement:
    """The agreement of two passes or more."""
    given = [row for row in scores.values() if None not in row]
    table = np.array(given, np.float64)
    passes = len(next(iter(scores.values()), []))
    if passes < 2 or not len(table):
        raise ValueError("agreement needs two passes and an answer that both scored")
    pairs = itertools.combinations(np.rint(table).T, 2)
    return SelfAgreement(
        passes=passes,
        answers=len(table),
        deviation=float(table.std(axis=1, ddof=1).mean()),
        equal=float((table == table[:, :1]).all(axis=1).mean()),
        kappa=float(np.mean([kappa(one, other, "quadratic") for one, other in pairs])),
    )


def _verdict(conversation: Conversation) -> tuple[str, str]:
    if conversation.interrupted:
        return "pending", ""
    return ("failed", conversation.failures[0].reason) if conversation.failures else ("completed", "")
