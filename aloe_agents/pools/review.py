"""A person's decisions about a pool's items: a log of them beside the pool, and the pool with them applied.

A decision is about a text, so it holds however often the pool is written again. The last decision about a text counts.
``undo`` takes the last decision back by adding a line to the log.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.pools.items import REVIEW, Item, folder_of, ids_after, read_items, write_items


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the log."""

    item: Item
    """The item as it was before any decision."""
    verdict: str
    """``keep``, ``drop`` or ``edit``; or ``undo``, which takes the last decision that still stands back."""
    text: str = ""
    """The new text of an edited item."""


class Review:
    """The review of one pool. Raises ConfigError if its log cannot be read."""

    def __init__(self, pool: Path | str, folder: Path | str | None = None) -> None:
        """``folder`` holds the log; by default it is the pool's own."""
        self.pool = Path(pool)
        self._log = Path(folder or folder_of(pool)) / REVIEW
        self._decisions = _read(self._log)
        self.items = self._undecided(read_items(pool)[0])
        """All items as they were before any decision, dropped ones included, by id."""

    def _undecided(self, items: Iterable[Item]) -> list[Item]:
        """The items of the pool as they were before any decision, with those that were dropped since."""
        before = {(d.item.id, text): d.item for d in self._decisions for text in (d.item.text, d.text)}
        found = [before.get((item.id, item.text), item) for item in items]
        texts, taken = {item.text for item in found}, {item.id for item in found}
        free = ids_after([*taken, *(decision.item.id for decision in self._decisions)])
        for item in self._dropped():
            if item.text not in texts:  # an id may be taken by another item, since the pool was grown anew
                found.append(replace(item, id=next(free)) if item.id in taken else item)
                taken.add(found[-1].id)
        return sorted(found, key=lambda item: item.id)

    def _dropped(self) -> list[Item]:
        return [decision.item for decision in self.decided.values() if decision.verdict == "drop"]

    @property
    def decided(self) -> dict[str, Decision]:
        """The decision that counts, by the item's original text."""
        return _standing(self._decisions)

    def open(self) -> list[Item]:
        """The items without a decision."""
        decided = self.decided
        return [item for item in self.items if item.text not in decided]

    def decide(self, item: Item, verdict: str, text: str = "") -> None:
        """Write a decision to the log and apply it to the pool. ``text`` is the new text of an edited item."""
        self._append(Decision(item=item, verdict=verdict, text=text))

    def undo(self) -> Item | None:
        """Take the last decision back. Returns the item that it was about, or None if there is no decision."""
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


def ids_decided(folder: Path | str) -> list[str]:
    """The ids of all items that a review decided about, dropped ones included."""
    return [decision.item.id for decision in _read(Path(folder) / REVIEW)]


def reviewed(items: Iterable[Item], folder: Path | str) -> list[Item]:
    """``items`` as a review left them: dropped ones left out, edited ones with their new text."""
    return _applied(items, _read(Path(folder) / REVIEW))


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
    """The decisions that still stand, in order."""
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
            raise ConfigError(f"{log}, line {number} is not a decision") from None
    return decisions
