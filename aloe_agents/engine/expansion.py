"""Which answers go on. An expansion is an agent: it hears, and it says ``Chosen`` and ``TurnOpened``.

``RandomPath`` is the paper's: a fair coin a node (section 2.1). The coin is a function of seed, conversation and
path, so it is known before the answers exist: the next turn opens the moment the chosen answer is there, and
nobody waits for the other one. ``Full`` follows every answer down to a depth. ``Beam`` follows the w best of a
depth by a judge's scores.
"""

from __future__ import annotations

import asyncio
import hashlib

import orjson

from aloe_agents.engine.agent import Scene
from aloe_agents.errors import ConfigError
from aloe_agents.messages import Answered, Chosen, Message, NodePath, Scored, TurnOpened

LABELS = ("preferred", "rejected")


def coin(seed: int, conversation: str, path: NodePath, sides: int = 2) -> int:
    """A fair draw from ``range(sides)`` that depends on its arguments alone."""
    digest = hashlib.sha256(orjson.dumps(["coin", seed, conversation, path])).digest()
    return int.from_bytes(digest[:8], "big") % sides


class RandomPath:
    """One answer a turn, by a fair coin: K turns, one leaf."""

    name = "expansion"
    hears = (TurnOpened, Answered)
    says = (Chosen, TurnOpened)

    def __init__(self, labels: tuple[str, ...] = LABELS) -> None:
        self.labels = labels

    def leaves(self, turns: int) -> int:
        """One: a path does not branch."""
        return 1

    def foreseen(self, seed: int, conversation: str, path: NodePath) -> tuple[str, ...]:
        """The label that the coin picks at the node ``path``."""
        return (self.labels[coin(seed, conversation, path, len(self.labels))],)

    async def respond(self, heard: TurnOpened | Answered, scene: Scene) -> Message | None:
        """Chooses when a turn opens, and opens the next one when the chosen answer is there."""
        labels = self.foreseen(scene.seed, heard.conversation, heard.path)
        if isinstance(heard, TurnOpened):
            return Chosen(labels=labels)
        if heard.label in labels and heard.turn < scene.turns:
            return TurnOpened(path=(*heard.path, heard.label), label="")
        return None


class Full(RandomPath):
    """Every answer of the first ``depth`` turns goes on, then a coin: len(labels) ** depth leaves."""

    def __init__(self, depth: int, labels: tuple[str, ...] = LABELS) -> None:
        super().__init__(labels)
        if depth < 1:
            raise ConfigError(f"the depth of a full expansion is at least 1, not {depth}")
        self.depth = depth

    def leaves(self, turns: int) -> int:
        """How many nodes the last turn has."""
        return int(len(self.labels) ** min(self.depth, turns - 1))

    def foreseen(self, seed: int, conversation: str, path: NodePath) -> tuple[str, ...]:
        """All labels down to the depth, then the one that the coin picks."""
        return self.labels if len(path) < self.depth else super().foreseen(seed, conversation, path)


class Beam:
    """The ``width`` best answers of each depth go on, by the scores of ``judge``; ties go by path and label.

    An answer whose score is missing ranks below every score.
    """

    name = "expansion"
    hears = (TurnOpened,)
    says = (Chosen, TurnOpened)

    def __init__(self, width: int, judge: str = "judge", labels: tuple[str, ...] = LABELS) -> None:
        if width < 1:
            raise ConfigError(f"the width of a beam is at least 1, not {width}")
        self.width = width
        self.judge = judge
        self.labels = labels
        self.needs = tuple((Scored, Scored.label_of(label, judge)) for label in labels)

    def leaves(self, turns: int) -> int:
        """The width, from the second turn on."""
        return self.width if turns > 1 else 1

    def foreseen(self, seed: int, conversation: str, path: NodePath) -> None:
        """None: the scores decide."""
        return

    async def respond(self, heard: TurnOpened, scene: Scene) -> list[Message] | None:
        """Chooses for a whole depth at once, when its first node opens and all its answers are scored."""
        frontier = await self._frontier(heard, scene)
        if heard.path != frontier[0]:  # the first node of a depth chooses for all of them
            return None
        kept = await self._best(frontier, scene)
        said: list[Message] = [
            Chosen(path=node, labels=tuple(label for at, label in kept if at == node)) for node in frontier
        ]
        if heard.turn < scene.turns:
            said += [TurnOpened(path=(*node, label)) for node, label in kept]
        return said

    async def _frontier(self, heard: TurnOpened, scene: Scene) -> list[NodePath]:
        """The nodes of this depth. What every earlier depth chose was said before this turn opened."""
        frontier: list[NodePath] = [()]
        for _ in heard.path:
            chosen = [await scene.need(Chosen, path=node) for node in frontier]
            frontier = sorted((*node, label) for node, c in zip(frontier, chosen, strict=True) for label in c.labels)
        return frontier

    async def _best(self, frontier: list[NodePath], scene: Scene) -> list[tuple[NodePath, str]]:
        """The answers of this depth with the highest scores, by path and label."""
        answers = [(node, label) for node in frontier for label in self.labels]
        scores = await asyncio.gather(
            *(scene.need(Scored, Scored.label_of(label, self.judge), node) for node, label in answers)
        )
        ranked = sorted(
            zip(scores, answers, strict=True),
            key=lambda pair: (-pair[0].score if pair[0].score is not None else float("inf"), pair[1]),
        )
        return sorted(answer for _, answer in ranked[: self.width])
