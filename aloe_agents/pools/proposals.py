"""What a generator proposes: its answer cut into items, and each item checked before it is compared.

1. :func:`split` reads whatever models make of "write N": a JSON list, numbered or bulleted items, with blank lines
   between items or without. It returns None for an answer that it cannot cut, and the generator asks again.
2. :func:`objection` says what is wrong with one item. It reads the surface only: a fact in a personality that no pattern
   names passes, and so does a trait in a profile that shows in what somebody does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Literal

import orjson

from aloe_agents.text import storable

Kind = Literal["profiles", "personalities"]
KINDS: tuple[Kind, ...] = ("profiles", "personalities")
SHORTEST, LONGEST = 60, 2000
"""Bounds on the length of an item, in characters."""
FEWEST, MOST = {"profiles": 4, "personalities": 3}, 24
"""Bounds on the facts or traits of an item, counted by its clauses. Generators are asked for 8 to 10."""
_ECHO = 0.8
"""An item echoes an example if a larger share of its word triples is in that example."""

_FENCE = re.compile(r"^\s*```\w*\s*\n(.*?)\n\s*```\s*$", re.DOTALL | re.MULTILINE)
_NUMBERED = re.compile(
    r"^[ \t]*(?:[#*_>]+[ \t]*)*(?:(?:profile|personality|persona|user|item|example)[ \t]*#?)?[ \t]*\(?(\d{1,3})[.):\]]"
    r"[ \t]*[*_]*[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_HEADED = re.compile(
    r"^[ \t]*[#*_]*[ \t]*(?:profile|personality|persona|user)[ \t]*#?(\d{1,3})[*_: \t]*$", re.IGNORECASE | re.MULTILINE
)
_BULLET = re.compile(r"^(?:[-*•–—]|\+)[ \t]+", re.MULTILINE)
_INNER_BULLET = re.compile(r"^[ \t]*(?:[-*•–—+]|\d{1,2}[.)])[ \t]+", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n")
_TALK = re.compile(
    r"(?:here (?:are|is)|sure|certainly|of course|below (?:are|is)|these (?:are|profiles|personalities)|i hope|let me know"
    r"|feel free|note:|okay|each (?:profile|personality))\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.!?;]+(?:\s|$)|,\s|\s(?:and|but|who|which|while|with)\s")
_WORD = re.compile(r"[\w'’-]+")

_TRAITS = (
    "introverted|extroverted|outgoing|reserved|shy|sociable|gregarious|optimistic|pessimistic|cynical|sarcastic|witty"
    "|blunt|assertive|confident|insecure|anxious|empathetic|compassionate|caring|kind|generous|loyal|honest|humble|modest"
    "|arrogant|stubborn|impulsive|spontaneous|adventurous|curious|creative|imaginative|analytical|logical|rational"
    "|practical|pragmatic|organi[sz]ed|methodical|meticulous|perfectionist|ambitious|disciplined|patient|impatient|calm"
    "|energetic|enthusiastic|cheerful|moody|sensitive|emotional|charismatic|easy-going|open-minded|reflective|thoughtful"
    "|diplomatic|independent|playful|humorous|friendly|warm-hearted"
)
_TRAIT = re.compile(
    rf"\b(?:is|are|he['’]s|she['’]s|they['’]re|known as an?|known for being)\s+(?:an?\s+)?(?:(?:\w+ly|very|quite|really|a"
    rf" bit|rather|so|also|always)\s+)*(?:{_TRAITS})\b(?!\s+(?:about|of|to|for)\b)",
    re.IGNORECASE,
)
_FACT = re.compile(
    r"\b\d{1,3}[- ]years?[- ]old|\bworks? (?:as|at|for) |\bliv(?:es?|ing) (?:in|with|near|on|at|alone) |\bborn (?:in|on) "
    r"|\b(?:is|are) (?:married|divorced|widowed|engaged|retired|studying)\b|\bgraduated (?:from|in) "
    r"|\bha(?:s|ve) (?:a|an|one|two|three|four|five|\d+) (?:\w+ ){0,2}"
    r"(?:dogs?|cats?|sons?|daughters?|child|children|kids?|brothers?|sisters?|parrots?|rabbits?|horses?|siblings?)\b",
    re.IGNORECASE,
)


def split(text: str, wanted: int = 2) -> list[str] | None:
    """The items that ``text`` lists, each on one line; None if it is no list of them.

    A single item counts as a list only if one was ``wanted``.
    """
    text = text.strip()
    if fenced := _FENCE.search(text):
        text = fenced[1].strip()
    if (values := _as_json(text)) is not None:
        return values or None
    for pieces in (_numbered(text), _bulleted(text), _paragraphs(text), text.split("\n")):
        items = [item for piece in pieces if (item := _item(piece))]
        if len(items) > 1 or len(items) == wanted:
            return items
    return None


def objection(item: str, kind: Kind, examples: Iterable[str] = ()) -> str | None:
    """Why ``item`` cannot join a pool of ``kind``; None if it can.

    ``examples`` are the texts that its generator was shown.
    """
    if (wrong := _wrong_size(item, kind)) is not None:
        return wrong
    if kind == "profiles" and _TRAIT.search(item):
        return "traits in a profile"
    if kind == "personalities" and _FACT.search(item):
        return "facts in a personality"
    return "echo of an example" if _echoes(item, examples) else None


def _wrong_size(item: str, kind: Kind) -> str | None:
    if len(item) < SHORTEST:
        return "too short"
    if len(item) > LONGEST:
        return "too long"
    clauses = sum(len(_WORD.findall(clause)) > 1 for clause in _CLAUSE.split(item))
    parts = "facts" if kind == "profiles" else "traits"
    if clauses < FEWEST[kind]:
        return f"too few {parts}"
    return f"too many {parts}" if clauses > MOST else None


def _echoes(item: str, examples: Iterable[str]) -> bool:
    triples = _triples(item)
    return bool(triples) and any(len(triples & _triples(example)) > _ECHO * len(triples) for example in examples)


def likeness(text: str) -> bytes:
    """Sixteen bytes, equal for texts that differ at most in case, spaces and punctuation."""
    return blake2b("".join(filter(str.isalnum, text.casefold())).encode(), digest_size=16).digest()


def _as_json(text: str) -> list[str] | None:
    """The texts of a JSON list, of an object that holds a list, or of JSON lines; None if ``text`` is no JSON."""
    try:
        values: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        values = _json_lines(text)
        if values is None:
            return None
    if isinstance(values, dict):
        values = next((value for value in values.values() if isinstance(value, list)), [values])
    found = [_text_of(value) for value in values] if isinstance(values, list) else []
    return [item for text in found if (item := _item(text))]


def _json_lines(text: str) -> list[object] | None:
    lines = [line.strip().rstrip(",") for line in text.split("\n") if line.strip()]
    if not lines or any(line[0] not in '{"' for line in lines):
        return None
    try:
        return [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        return None


def _text_of(value: object) -> str:
    """The longest text of an object, the texts of a list, or the text itself."""
    if isinstance(value, dict):
        return max((part for part in value.values() if isinstance(part, str)), key=len, default="")
    if isinstance(value, list):
        return " ".join(map(_text_of, value))
    return value if isinstance(value, str) else ""


def _numbered(text: str) -> list[str]:
    """What follows 1, 2, 3 and so on, each up to the next. Other numbers at the start of a line do not count."""
    for pattern in (_HEADED, _NUMBERED):
        marks = list(_counted(pattern.finditer(text)))
        if len(marks) > 1:
            ends = [mark.start() for mark in marks[1:]] + [len(text)]
            return _without_afterword([text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)])
    return []


def _counted(marks: Iterable[re.Match[str]]) -> Iterator[re.Match[str]]:
    due = 1
    for mark in marks:
        if int(mark[1]) == due:
            due += 1
            yield mark


def _bulleted(text: str) -> list[str]:
    if len(_BULLET.findall(text)) < 2 or _all_paragraphs_listed(text):
        return []
    return _without_afterword(_BULLET.split(text)[1:])


def _without_afterword(pieces: list[str]) -> list[str]:
    """The pieces without what a model adds after the last item."""
    return [*pieces[:-1], _BLANK.split(pieces[-1].strip(), maxsplit=1)[0]]


def _all_paragraphs_listed(text: str) -> bool:
    """Whether paragraphs hold several bullets each: then the bullets are facts, and the paragraphs are items."""
    paragraphs = _BLANK.split(text)
    return len(paragraphs) > 1 and sum(len(_BULLET.findall(paragraph)) > 2 for paragraph in paragraphs) > 1


def _paragraphs(text: str) -> list[str]:
    return _BLANK.split(text) if _BLANK.search(text) else []


def _item(piece: str) -> str:
    """One item on one line, without marks of lists and emphasis; empty for what a model says around its list."""
    lines = [line for raw in piece.strip().split("\n") if (line := _INNER_BULLET.sub("", raw).strip())]
    stops = len(lines) > 2  # each line is a fact that was a bullet of its own
    joined = " ".join(line.rstrip(",") + ("." if stops and line[-1].isalnum() else "") for line in lines)
    text = storable(" ".join(joined.split()).replace("**", "").replace("__", "").strip().strip('"').strip())
    is_talk = _TALK.match(text) and len(text) < 200
    return "" if is_talk or not _WORD.search(text) else text


def _triples(text: str) -> set[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    return set(zip(words, words[1:], words[2:]))  # noqa: B905 a sliding window
