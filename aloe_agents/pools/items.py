"""Pools of profiles and of personalities: reading them in whatever form, writing them.

1. A pool is a JSONL file of items: ``{"id": "00001", "text": "...", "source": "seed"}``. Every file of texts is read as
   a pool: JSONL of strings or objects, a JSON list, CSV, TSV, Parquet, plain text with one item per line.
2. What belongs to a pool besides its items lies in a folder beside it, ``NAME.pool`` for ``NAME.jsonl``: the texts'
   vectors, the journal of the calls that grew it, what was dropped and why, a reviewer's decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import read_values, replacing
from aloe_agents.text import as_text

FIELDS = ("text", "profile", "personality", "personalities", "persona", "description")
"""Fields and columns that may hold an item's text, if no other is named."""
VECTORS, DROPPED, BASE, REVIEW = "vectors.sqlite", "dropped.jsonl", "base.jsonl", "review.jsonl"
"""Files of a pool's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One profile or one personality."""

    text: str
    id: str
    """Unique in its pool; numbers in the order of joining."""
    source: str = ""
    """Where the item came from: ``seed``, ``round 12``, a file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A candidate that did not join."""

    text: str
    reason: str
    source: str = ""
    similarity: float | None = None
    nearest: str = ""
    """The member that it was too similar to."""


def folder_of(pool: Path | str) -> Path:
    """The folder with what belongs to a pool besides its items."""
    pool = Path(pool)
    return pool.with_name(f"{pool.stem}.pool")


def check_place(pool: Path | str) -> Path:
    """``pool`` as a path. Raises ConfigError if no pool can be written there."""
    pool = Path(pool)
    if pool.is_dir():
        raise ConfigError(f"{pool} is a directory; a pool is a file, such as {pool / 'profiles.jsonl'}")
    if pool.suffix.lower() not in ("", ".jsonl", ".json"):
        raise ConfigError(f"a pool is written as JSONL; call it {pool.with_suffix('.jsonl')}")
    return pool


def read_pool(path: Path | str, *, field: str | None = None, skip_bad: bool = False) -> tuple[list[str], list[str]]:
    """The texts of a pool, as :func:`read_items` reads them, and a remark for each line that needed mending."""
    items, remarks = read_items(path, field=field, skip_bad=skip_bad)
    return [item.text for item in items], remarks


def read_items(path: Path | str, *, field: str | None = None, skip_bad: bool = False) -> tuple[list[Item], list[str]]:
    """The items of a file, and a remark for each line that needed mending.

    The suffix tells the format: ``.csv``, ``.tsv``, ``.parquet``, ``.json`` (a list). All other files are JSONL (each line
    a string or an object), or plain text with one item per line. ``field`` names the field or column with the texts; by
    default it is the one of ``FIELDS`` that the file has. A line with several JSON values counts as that many items,
    and a remark says so (one line of the published ALOE profiles is like that). An item without an id gets its place in
    the file as its id. ``skip_bad`` leaves out broken lines, with a remark for each.

    Raises ConfigError, naming the line, for anything that is no item, and for an id that occurs twice.
    """
    path = Path(path)
    items: list[Item] = []
    remarks: list[str] = []
    bad: list[str] = []
    taken: dict[str, str] = {}
    for where, value in read_values(path, remarks):
        try:
            item = _item(value, where, field, f"{len(items) + 1:05d}")
            if item.id in taken:
                raise ConfigError(f"{where}: the id {item.id!r} is taken by {taken[item.id]}")
        except ConfigError as error:
            bad.append(str(error))
            continue
        taken[item.id] = where.removeprefix(f"{path}, ")
        items.append(item)
    if not skip_bad or not items:
        _check_read(path, items, bad, skip_bad)
    return items, [*remarks, *(f"{line}; left out" for line in bad)]


def _check_read(path: Path, items: Sequence[Item], bad: Sequence[str], skip_bad: bool) -> None:
    if bad and not skip_bad:
        more = f" (and {len(bad) - 1} more; skip_bad leaves them out and names each)" if len(bad) > 1 else ""
        raise ConfigError(f"{bad[0]}{more}")
    if not items:
        raise ConfigError(f"{path} holds no item" + (f"; {bad[0]}" if bad else ""))


def write_items(path: Path | str, items: Iterable[Item | Drop]) -> None:
    """Write a pool, whole or not at all. Raises ConfigError if it cannot be written."""
    with replacing(path) as file:
        for item in items:
            file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))


def ids_after(taken: Iterable[str]) -> Iterator[str]:
    """Ids for items that join: numbers after the largest in ``taken``, so that each is new."""
    last = max((int(id) for id in taken if id.isdecimal()), default=0)
    return (f"{number:05d}" for number in numbers(last + 1))


def _item(value: object, where: str, field: str | None, place: str) -> Item:
    if isinstance(value, ConfigError):
        raise value
    if not isinstance(value, dict):
        return Item(text=as_text(value, f"{where}: the item"), id=place)
    name, id, source = _field(value, where, field), value.get("id"), value.get("source")
    return Item(
        text=as_text(value[name], f"{where}: the item"),
        id=str(id) if _is_id(id) else place,
        source=source if isinstance(source, str) else "",
    )


def _field(row: Mapping[str, object], where: str, field: str | None) -> str:
    """The name of the field with the text."""
    if field is not None:
        if field not in row:
            raise ConfigError(f"{where} has no field {field!r} (it has {', '.join(map(str, row))})")
        return field
    held = [name for name in FIELDS if name in row]
    if len(held) > 1:
        raise ConfigError(f"{where} holds {' and '.join(held)}, but an item is one text: name its field")
    if not held:
        raise ConfigError(
            f"{where}: the item is missing or empty: it has no field called {', '.join(FIELDS)}; name its field"
        )
    return held[0]


def _is_id(value: object) -> bool:
    return (
        isinstance(value, str | int)
        and not isinstance(value, bool)
        and bool(str(value).strip())
        and (str(value).isprintable())
    )
