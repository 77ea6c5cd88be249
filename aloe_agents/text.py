"""Text that models and persona files wrote is data: made storable where it enters, inert where it is shown."""

from __future__ import annotations

import re

_SURROGATES = re.compile("[\ud800-\udfff]")
# C0 without tab and newline, DEL, C1, and what reorders a line without being seen: bidirectional marks,
# embeddings, overrides and isolates, line and paragraph separators, the interlinear annotation controls; and the
# variation selectors of emoji, about whose width terminals and programs disagree.
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufe0e\ufe0f\ufff9-\ufffb\ud800-\udfff]"
)


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
