"""What a person decided about a pool's items: a log of decisions beside the pool, and the pool with them applied.

A decision is about a text, so it holds however often the pool is written again; the last one about a text counts, and
``undo`` takes the last line of the log back by adding one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.pools.items import REVIEW, Item, ids_after, read_items, write_items


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the log."""

    item: Item
    """As it was before any decision."""
    verdict: str
    """``keep``, ``drop``, ``edit``, or ``undo``: the decision about this item before that one is the last again."""
    text: str = ""
    """What an edited item says now."""


class Review:
    """The review of one pool. Raises ConfigError where its log cannot be read."""

    def __init__(self, pool: Path, folder: Path) -> None:
        self.pool, self._log = pool, folder / REVIEW
        self._decisions = _read(self._log)
        before: dict[tuple[str, str], Item] = {}
        for decision in self._decisions:
            for text in (decision.item.text, decision.text):
                before[decision.item.id, text] = decision.item
        items = [before.get((item.id, item.text), item) for item in read_items(pool)[0]]
        texts, taken = {item.text for item in items}, {item.id for item in items}
        free = ids_after([*taken, *(decision.item.id for decision in self._decisions)])
        for decision in self.decided.values():
            item = decision.item
            if decision.verdict == "drop" and item.text not in texts:
                if item.id in taken:  # by another: a pool can be grown anew
                    item = replace(item, id=next(free))
                taken.add(item.id)
                items.append(item)
        self.items = sorted(items, key=lambda item: item.id)
        """All items as they were before any decision, those that were dropped among them."""

    @property
    def decided(self) -> dict[str, Decision]:
        """The decision that counts, by the item's original text."""
        return _standing(self._decisions)

    def open(self) -> list[Item]:
        """The items nobody decided about yet."""
        decided = self.decided
        return [item for item in self.items if item.text not in decided]

    def decide(self, item: Item, verdict: str, text: str = "") -> None:
        """Write a decision down and apply it to the pool."""
        self._append(Decision(item=item, verdict=verdict, text=text))

    def undo(self) -> Item | None:
        """Take the last decision back; the item that it was about, None if there is none."""
        standing = [decision for decision in _history(self._decisions) if decision.verdict != "undo"]
        if not standing:
            return None
        self._append(Decision(item=standing[-1].item, verdict="undo"))
        return standing[-1].item

    def _append(self, decision: Decision) -> None:
        try:
            self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._log, "ab") as file:
                file.write(orjson.dumps(decision, option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{self._log} cannot be written: {error.strerror or error}") from None
        self._decisions.append(decision)
        write_items(self.pool, _applied(self.items, self._decisions))


def ids_decided(folder: Path) -> list[str]:
    """The ids of items that a review was about, those that were dropped among them."""
    return [decision.item.id for decision in _read(folder / REVIEW)]


def reviewed(items: Iterable[Item], folder: Path) -> list[Item]:
    """``items`` without those that were dropped in a review, and those that were edited as they are now."""
    return _applied(items, _read(folder / REVIEW))


def _applied(items: Iterable[Item], decisions: Iterable[Decision]) -> list[Item]:
    standing = _standing(decisions)
    kept = []
    for item in items:
        decision = standing.get(item.text)
        if decision is None or decision.verdict == "keep":
            kept.append(item)
        elif decision.verdict == "edit":
            kept.append(replace(item, text=decision.text))
    return kept


def _standing(decisions: Iterable[Decision]) -> dict[str, Decision]:
    return {decision.item.text: decision for decision in _history(decisions)}


def _history(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions that were not taken back, in order."""
    history: list[Decision] = []
    for decision in decisions:
        if decision.verdict != "undo":
            history.append(decision)
        elif history:
            history.pop()
    return history


def _read(log: Path) -> list[Decision]:
    if not log.exists():
        return []
    decisions = []
    for number, line in enumerate(log.read_bytes().splitlines(), 1):
        try:
            row = orjson.loads(line)
            decisions.append(Decision(item=Item(**row["item"]), verdict=row["verdict"], text=row["text"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise ConfigError(f"{log}, line {number} is no decision") from None
    return decisions
