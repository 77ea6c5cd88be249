"""Prompts are filled in one pass, refused when they do not fit their role, and the built-in ones are whole."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_agents import prompts
from aloe_agents.errors import ConfigError
from aloe_agents.roles.induction import parse_revealed

BUILT_IN = {  # the fields of each section
    "role_player": {"system": {"profile", "personality"}, "user": set()},
    "induction": {"system": {"profile", "personality"}, "user": {"conversation"}, "again": set()},
    "preferred": {"user": {"message", "revealed"}},
    "judge": {
        "system": {"profile", "personality", "number", "low", "high", "reply"},
        "user": {"message", "answer"},
        "again": {"form"},
    },
}
WORDING = {"number", "low", "high", "reply", "form"}
"""What a judge's scale and criteria are called: the program's own words, not data."""
TEMPLATE = """Notes before the first heading are nobody's: {unknown}.

## system
Play {profile}, {profile}; braces: {} {{profile}} {0} {Profile} { profile } %s $profile

## user
{message}
"""

data = st.text(st.one_of(st.sampled_from("{}<>|%$\\[]*#\n profilemessage0g"), st.characters(codec="utf-8"))) | (
    st.sampled_from(["{profile}", "{message}", "{{message}}", "\\1", "\\g<0>", "## user", "</profile>", "{unknown}"])
)


# --- filling ---------------------------------------------------------------------------------------------------------


@given(profile=data, message=data)
def test_what_is_filled_in_is_never_looked_at_again(profile: str, message: str) -> None:
    prompt = prompts.parse(TEMPLATE, "template", {"profile", "message"})
    system = prompt.fill("system", profile=profile, message=message)
    braces = "{} {" + profile + "} {0} {Profile} { profile } %s $profile"
    assert system == {"role": "system", "content": f"Play {profile}, {profile}; braces: {braces}"}
    assert prompt.fill("user", profile=profile, message=message) == {"role": "user", "content": message}


def test_the_user_says_what_is_said_again() -> None:
    prompt = prompts.parse("## again\nOnce more, {profile}.", "template", {"profile"})
    assert prompt.fill("again", profile="Ann") == {"role": "user", "content": "Once more, Ann."}


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "## system\n{profil}\n## user\nx",
            "prompt P, ## system: unknown field {profil}; this role fills {message}, {profile}",
        ),
        (
            "## system\nx\n## user\n{profile} {answer}",
            "prompt P, ## user: unknown field {answer}; this role fills {message}, {profile}",
        ),
        ("## system\n{profile}", "prompt P: the section '## user' is missing"),
        ("no heading at all", "prompt P: the section '## system' is missing"),
        ("", "prompt P: the section '## system' is missing"),
        ("## sytem\nx\n## user\ny", "prompt P: unknown section '## sytem' (there are system, user, again)"),
        ("## system\nx\n## user\ny\n## system\nz", "prompt P: the section '## system' occurs twice"),
    ],
)
def test_a_prompt_that_does_not_fit_its_role_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prompts.parse(text, "P", {"profile", "message"}, {"system", "user"})
    assert str(refused.value) == said


def test_a_role_without_fields_offers_none() -> None:
    with pytest.raises(ConfigError, match="this role fills none"):
        prompts.parse("## user\n{profile}", "P")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_prompt_file_is_read_with_any_line_ends_and_mark(tmp_path: Path, newline: str, start: bytes) -> None:
    file = tmp_path / "mine.md"
    file.write_bytes(start + newline.join(["## system ", "You are {profile}.", "", "## user", "Go"]).encode())
    prompt = prompts.load(str(file), {"profile"}, {"system", "user"})
    assert prompt.sections == {"system": "You are {profile}.", "user": "Go"}
    assert "system" in prompt and "again" not in prompt
    assert prompt.source == str(file)


def test_deeper_headings_belong_to_the_section() -> None:
    prompt = prompts.parse("## system\n# Title\n### Part\n##user\ntext ## user\n## user\nGo", "P")
    assert prompt.sections == {"system": "# Title\n### Part\n##user\ntext ## user", "user": "Go"}


@pytest.mark.parametrize("content", [None, b"## user\ncaf\xe9"])
def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.md"
    if content:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.md cannot be read"):
        prompts.load(file)


# --- the built-in prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_prompt_has_its_sections_and_uses_all_its_fields(name: str) -> None:
    fields = set().union(*BUILT_IN[name].values())
    prompt = prompts.load(name, fields, BUILT_IN[name])
    used = {section: set(re.findall(r"\{(\w+)\}", text)) for section, text in prompt.sections.items()}
    assert used == BUILT_IN[name]
    filled = [prompt.fill(section, **dict.fromkeys(fields, "<<data>>"))["content"] for section in prompt.sections]
    assert not [text for text in filled if "{" in text or "}" in text]
    for text, fields_there in zip(filled, used.values(), strict=True):
        assert text.count("<<data>>") == len(fields_there)


@pytest.mark.parametrize("name", BUILT_IN)
def test_data_stands_alone_between_the_tags_that_name_it(name: str) -> None:
    for text in prompts.load(name, set().union(*BUILT_IN[name].values())).sections.values():
        for field in re.findall(r"\{(\w+)\}", text):
            if field not in WORDING and (
                name != "preferred" or field != "message"
            ):  # the user's message opens the user's message
                assert text.count(f"<{field}>\n{{{field}}}\n</{field}>") == 1


def test_the_answer_to_a_known_user_begins_with_their_message() -> None:
    assert prompts.load("preferred", {"message", "revealed"}).sections["user"].startswith("{message}\n\n(Hint")


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        (  # topics and style, a part at a time, a friend, no analysis, brief and human, pronouns of the profile
            "role_player",
            ["profile", "personality", "part", "friend", "advice", "reasoning", "brief", "human", "pronouns"],
        ),
        ("induction", ["conservative", "Quote", "None", "He/She", "Profile: ...", "Personalities: ..."]),
        ("preferred", ["Hint", "silently", "tone", "no mention", "short"]),
        ("judge", ["Style", "Content", "Form", "{low}", "{high}"]),
    ],
)
def test_the_requirements_of_the_paper_have_their_word(name: str, requirements: list[str]) -> None:
    text = " ".join(prompts.read(name).partition("\n## ")[2].split())
    assert [word for word in requirements if word not in text] == []


def examples() -> list[str]:
    """The worked examples of induction, each from its number to the next."""
    system = prompts.load("induction", {"profile", "personality", "conversation"}).sections["system"]
    cuts = [found.start() for found in re.finditer(r"^Example \d|^Now the person", system, re.MULTILINE)]
    return [system[start:end] for start, end in pairwise(cuts)]


def test_induction_shows_two_worked_examples_one_with_nothing_revealed_of_the_personality() -> None:
    answers = [parse_revealed(text.rpartition("</example_conversation>")[2]) for text in examples()]
    assert len(answers) == 2
    assert [answer is not None and answer[0] is not None for answer in answers] == [True, True]
    assert [answer is not None and answer[1] is not None for answer in answers] == [False, True]


def test_the_examples_extract_what_the_description_says_and_less_than_all_of_it() -> None:
    for text in examples():
        description, _, rest = text.partition("<example_conversation>")
        answer = parse_revealed(rest.rpartition("</example_conversation>")[2])
        assert answer is not None
        said = " ".join(description.split())
        quoted = [sentence for part in answer if part for sentence in part.split(". ")]
        assert 0 < len(quoted) < said.count(".")
        for sentence in quoted:
            words = re.sub(r"\b(he/she|his/her|himself/herself)\b", "~", sentence.rstrip("."), flags=re.IGNORECASE)
            neutral = re.sub(r"\b(he|she|his|her|himself|herself)\b", "~", said, flags=re.IGNORECASE)
            assert words in neutral
