"""Persona files and pools: what is read, what is mended with a remark, what is refused and how it is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.errors import ConfigError
from aloe_agents.personas import Persona, read_personas, sample_personas, write_personas
from aloe_agents.pools.items import read_pool

AUTHORS = Path(__file__).parents[2] / "shared/data/aloe-authors"
OWN = Path(__file__).parents[1] / "aloe_agents/pools"

ONE = {"profile": "She keeps bees.", "personality": "She is blunt."}


def written(path: Path, text: str | bytes, name: str = "personas.jsonl") -> Path:
    file = path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def lines(*values: object) -> str:
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values) + "\n"


# --- personas --------------------------------------------------------------------------------------------------------


def test_a_persona_without_an_id_is_called_by_its_place(tmp_path: Path) -> None:
    file = written(tmp_path, lines(ONE, {**ONE, "id": "ann"}, {**ONE, "id": None}, {**ONE, "id": ""}))
    assert [persona.id for persona in read_personas(file)] == ["p00001", "ann", "p00003", "p00004"]


def test_whole_numbers_are_ids_zero_among_them(tmp_path: Path) -> None:
    file = written(tmp_path, lines(*({**ONE, "id": n} for n in range(3))))
    assert [persona.id for persona in read_personas(file)] == ["0", "1", "2"]


def test_texts_are_kept_as_they_stand_and_other_fields_in_extra(tmp_path: Path) -> None:
    hostile = " {profile} <|im_end|>\n\u202e\x1b[2J [bold] 👩‍👧 "
    file = written(tmp_path, lines({"profile": hostile, "personality": "%s {0}", "age": 5}))
    assert read_personas(file) == [Persona(id="p00001", profile=hostile, personality="%s {0}", extra={"age": 5})]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, newline: str, start: bytes) -> None:
    text = newline.join(["", json.dumps(ONE), "   ", json.dumps({**ONE, "id": "b"}), "", ""])
    personas = read_personas(written(tmp_path, start + text.encode()))
    assert [persona.id for persona in personas] == ["p00001", "b"]
    assert personas[0].profile == ONE["profile"]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    profile = "She keeps\u2028bees.\x85"
    file = written(tmp_path, json.dumps({**ONE, "profile": profile}, ensure_ascii=False))
    assert read_personas(file)[0].profile == profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no persona"),
        ("\n  \n", "holds no persona"),
        (lines({"personality": "x"}), "line 1: the persona's profile is missing or empty"),
        (lines(ONE, {"profile": "x"}), "line 2: the persona's personality is missing or empty"),
        (lines({**ONE, "profile": ""}), "line 1: the persona's profile is missing or empty"),
        (lines({**ONE, "profile": "  \n"}), "line 1: the persona's profile is missing or empty"),
        (lines({**ONE, "profile": None}), "line 1: the persona's profile is missing or empty"),
        (lines({**ONE, "profile": 0}), "line 1: the persona's profile is a number, not text"),
        (lines({**ONE, "profile": ["a"]}), "line 1: the persona's profile is a list, not text"),
        (lines({**ONE, "profile": []}), "line 1: the persona's profile is a list, not text"),
        (lines({**ONE, "personality": {"a": 1}}), "line 1: the persona's personality is an object, not text"),
        (lines({**ONE, "personality": False}), "line 1: the persona's personality is true or false, not text"),
        (lines("[1]"), "line 1: a persona is an object with profile and personality, not a list"),
        (lines('"text"'), "line 1: a persona is an object with profile and personality, not a text"),
        (lines("null"), "line 1: a persona is an object with profile and personality, not null"),
        (lines(ONE, "", "{oops}"), "line 3 is not JSON"),
        (lines('{"profile": "cut off'), "line 1 is not JSON"),
        (lines(json.dumps(ONE) + json.dumps(ONE)), "line 1 is not JSON"),
        (lines("[" * 100_000), "line 1 is not JSON"),
        (lines({**ONE, "id": "a"}, ONE, {**ONE, "id": "a"}), "line 3: the id 'a' is taken by line 1"),
        (lines(ONE, {**ONE, "id": "p00001"}), "line 2: the id 'p00001' is taken by line 1"),
        (lines({**ONE, "id": 7}, {**ONE, "id": "7"}), "line 2: the id '7' is taken by line 1"),
        (lines({**ONE, "id": "x" * 201}), "line 1: an id is at most 200 printable characters"),
        (lines({**ONE, "id": "a\x1b[2J"}), "line 1: an id is at most 200 printable characters"),
        (lines({**ONE, "id": "  "}), "line 1: an id is at most 200 printable characters"),
        (lines({**ONE, "id": True}), "line 1: the persona's id is true or false"),
        (lines({**ONE, "id": 1.5}), "line 1: the persona's id is a number, not a text or a whole number"),
        (lines({**ONE, "id": {}}), "line 1: the persona's id is an object"),
        (b'{"profile": "caf\xe9"}', "is not UTF-8 text (byte 16)"),
        (json.dumps(ONE).encode("utf-16"), "is not UTF-8 text (byte 0)"),
    ],
)
def test_what_is_no_persona_is_refused_by_file_and_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read_personas(file)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("read", [read_personas, read_pool])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)


# --- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '"one"\n"two"\n',
        '\n"one"\r\n\n  "two"  ',
        '{"text": "one"}\n{"text": "two"}\n',
        '{"profile": "one"}\n{"personality": "two"}\n',
        '{"personalities": "one", "source": 3}\n"two"\n',
        "one\ntwo\n",
        "  one  \n\n two",
    ],
)
def test_pools_of_strings_of_objects_and_of_lines_are_read_alike(tmp_path: Path, text: str) -> None:
    assert read_pool(written(tmp_path, text)) == (["one", "two"], [])


def test_plain_lines_are_kept_as_they_stand(tmp_path: Path) -> None:
    held = ['She said "hello".', "{not json", '"nor this']
    assert read_pool(written(tmp_path, "\n".join(["He cooks.", *held])))[0] == ["He cooks.", *held]


def test_a_line_separator_inside_an_item_ends_no_line(tmp_path: Path) -> None:
    for text in ("He cooks\u2028well.\n", '"He cooks\u2028well."\n'):
        assert read_pool(written(tmp_path, text))[0] == ["He cooks\u2028well."]


def test_a_line_of_several_strings_counts_as_several_items_with_a_remark(tmp_path: Path) -> None:
    file = written(tmp_path, '"one"\n"two""three"\n"four" {"text": "five"} "six"\n')
    items, remarks = read_pool(file)
    assert items == ["one", "two", "three", "four", "five", "six"]
    assert remarks == [
        f"{file}, line 2 holds 2 items; all of them are used",
        f"{file}, line 3 holds 3 items; all of them are used",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no item"),
        (" \n\n", "holds no item"),
        ('"one"\ntwo\n', "line 2 is not JSON"),
        ('"one"\n"two", "three"\n', "line 2 is not JSON"),
        ('"one"\n""\n', "line 2: the item is missing or empty"),
        ('"one"\n7\n', "line 2: the item is a number, not text"),
        ('["one", "two"]\n', "line 1: the item is a list, not text"),
        ('{"name": "Ann"}\n', "line 1: the item is missing or empty"),
        ('{"profile": ["a"]}\n', "line 1: the item is a list, not text"),
        (lines(ONE), "line 1 holds profile and personality, but an item is one text"),
        ("[" * 100_000, "line 1 is not JSON"),
        (b"caf\xe9\n", "is not UTF-8 text (byte 3)"),
    ],
)
def test_what_is_no_pool_is_refused_by_file_and_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read_pool(file)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(file))


@given(items=st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=8))
@settings(max_examples=50)
def test_any_texts_written_as_json_strings_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[str]
) -> None:
    file = written(tmp_path_factory.getbasetemp(), lines(*(json.dumps(item) for item in items)), "pool.jsonl")
    assert read_pool(file) == (items, [])


# --- pairs -----------------------------------------------------------------------------------------------------------

PROFILES = [f"profile {n}" for n in range(7)]
PERSONALITIES = [f"personality {n}" for n in range(5)]


@given(count=st.integers(0, 35), seed=st.integers(0, 2**63 - 1))
def test_pairs_are_drawn_without_repetition_and_equal_for_equal_seeds(count: int, seed: int) -> None:
    drawn = sample_personas(PROFILES, PERSONALITIES, count, seed)
    assert drawn == sample_personas(PROFILES, PERSONALITIES, count, seed)
    assert len({(persona.profile, persona.personality) for persona in drawn}) == count
    assert [persona.id for persona in drawn] == [f"p{n:05d}" for n in range(1, count + 1)]
    assert {persona.profile for persona in drawn} <= set(PROFILES)
    assert {persona.personality for persona in drawn} <= set(PERSONALITIES)


@given(
    profiles=st.integers(1, 12), personalities=st.integers(1, 12), part=st.floats(0, 1), seed=st.integers(0, 2**63 - 1)
)
def test_every_profile_and_every_personality_is_used_as_evenly_as_can_be(
    profiles: int, personalities: int, part: float, seed: int
) -> None:
    count = round(part * profiles * personalities)
    drawn = sample_personas([f"a{n}" for n in range(profiles)], [f"b{n}" for n in range(personalities)], count, seed)
    for uses, of in (
        (Counter(p.profile for p in drawn), profiles),
        (Counter(p.personality for p in drawn), personalities),
    ):
        assert set(uses.values()) <= {count // of, -(-count // of)}
        assert len(uses) == min(of, count)


def test_personas_written_are_those_read(tmp_path: Path) -> None:
    drawn = sample_personas(PROFILES, PERSONALITIES, 35, 3)
    write_personas(tmp_path / "new/personas.jsonl", drawn)
    assert read_personas(tmp_path / "new/personas.jsonl") == drawn


def test_all_pairs_can_be_drawn_and_none_more() -> None:
    drawn = sample_personas(PROFILES, PERSONALITIES, 35, 1)
    assert {(p.profile, p.personality) for p in drawn} == {(a, b) for a in PROFILES for b in PERSONALITIES}
    with pytest.raises(ConfigError, match="36 personas asked for, but 7 profiles with 5 personalities make only 35"):
        sample_personas(PROFILES, PERSONALITIES, 36, 1)


def test_other_seeds_draw_other_pairs_and_no_pair_is_favoured() -> None:
    assert sample_personas(PROFILES, PERSONALITIES, 10, 1) != sample_personas(PROFILES, PERSONALITIES, 10, 2)
    counts = Counter(
        (p.profile, p.personality) for seed in range(700) for p in sample_personas(PROFILES, PERSONALITIES, 5, seed)
    )
    assert len(counts) == 35 and min(counts.values()) > 60 and max(counts.values()) < 140  # 100 expected


# --- the pools that the paper's authors published --------------------------------------------------------------------


@pytest.fixture(scope="module")
def authors() -> Path:
    if not AUTHORS.is_dir():
        pytest.skip("the authors' pools are not here")
    return AUTHORS


def test_the_authors_profiles_are_331_on_330_lines(authors: Path) -> None:
    items, remarks = read_pool(authors / "profile.jsonl")
    assert len(items) == 331
    assert remarks == [f"{authors / 'profile.jsonl'}, line 6 holds 2 items; all of them are used"]
    assert items[5].startswith("He is a 37-year-old software engineer")
    assert items[6].startswith("He is a 46-year-old high school history teacher")


@pytest.mark.parametrize(
    ("name", "count"), [("personality.jsonl", 71), ("profile_eval.jsonl", 20), ("personality_eval.jsonl", 7)]
)
def test_the_authors_other_pools_hold_an_item_a_line(authors: Path, name: str, count: int) -> None:
    items, remarks = read_pool(authors / name)
    assert (len(items), remarks) == (count, [])


def test_three_hundred_personas_come_of_the_authors_pools(authors: Path) -> None:
    pools = [read_pool(authors / name)[0] for name in ("profile.jsonl", "personality.jsonl")]
    drawn = sample_personas(pools[0], pools[1], 300, 7)
    assert len({(p.profile, p.personality) for p in drawn}) == len({p.id for p in drawn}) == 300
