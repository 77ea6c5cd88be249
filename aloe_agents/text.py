"""Text that models and persona files wrote is data: made storable where it enters, inert where it is shown, and cut
into the words that tell what it is about.
"""

from __future__ import annotations

import re

from aloe_agents.errors import ConfigError

_SURROGATES = re.compile("[\ud800-\udfff]")
# C0 without tab and newline, DEL, C1, and what reorders a line without being seen: bidirectional marks,
# embeddings, overrides and isolates, line and paragraph separators, the interlinear annotation controls; and the
# variation selectors of emoji, about whose width terminals and programs disagree.
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufe0e\ufe0f\ufff9-\ufffb\ud800-\udfff]"
)
_TELLING = re.compile(r"[^\W_]{3,}")
_COMMON_WORDS = """all also always and are but can different does enjoy enjoys few for frequently from get good great had has
have her him his how into just like likes live lives love loves made make many more most much named new not off often
old one other our out over own really she since some spend spends such than that the their them there they thing this
time too two was way well were what when which while who with work works would year you your"""
_COMMON = frozenset(_COMMON_WORDS.split())

_NEUTRAL = {"she": "they", "he": "they", "her": "their", "his": "their", "hers": "theirs", "him": "them"}
_NEUTRAL |= {"herself": "themselves", "himself": "themselves"}
_GENDERED = re.compile(rf"\b(?:{'|'.join(_NEUTRAL)})\b", re.IGNORECASE)


def storable(text: str) -> str:
    """``text`` with lone surrogates, which no encoder takes, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def inert(text: str) -> str:
    """``text`` without anything that a terminal acts on: control characters, escape sequences' introducers,
    C1 bytes and bidirectional overrides. Tabs become spaces; newlines stay.
    """
    return _ACTIVE.sub("", text).replace("\t", "    ")


def one_line(text: str, width: int = 200) -> str:
    """``text``, inert, on one line of at most ``width`` characters."""
    line = " ".join(inert(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def telling_words(text: str) -> list[str]:
    """The words that tell what ``text`` is about, in its order: lower case, without a plural's ending and without
    those that nearly every text about people has.
    """
    return [word.removesuffix("s") for word in _TELLING.findall(text.lower()) if word not in _COMMON]


def impersonal(text: str) -> str:
    """``text`` about a woman or a man put as if about anybody: she, he -> they and so on, verbs as they are.

    Whose text it is moves an embedding more than a trait does: without this, a personality with she for he counts as
    new in half of all cases, and strangers of one sex as alike.
    """
    return _GENDERED.sub(lambda word: _cased(_NEUTRAL[word[0].lower()], word[0]), text)


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word


def as_text(value: object, what: str) -> str:
    """``value``, which is ``what``, if it is a text that holds something. Raises ConfigError, naming it, else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ConfigError(f"{what} is missing or empty")
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {kind_of(value)}, not text")
    return storable(value)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
