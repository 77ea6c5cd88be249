"""What models and persona files wrote reaches a terminal only as inert text, and a file only as text that encodes."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_agents.text import inert, one_line, storable

EVERYTHING = [chr(code) for code in range(sys.maxunicode + 1)]
BIDI_MARKS = "\u061c\u200e\u200f"
BIDI_CLASSES = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
CONTROLS = [c for c in EVERYTHING if unicodedata.category(c) == "Cc" and c not in "\n\t"]
BIDI = [*BIDI_MARKS, *(c for c in EVERYTHING if unicodedata.bidirectional(c) in BIDI_CLASSES)]
SURROGATES = [chr(code) for code in range(0xD800, 0xE000)]

anything = st.text(
    st.one_of(
        st.sampled_from([*CONTROLS, *BIDI, *"\t\n \x1b[\u2028", *SURROGATES[:3]]),
        st.integers(0, sys.maxunicode).map(chr),
        st.characters(codec="utf-8"),
    )
)


@pytest.mark.parametrize(
    ("hostile", "left"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]52;c;aGVsbG8=\x07copied", "]52;c;aGVsbG8=copied"),
        ("\x1b]8;;http://x\x1b\\link", "]8;;http://x\\link"),
        ("\x9b2J\x9d0;title\x9c", "2J0;title"),
        ("\x1bc\x0e\x0f\x05", "c"),
        ("ding\a", "ding"),
        ("abc\rxyz\b\b", "abcxyz"),
        ("one\x00two\x7f", "onetwo"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("\u2066a\u2067b\u2068c\u2069", "abc"),
        ("\u200eleft\u200fright\u061carabic", "leftrightarabic"),
        ("a\u2028b\u2029c", "abc"),
        ("\x85next line", "next line"),
        ("a\tb", "a    b"),
        ("lone \ud83d surrogate", "lone  surrogate"),
    ],
)
def test_what_a_terminal_acts_on_is_gone(hostile: str, left: str) -> None:
    assert inert(hostile) == left


@pytest.mark.parametrize(
    "harmless",
    [
        "first line\nsecond line\n",
        "👩‍👩‍👧‍👦 🦸🏽‍♀ 👍🏽 🇳🇱",
        "你好，世界 こんにちは 안녕하세요",
        "e\u0301 n\u0303 ก็ नमस्ते",
        "שלום مرحبا",
        "[bold]Rich[/bold] {braces} <tags> \\n %s",
        "non\u00a0breaking, zero\u200bwidth",
    ],
)
def test_harmless_text_stays_as_it_is(harmless: str) -> None:
    assert inert(harmless) == harmless


def test_every_control_and_every_bidirectional_control_of_unicode_is_gone() -> None:
    assert len(CONTROLS) == 63 and len(BIDI) == 12
    assert inert("".join(CONTROLS + BIDI)) == ""


def test_emoji_lose_the_variation_selectors_that_terminals_measure_in_different_ways() -> None:
    assert inert("☕\ufe0f ❤\ufe0f ☎\ufe0e") == "☕ ❤ ☎"


def test_every_letter_mark_number_symbol_and_space_of_unicode_stays() -> None:
    seen = "".join(c for c in EVERYTHING if unicodedata.category(c)[0] in "LMNPS" or unicodedata.category(c) == "Zs")
    seen = seen.replace("\ufe0e", "").replace("\ufe0f", "")
    assert len(seen) > 100_000
    assert inert(seen) == seen


@given(anything)
def test_no_control_survives(text: str) -> None:
    left = inert(text)
    assert not [c for c in left if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert not set(left) & set(BIDI)
    assert left.count("\n") == text.count("\n")
    assert inert(left) == left


@given(anything)
def test_stored_text_encodes_and_only_lone_surrogates_are_replaced(text: str) -> None:
    kept = storable(text)
    kept.encode()
    assert kept == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


@given(anything, st.integers(1, 40))
def test_one_line_is_one_inert_line_of_at_most_its_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert line == inert(line) and "\n" not in line


def test_one_line_says_when_it_cut() -> None:
    assert one_line("a  b\n\tc", 5) == "a b c"
    assert one_line("a b c d", 5) == "a b …"
    assert one_line("word" + " " * 5000 + "lost", 20) == "word…"
