"""Pools of profiles and of personalities: reading them in whatever form, writing them, holding a part of them out.

1. A pool is a JSONL file of items: ``{"id": "00001", "text": "...", "source": "seed"}``. Whatever holds texts is read
   as one: strings or objects as JSONL, a JSON list, CSV, TSV, Parquet, plain text with one item a line.
2. What belongs to a pool besides its items lies in a folder beside it, ``NAME.pool`` for ``NAME.jsonl``: the texts'
   vectors, the journal of the calls that it was grown by, what was dropped and why, what a reviewer decided.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.personas import as_text, read_text, text_lines

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
    read = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".json": _json}.get(path.suffix.lower(), _lines)
    items: list[Item] = []
    remarks: list[str] = []
    bad: list[str] = []
    taken: dict[str, str] = {}
    for where, value in read(path, remarks):
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


def check_size(count: int, of: Sequence[Item], what: str) -> None:
    """Raise ConfigError if a pool is too small to hold ``count`` of its items out, whatever they are."""
    if count >= len(of):
        raise _too_small(count, what, f"it has {len(of)} items, and some must stay for training")


def _too_small(count: int, what: str, why: str) -> ConfigError:
    return ConfigError(
        f"the pool of {what} is too small to hold {count} of them out: {why}. Grow it, hold fewer out (--eval, "
        f"--eval-{what}), or allow more similarity (--at-most)"
    )


def held_out(count: int, of: Sequence[Item], at_most: float, vectors: Any, what: str) -> list[int]:
    """``count`` rows to hold out: far apart from each other, each at most ``at_most`` similar to any that stays.

    ``vectors`` are the items', centred or raw, of length 1. Raises ConfigError where there are not so many.
    """
    from aloe_agents.similarity import apart

    check_size(count, of, what)
    rows = list(islice(apart(vectors, at_most), count))
    if len(rows) < count:
        found = f"only {len(rows)} of its {len(of)} items are at most {at_most:g} similar to all that would stay"
        raise _too_small(count, what, found)
    return rows


def read_json(path: Path) -> Iterator[tuple[str, object]]:
    """The values of a JSON list, of JSON lines or of a Parquet file's rows, each with where it stands. Raises ConfigError
    where there are none.
    """
    for where, value in {".json": _json, ".parquet": _parquet}.get(path.suffix, _lines)(path, []):
        if isinstance(value, ConfigError):
            raise value
        yield where, value


def _lines(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    is_json: bool | None = None
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        if is_json is None:
            is_json = line.lstrip()[0] in '{"['
        if not is_json:
            yield where, line.strip()
            continue
        try:
            values = _values(line, where)
        except ConfigError as error:
            yield where, error
            continue
        if len(values) > 1:
            remarks.append(f"{where} holds {len(values)} items; all of them are used")
        for value in values:
            yield where, value


def _json(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    try:
        values = orjson.loads(read_text(path))
    except orjson.JSONDecodeError:
        yield from _lines(path, remarks)  # JSONL under another name
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield f"{path}, item {number}", value


def _csv(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    rows = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
    )
    columns: list[str] = []
    try:
        for row in rows:
            if not columns:
                columns = row
            elif len(row) > len(columns):
                where = f"{path}, line {rows.line_num}"
                yield (
                    where,
                    ConfigError(f"{where} has {len(row)} cells, and the header {len(columns)}: quote its texts"),
                )
            elif row:
                yield f"{path}, line {rows.line_num}", dict(zip(columns, row, strict=False))
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num} is not CSV: {error}") from None


def _parquet(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"reading {path} needs pyarrow; install it with: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None


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


def _values(line: str, where: str) -> list[object]:
    """The JSON values of one line: as a rule one."""
    decoder = json.JSONDecoder()
    values: list[object] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(line, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{where} is not JSON: {error}") from None
        values.append(value)
    return values
