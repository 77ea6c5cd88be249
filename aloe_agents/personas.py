"""Personas: reading them, drawing them from pools of profiles and of personalities.

A persona is a profile (facts about a user: what the conversation is about) with a personality (traits: how it is
held), and an id that is unique in a run.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing, text_lines
from aloe_agents.text import as_text, kind_of, storable


class Exchange(NamedTuple):
    """A past turn: what the user said and the answer that the conversation took up (the paper's m_j, s_j)."""

    user: str
    answer: str
    label: str = ""
    """The answer's label; empty for a persona's opening."""


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One user to be simulated."""

    id: str
    profile: str
    personality: str
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Further fields of the persona's record, as JSON values: kept in trees and rows, used by roles that know them."""
    opening: tuple[Exchange, ...] = ()
    """Turns that came before the first simulated one. They are history to every role, and no turns of the tree."""

    def to_json(self) -> dict[str, object]:
        """The persona as a JSON object; ``extra`` and ``opening`` only where there is something in them."""
        value: dict[str, object] = {"id": self.id, "profile": self.profile, "personality": self.personality}
        if self.extra:
            value["extra"] = dict(self.extra)
        if self.opening:
            value["opening"] = [{"user": past.user, "assistant": past.answer} for past in self.opening]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Persona:
        """The persona that ``to_json`` wrote. Raises ConfigError, naming the field, for anything else."""
        extra = value.get("extra") or {}
        if not isinstance(extra, dict):
            raise ConfigError(f"the persona's extra is {kind_of(extra)}, not an object")
        return cls(
            id=_any_text(value, "id"),
            profile=_any_text(value, "profile"),
            personality=_any_text(value, "personality"),
            extra=extra,
            opening=_opening(value.get("opening"), "the persona"),
        )


def check_ids(personas: Iterable[Persona]) -> None:
    """Raise ConfigError where two personas share an id: a conversation is known by its persona's id."""
    seen: set[str] = set()
    for persona in personas:
        if persona.id in seen:
            raise ConfigError(f"two personas have the id {persona.id!r}; ids must be unique in a run")
        seen.add(persona.id)


def personas_digest(personas: Iterable[Persona]) -> str:
    """Sixteen hex digits that two lists share if and only if they hold the same personas in the same order."""
    digest = hashlib.sha256()
    for persona in personas:
        digest.update(repr((persona.id, persona.profile, persona.personality)).encode())
        if persona.extra or persona.opening:
            digest.update(orjson.dumps(persona.to_json(), option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()[:16]


def read_personas(path: Path | str) -> list[Persona]:
    """The personas of a JSONL file: objects with ``profile`` and ``personality``.

    ``id`` is optional: without one a persona is named after its place in the file (``p00001`` is the first).
    ``opening`` is optional too: a list of ``{"user": ..., "assistant": ...}``. All other fields are kept in ``extra``.
    Raises ConfigError, naming the line, for anything that is no persona, and for an id that occurs twice.
    """
    lines = ((f"{path}, line {number}", value) for number, value in _json_lines(Path(path)))
    if not (personas := personas_of(lines)):
        raise ConfigError(f"{path} holds no persona")
    return personas


def personas_of(values: Iterable[tuple[str, object]]) -> list[Persona]:
    """The personas in JSON values, each given with where it stands; fields as in :func:`read_personas`.

    Raises ConfigError, naming the place, for a value that is no persona, and for an id that occurs twice.
    """
    personas: list[Persona] = []
    seen: dict[str, str] = {}
    shared: dict[str, str] = {}  # one profile is in many personas, and in memory once
    for where, value in values:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: a persona is an object with profile and personality, not {kind_of(value)}")
        texts = {
            name: as_text(value.get(name), f"{where}: the persona's {name}") for name in ("profile", "personality")
        }
        name = _id_of(value.get("id"), f"p{len(personas) + 1:05d}", where)
        if name in seen:
            raise ConfigError(f"{where}: the id {name!r} is taken by {seen[name].rpartition(', ')[2]}")
        seen[name] = where
        known = {"id", "profile", "personality", "opening", "extra"}
        nested = value.get("extra")
        extra = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in value.items() if k not in known}}
        personas.append(
            Persona(
                id=name,
                profile=shared.setdefault(texts["profile"], texts["profile"]),
                personality=shared.setdefault(texts["personality"], texts["personality"]),
                extra=extra,
                opening=_opening(value.get("opening"), where),
            )
        )
    return personas


def write_personas(path: Path | str, personas: Iterable[Persona]) -> None:
    """Write ``personas`` as :func:`read_personas` reads them. Raises ConfigError where the file cannot be written."""
    with replacing(Path(path)) as file:
        for persona in personas:
            file.write(orjson.dumps(persona.to_json(), option=orjson.OPT_APPEND_NEWLINE))


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


def _id_of(given: object, default: str, where: str) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise ConfigError(f"{where}: the persona's id is {kind_of(given)}, not a text or a whole number")
    name = default if given in (None, "") else storable(str(given))
    if len(name) > 200 or not name.isprintable() or name.isspace():
        raise ConfigError(f"{where}: an id is at most 200 printable characters")
    return name


def _opening(value: object, where: str) -> tuple[Exchange, ...]:
    """The turns of a persona's ``opening``."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigError(f"{where}: the persona's opening is {kind_of(value)}, not a list of user and assistant turns")
    turns = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise ConfigError(f"{where}: turn {number} of the opening is {kind_of(turn)}, not an object")
        what = f"{where}: turn {number} of the opening: its"
        turns.append(
            Exchange(as_text(turn.get("user"), f"{what} user"), as_text(turn.get("assistant"), f"{what} assistant"))
        )
    return tuple(turns)


def _any_text(value: Mapping[str, object], name: str) -> str:
    """A text that may be empty: the rounds of a pool's growth have a persona without a profile."""
    if not isinstance(text := value.get(name), str):
        raise ConfigError(f"the persona's {name} is {'missing' if text is None else kind_of(text) + ', not a text'}")
    return text
