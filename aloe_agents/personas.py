"""Personas: reading them, drawing them from pools of profiles and of personalities.

A persona is a profile (facts about a user: what the conversation is about) with a personality (traits: how it is
held), and an id that is unique in a run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing, text_lines
from aloe_agents.text import as_text, kind_of, storable


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
            raise ConfigError(f"{where}: a persona is an object with profile and personality, not {kind_of(value)}")
        texts = {
            name: as_text(value.get(name), f"{where}: the persona's {name}") for name in ("profile", "personality")
        }
        id = value.get("id")
        if isinstance(id, bool) or not isinstance(id, str | int | None):
            raise ConfigError(f"{where}: the persona's id is {kind_of(id)}, not a text or a whole number")
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


def write_personas(path: Path, personas: Iterable[Persona]) -> None:
    """Write ``personas`` as :func:`read_personas` reads them. Raises ConfigError where the file cannot be written."""
    with replacing(path) as file:
        for persona in personas:
            file.write(orjson.dumps(persona, option=orjson.OPT_APPEND_NEWLINE))


def sample_personas(profiles: Sequence[str], personalities: Sequence[str], count: int, seed: int) -> list[Persona]:
    """``count`` distinct profile-personality pairs at random (section 2.1), balanced: how often two profiles occur
    differs by one at most, and so with two personalities.

    Raises ConfigError where there are fewer pairs.
    """
    width, height = len(personalities), len(profiles)
    if count > width * height:
        raise ConfigError(
            f"{count} personas asked for, but {height} profiles with {width} personalities make only "
            f"{width * height} pairs"
        )
    rng = random.Random(f"personas {seed}")
    rows, columns = rng.sample(range(height), height), rng.sample(range(width), width)
    # Along diagonals of the table of all pairs every row and every column comes in turn; a diagonal comes back to its
    # start after lcm(height, width) steps, and the next one begins a column further on.
    length = math.lcm(height, width) if count else 1
    pairs = [(rows[n % height], columns[(n + n // length) % width]) for n in range(count)]
    taken = set(pairs)
    for _ in range(10 * count):  # exchanges keep the balance and wear the diagonals away
        one, other = rng.randrange(count), rng.randrange(count)
        (a, b), (c, d) = pairs[one], pairs[other]
        if (a, d) not in taken and (c, b) not in taken:
            taken -= {(a, b), (c, d)}
            taken |= {(a, d), (c, b)}
            pairs[one], pairs[other] = (a, d), (c, b)
    rng.shuffle(pairs)
    return [
        Persona(id=f"p{n:05d}", profile=profiles[row], personality=personalities[column])
        for n, (row, column) in enumerate(pairs, 1)
    ]


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    for number, line in text_lines(path):
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from None
