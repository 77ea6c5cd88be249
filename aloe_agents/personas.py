"""Personas and the pools that they are made of: reading them, pairing them.

A persona is a profile (facts about a user: what the conversation is about) with a personality (traits: how it is
held), and an id that is unique in a run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.text import storable

_POOL_FIELDS = ("text", "profile", "personality", "personalities")


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One user to be simulated."""

    id: str
    profile: str
    personality: str


def read_personas(path: Path | str) -> list[Persona]:
    """The personas of a JSONL file: objects with ``profile`` and ``personality``; ``id`` is optional.

    A persona without an id is called by its place in the file (``p00001`` is the first).
    Raises ConfigError, naming the line, for anything that is no persona, and for an id that occurs twice.
    """
    personas: list[Persona] = []
    seen: dict[str, int] = {}
    shared: dict[str, str] = {}  # one profile is in many personas, and in memory once
    for line, value in _json_lines(Path(path)):
        where = f"{path}, line {line}"
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: a persona is an object with profile and personality, not {_kind(value)}")
        texts = {name: _text(value.get(name), f"{where}: the persona's {name}") for name in ("profile", "personality")}
        id = value.get("id")
        if isinstance(id, bool) or not isinstance(id, str | int | None):
            raise ConfigError(f"{where}: the persona's id is {_kind(id)}, not a text or a whole number")
        name = f"p{len(personas) + 1:05d}" if id in (None, "") else storable(str(id))
        if len(name) > 200 or not name.isprintable() or name.isspace():
            raise ConfigError(f"{where}: an id is at most 200 printable characters")
        if name in seen:
            raise ConfigError(f"{where}: the id {name!r} is taken by line {seen[name]}")
        seen[name] = line
        personas.append(Persona(id=name, **{part: shared.setdefault(text, text) for part, text in texts.items()}))
    if not personas:
        raise ConfigError(f"{path} holds no persona")
    return personas


def read_pool(path: Path | str) -> tuple[list[str], list[str]]:
    """The texts of a pool file, and a remark for each line that had to be mended.

    A pool is JSONL (each line a string, or an object with ``text``, ``profile`` or ``personality``), or plain
    text with one item a line. A line that holds several JSON values one after another, as one line of the
    published ALOE profiles does, counts as that many items, and a remark says so.
    """
    path = Path(path)
    text = _read(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ConfigError(f"{path} holds no item")
    items: list[str] = []
    remarks: list[str] = []
    json = lines[0][1].lstrip()[0] in '{"['
    for number, line in lines:
        where = f"{path}, line {number}"
        values = _values(line, where) if json else [line.strip()]
        if len(values) > 1:
            remarks.append(f"{where} holds {len(values)} items; all of them are used")
        for value in values:
            if isinstance(value, dict):
                held = [field for field in _POOL_FIELDS if field in value]
                if len(held) > 1:
                    raise ConfigError(f"{where} holds {' and '.join(held)}, but an item of a pool is one text")
                value = value[held[0]] if held else None
            items.append(_text(value, f"{where}: the item"))
    return items, remarks


def sample_personas(profiles: Sequence[str], personalities: Sequence[str], count: int, seed: int) -> list[Persona]:
    """``count`` distinct profile-personality pairs, drawn at random as the paper does (section 2.1)."""
    possible = len(profiles) * len(personalities)
    if count > possible:
        raise ConfigError(
            f"{count} personas asked for, but {len(profiles)} profiles with {len(personalities)} personalities "
            f"make only {possible} pairs"
        )
    width = len(personalities)
    pairs = random.Random(f"personas {seed}").sample(range(possible), count)
    return [
        Persona(id=f"p{n:05d}", profile=profiles[pair // width], personality=personalities[pair % width])
        for n, pair in enumerate(pairs, 1)
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number} is not JSON: {error}") from None


def _values(line: str, where: str) -> list[object]:
    """The JSON values of one line: as a rule one."""
    import json

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


def _text(value: object, what: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ConfigError(f"{what} is missing or empty")
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {_kind(value)}, not text")
    return storable(value)


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
