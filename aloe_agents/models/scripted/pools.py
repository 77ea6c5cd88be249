"""How the scripted model answers a generator's prompts: profiles and personalities put together from a table.

It has the habits of real generators: some items echo an example or are a copy of one with a detail changed, some mix
traits into a profile, and the form of the list differs from answer to answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

_ASKED = re.compile(r"[Ww]rite (?:the )?(\d+) ")
_THEIR = re.compile(r"\btheir\b")
_PROFILE_TOPICS = 8
_OF_A_PROFILE = ("occupation", "place")
_HABITS = {"echo": 0.03, "copy": 0.05, "mixed": 0.03}
"""Shares of the items that are an example over again, one with another age, or of both kinds at once."""


def propose(heard: Sequence[str], seed: object) -> str | None:
    """The answer to a generator's messages; None if they are none. A pure function of both."""
    asked = heard[0]
    _, tag, rest = asked.rpartition('<examples of="')
    kind, _, body = rest.partition('">')
    sketched = "<sketch>" in asked
    if not sketched and (not tag or kind not in ("profiles", "personalities")):
        return None
    rng = random.Random("\0".join([str(seed), *heard]).encode("utf-8", "surrogatepass"))
    if sketched:
        sketch = asked.rpartition("</sketch>")[0].partition("<sketch>")[2]
        return f"{_person(sketch)} {_profile(rng, begin=False)}"
    examples = [line for line in body.partition("</examples>")[0].split("\n") if line.strip()]
    wanted = _ASKED.search(asked)
    items = [_one(kind, examples, rng) for _ in range(min(int(wanted[1]) if wanted else 20, 1000))]
    return _listed(items, kind, rng)


def _one(kind: str, examples: list[str], rng: random.Random) -> str:
    habit = rng.random()
    if examples and habit < _HABITS["echo"]:
        return rng.choice(examples)
    if examples and habit < _HABITS["echo"] + _HABITS["copy"]:
        return _copied(rng.choice(examples), rng)
    if kind == "profiles" and habit < sum(_HABITS.values()):
        return f"{_profile(rng)} {rng.choice(('She', 'He'))} is very outgoing."
    return _profile(rng) if kind == "profiles" else _personality(rng)


def _profile(rng: random.Random, begin: bool = True) -> str:
    table = _table()
    topics = rng.sample([name for name in table if name not in (*_OF_A_PROFILE, "trait")], _PROFILE_TOPICS)
    facts = [rng.choice(table[topic]) for topic in topics]
    occupation, place = (rng.choice(table[name]) for name in _OF_A_PROFILE)
    article = "an" if occupation[0] in "aeiou" and not occupation.startswith(("uni", "us")) else "a"
    age = rng.randint(18, 85)
    openings = (
        f"is a{'n' if age in (18, *range(80, 85)) else ''} {age}-year-old {occupation} in {place}",
        f"is {age} and works as {article} {occupation} in {place}",
        f"is {article} {occupation} from {place}, aged {age}",
    )
    first = [rng.choice(openings)] if begin else []
    return _in_sentences([*first, *facts], rng)


def _personality(rng: random.Random) -> str:
    return _in_sentences(rng.sample(_table()["trait"], 8), rng)


def _in_sentences(phrases: list[str], rng: random.Random) -> str:
    subject, own = rng.choice((("She", "her"), ("He", "his")))
    return " ".join(f"{subject} {_THEIR.sub(own, phrase)}." for phrase in phrases)


def _copied(example: str, rng: random.Random) -> str:
    """An example with another age and its sentences in another order."""
    aged = re.sub(r"\b\d\d\b", lambda age: str(rng.randint(18, 85)), example, count=1)
    first, *rest = re.split(r"(?<=[.!?]) ", aged)
    rng.shuffle(rest)
    return " ".join([first, *rest])


def _person(sketch: str) -> str:
    """A persona in a sentence, as the first sentence of a profile."""
    text = " ".join(sketch.split()).rstrip(".")
    return f"{text}." if text.startswith(("She ", "He ", "They ")) else f"She is {text[:1].lower()}{text[1:]}."


def _listed(items: list[str], kind: str, rng: random.Random) -> str:
    one = {"profiles": "Profile", "personalities": "Personality"}[kind]
    match rng.randrange(6):
        case 0:
            return "\n".join(items)
        case 1:
            return "\n\n".join(items)
        case 2:
            return f"Here are {len(items)} {kind}:\n\n" + "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))
        case 3:
            return "\n".join(f"- {item}" for item in items)
        case 4:
            return "```json\n" + json.dumps(items, indent=2, ensure_ascii=False) + "\n```"
        case _:
            return "\n\n".join(f"**{one} {n}:** {item}" for n, item in enumerate(items, 1))


@cache
def _table() -> dict[str, list[str]]:
    text = (files(__package__) / "pools.txt").read_text(encoding="utf-8")
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            phrases = table.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            phrases.append(line)
    return table
