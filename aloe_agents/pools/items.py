"""Pools of profiles and of personalities: reading them in whatever form, writing them.

1. A pool is a JSONL file of items: ``{"id": "00001", "text": "...", "source": "seed"}``. Whatever holds texts is read
   as one: strings or objects as JSONL, a JSON list, CSV, TSV, Parquet, plain text with one item a line.
2. What belongs to a pool besides its items lies in a folder beside it, ``NAME.pool`` for ``NAME.jsonl``: the texts'
   vectors, the journal of the calls that it was grown by, what was dropped and why, what a reviewer decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import read_values, replacing
from aloe_agents.text import as_text

FIELDS = ("text", "profile", "personality", "personalities", "persona", "description")
"""Fields and columns that hold an item's text, where none is named."""
VECTORS, DROPPED, BASE, REVIEW = "vectors.sqlite", "dropped.jsonl", "base.jsonl", "review.jsonl"
"""Files of a pool's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One profile, or one personality."""

    text: str
    id: str
    """Unique in its pool, in the order of joining."""
    source: str = ""
    """Where it came from: ``seed``, ``round 12``, a file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A candidate that did not join."""

    text: str
    reason: str
    source: str = ""
    similarity: float | None = None
    nearest: str = ""
    """The text that it was too similar to."""


def folder_of(pool: Path) -> Path:
    """The folder with what belongs to a pool besides its items."""
    return pool.with_name(f"{pool.stem}.pool")


def read_pool(path: Path | str, *, field: str | None = None, skip_bad: bool = False) -> tuple[list[str], list[str]]:
    """The texts of a pool, as :func:`read_items` reads them, and a remark for each line that had to be mended."""
    items, remarks = read_items(path, field=field, skip_bad=skip_bad)
    return [item.text for item in items], remarks


def read_items(path: Path | str, *, field: str | None = None, skip_bad: bool = False) -> tuple[list[Item], list[str]]:
    """The items of a file, and a remark for each line that had to be mended or, with ``skip_bad``, was left out.

    The file's ending says what it is: ``.csv``, ``.tsv``, ``.parquet``, ``.json`` (a list); anything else is JSONL
    (each line a string or an object), or plain text with an item a line. ``field`` names the field or column with the
    texts (default: the one of ``FIELDS`` that is there). A line that holds several JSON values one after
    another, as one line of the published ALOE profiles does, counts as that many items, and a remark says so.
    Items without an id are called by their place. Raises ConfigError, naming the line, for what is no item.
    """
    path = Path(path)
    items: list[Item] = []
    remarks: list[str] = []
    bad: list[str] = []
    taken: dict[str, str] = {}
    for where, value in read_values(path, remarks):
        try:
            if isinstance(value, ConfigError):
                raise value
            item = _item(value, where, field, f"{len(items) + 1:05d}")
            if item.id in taken:
                raise ConfigError(f"{where}: the id {item.id!r} is taken by {taken[item.id]}")
        except ConfigError as error:
            bad.append(str(error))
            continue
        taken[item.id] = where.removeprefix(f"{path}, ")
        items.append(item)
    if bad and not skip_bad:
        more = f" (and {len(bad) - 1} more: --skip-bad names them and reads the rest)" if len(bad) > 1 else ""
        raise ConfigError(f"{bad[0]}{more}")
    if not items:
        raise ConfigError(f"{path} holds no item" + (f"; {bad[0]}" if bad else ""))
    return items, [*remarks, *(f"{line}; left out" for line in bad)]


def write_items(path: Path, items: Iterable[Item | Drop]) -> None:
    """Write a pool, whole or not at all. Raises ConfigError where it cannot be written."""
    with replacing(path) as file:
        for item in items:
            file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))


def ids_after(taken: Iterable[str]) -> Iterator[str]:
    """Ids of items that join, none of which is among ``taken``: numbers after the largest there."""
    last = max((int(id) for id in taken if id.isdecimal()), default=0)
    return (f"{number:05d}" for number in numbers(last + 1))


def _item(value: object, where: str, field: str | None, place: str) -> Item:
    if not isinstance(value, dict):
        return Item(text=as_text(value, f"{where}: the item"), id=place)
    if field is not None:
        if field not in value:
            raise ConfigError(f"{where} has no field {field!r} (there are {', '.join(map(str, value))})")
        name = field
    else:
        held = [name for name in FIELDS if name in value]
        if len(held) > 1:
            raise ConfigError(f"{where} holds {' and '.join(held)}, but an item of a pool is one text (--field NAME)")
        if not held:
            raise ConfigError(
                f"{where}: the item is missing or empty: it has no field called {', '.join(FIELDS)} (--field NAME)"
            )
        name = held[0]
    id, source = value.get("id"), value.get("source")
    usable = isinstance(id, str | int) and not isinstance(id, bool) and str(id).strip() and str(id).isprintable()
    return Item(
        text=as_text(value[name], f"{where}: the item"),
        id=str(id) if usable else place,
        source=source if isinstance(source, str) else "",
    )
