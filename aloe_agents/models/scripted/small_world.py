"""People whom a model of a million parameters can learn to know: every fact is a verb and one word of a small table.

What is asked of the model is the real thing, to say again later what its user told earlier; only the language is small.
"""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files

from aloe_agents.errors import ConfigError
from aloe_agents.personas import Persona

_TRAIT = "is"


def people(count: int, seed: int = 0, facts: int = 8, traits: int = 2) -> list[Persona]:
    """``count`` personas, no two with one profile; the first ones are the same for every ``count``.

    Raises ConfigError for more facts or traits than the table has.
    """
    table = dict(_table())
    words = table.pop(_TRAIT)
    if not 1 <= facts <= len(table) or not 1 <= traits <= len(words):
        raise ConfigError(f"people of the small world have 1 to {len(table)} facts and 1 to {len(words)} traits")
    found: dict[str, Persona] = {}
    rng = random.Random(f"small world {seed}")
    while len(found) < count:
        subject = rng.choice(("She", "He"))
        told = [f"{subject} {verb} {rng.choice(table[verb])}." for verb in rng.sample([*table], facts)]
        shown = [f"{subject} is {trait}." for trait in rng.sample(words, traits)]
        profile = " ".join(told)
        found.setdefault(profile, Persona(id=f"w{len(found):05d}", profile=profile, personality=" ".join(shown)))
    return list(found.values())


@cache
def _table() -> dict[str, list[str]]:
    text = (files(__package__) / "small_world.txt").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {verb: words.split() for verb, _, words in lines}
