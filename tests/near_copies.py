"""Near-copies of profiles and personalities, made by rule: what a pool's filter must drop."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

NAMES = ("Olga", "Winston", "Pixie", "Bruno", "Kiki", "Admiral", "Zelda", "Moss")
PETS = ("dog", "cat", "parrot", "rabbit", "tortoise", "ferret", "hamster")
CITIES = ("Oslo", "Quito", "Hanoi", "Leeds", "Dakar", "Perth", "Lima", "Turin")
SYNONYMS = {
    r"\bhas been\b": "was",
    r"\bhas\b": "has got",
    r"\blives in\b": "makes a home in",
    r"\b(loves|enjoys|likes)\b": "is very fond of",
    r"\b(plays|practises)\b": "regularly plays",
    r"\bcollects\b": "gathers",
    r"\bevery (day|morning|week|summer|year)\b": r"each \1",
    r"\boften\b": "frequently",
    r"\bvery\b": "really",
    r"\bwants to\b": "would like to",
    r"\balways\b": "at all times",
    r"\bkeeps\b": "has",
    r"\bowns\b": "possesses",
    r"\bnever\b": "at no time",
    r"\bis\b": "is, one can say,",
    r"\bThey are\b": "They seem",
}


def aged(text: str, rng: random.Random) -> str:
    """Another age."""
    return re.sub(r"\b\d\d(?=[- ]year| and works|\.|,)", lambda _: str(rng.randint(18, 85)), text, count=1)


def renamed(text: str, rng: random.Random) -> str:
    """Another name for whatever is called or named something."""
    return re.sub(r"(?<=(?:called|.named) )[A-Z][a-z]+", lambda _: rng.choice(NAMES), text)


def moved(text: str, rng: random.Random) -> str:
    """Another place."""
    place = r"\b(?:in|from) (?:[a-z]+ )?[A-Z]\w+(?: [A-Z]\w+)*"
    return re.sub(place, lambda _: f"in {rng.choice(CITIES)}", text, count=1)


def other_pet(text: str, rng: random.Random) -> str:
    """Another animal."""
    return re.sub(rf"\b(?:{'|'.join(PETS)})(?=s?\b)", lambda _: rng.choice(PETS), text)


def reordered(text: str, rng: random.Random) -> str:
    """The first sentence, then the others in another order."""
    first, *rest = re.split(r"(?<=[.!?])\s+", text)
    rng.shuffle(rest)
    return " ".join([first, *rest])


def paraphrased(text: str, rng: random.Random) -> str:
    """Three of the phrases above put in other words."""
    rules = [rule for rule in SYNONYMS if re.search(rule, text)]
    for rule in rng.sample(rules, min(3, len(rules))):
        text = re.sub(rule, SYNONYMS[rule], text, count=2)
    return text


def other_person(text: str, rng: random.Random) -> str:
    """She for he and he for she."""
    swap = {"She": "He", "He": "She", "she": "he", "he": "she", "her": "his", "his": "her"}
    return re.sub(rf"\b(?:{'|'.join(swap)})\b", lambda word: swap[word[0]], text)


Rule = Callable[[str, random.Random], str]
OF_PROFILES: tuple[Rule, ...] = (aged, renamed, moved, other_pet, reordered, paraphrased)
OF_PERSONALITIES: tuple[Rule, ...] = (reordered, paraphrased, other_person)


def near_copies(texts: Sequence[str], rules: Sequence[Rule], count: int = 100, seed: int = 0) -> list[tuple[str, str]]:
    """``count`` changed copies of ``texts``, each with the name of its rule; every rule takes its turn."""
    rng = random.Random(seed)
    copies: list[tuple[str, str]] = []
    for n in range(100 * count):
        text, rule = rng.choice(texts), rules[n % len(rules)]
        if len(copies) < count and (copy := rule(text, rng)) != text:
            copies.append((rule.__name__, copy))
    return copies
