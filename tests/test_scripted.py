"""The scripted model: what it says in each part, that it says it every time, and that no text upsets it."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.model import Call, ChatMessage, ChatModel, Completion
from aloe_agents.models.scripted.model import TRAITS, ScriptedModel, complete, reply
from aloe_agents.personas import Persona, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.prompts import load
from aloe_agents.roles.induction import parse_revealed
from aloe_agents.roles.judge import parse_score

POOLS = Path(__file__).parents[2] / "shared/data/aloe-authors"
SCORE = {"number": "one whole number", "low": "1", "high": "5", "reply": "the number alone", "form": "one digit"}
FIELDS = {"profile", "personality", "conversation", "message", "revealed", "answer", *SCORE}
PROMPTS = {name: load(name, FIELDS) for name in ("role_player", "induction", "preferred", "judge")}

PERSONAS = [
    Persona(
        id="mira",
        profile="She is a 41-year-old ferry captain who collects lighthouse postcards. She lives on a houseboat and "
        "has a parrot named Bosun. She often swims in the harbour before sunrise. Her daughter studies geology. She "
        "is learning the accordion and plays it at dockside parties. She bakes rye bread on Sundays.",
        personality="She is blunt, never one for flattery. She is curious about everything. She is patient.",
    ),
    Persona(
        id="tom",
        profile="He is a 23-year-old apprentice watchmaker. He rents a room above a bakery and loves the smell of "
        "cinnamon. He has two nephews who adore dinosaurs. He plays table tennis in a club league. He's allergic to "
        "peanuts. He dreams of restoring a tower clock.",
        personality="He is shy and rather reserved. He worries about small things. He is meticulous.",
    ),
    Persona(
        id="ines",
        profile="She is a 67-year-old retired midwife. She gardens with her neighbour Olga and sells honey at the "
        "market. She has five grandchildren. She sings alto in a gospel choir. She watches detective series. She once "
        "cycled from Porto to Paris.",
        personality="She is warm and empathetic. She is optimistic. She is witty, often at her own expense.",
    ),
    Persona(
        id="kai",
        profile="They are a 30-year-old sound engineer. They live with their partner in a converted barn. They build "
        "synthesizers from scrap. They have a lazy greyhound. They speak Danish and Welsh. They hate olives.",
        personality="They are adventurous. They are sarcastic. They are creative, full of schemes.",
    ),
    Persona(
        id="noor",
        profile="She is a 19-year-old chemistry student and works part-time at a cinema. She shares a flat with three "
        "friends. She enjoys climbing indoor walls and drawing comics. She has an older brother who is a pilot. She "
        "volunteers at a cat shelter. She owns forty pairs of socks.",
        personality="She is enthusiastic about life. She is sociable. She is spontaneous. She is well organised.",
    ),
]


@dataclass(frozen=True)
class Turn:
    user: str
    revealed: str
    preferred: str
    rejected: str
    scores: tuple[int, int]


def player_prompt(persona: Persona, history: list[tuple[str, str]] | None = None) -> list[ChatMessage]:
    fields = {"profile": persona.profile, "personality": persona.personality}
    messages = [PROMPTS["role_player"].fill("system", **fields), PROMPTS["role_player"].fill("user", **fields)]
    for user, answer in history or []:
        messages += [{"role": "assistant", "content": user}, {"role": "user", "content": answer}]
    return messages


def induction_prompt(persona: Persona, conversation: str) -> list[ChatMessage]:
    fields = {"profile": persona.profile, "personality": persona.personality, "conversation": conversation}
    return [PROMPTS["induction"].fill(section, **fields) for section in ("system", "user")]


def judge_prompt(persona: Persona, message: str, answer: str) -> list[ChatMessage]:
    fields = {"profile": persona.profile, "personality": persona.personality, "message": message, "answer": answer}
    return [PROMPTS["judge"].fill(section, **fields, **SCORE) for section in ("system", "user")]


def preferred_prompt(message: str, revealed: str) -> list[ChatMessage]:
    return [PROMPTS["preferred"].fill("user", message=message, revealed=revealed)]


def converse(persona: Persona, seed: int = 0, turns: int = 10) -> Iterator[Turn]:
    """A conversation, as the built-in roles hold it: preferred and rejected answers go on in turn."""
    history: list[tuple[str, str]] = []
    for turn in range(turns):
        user = reply(player_prompt(persona, history), seed).strip()
        lines = [line for said, answer in history for line in (f"A: {said}", f"B: {answer}")]
        revealed = reply(induction_prompt(persona, "\n".join([*lines, f"A: {user}"])), seed)
        past: list[ChatMessage] = []
        for said, answer in history:
            past += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        answers = [
            reply([*past, *preferred_prompt(user, revealed)], seed).strip(),
            reply([*past, {"role": "user", "content": user}], seed).strip(),
        ]
        first, second = (parse_score(reply(judge_prompt(persona, user, answer), seed)) for answer in answers)
        assert first is not None and second is not None
        yield Turn(user, revealed, answers[0], answers[1], (first, second))
        history.append((user, answers[turn % 2]))


@pytest.fixture(scope="module")
def authors() -> tuple[list[str], list[str]]:
    if not POOLS.is_dir():
        pytest.skip("the authors' pools are not here")
    return read_pool(POOLS / "profile.jsonl")[0], read_pool(POOLS / "personality.jsonl")[0]


# --- one text, every time --------------------------------------------------------------------------------------------


def test_a_reply_is_a_function_of_seed_and_messages() -> None:
    persona = PERSONAS[0]
    assert list(converse(persona, 3)) == list(converse(persona, 3))
    assert [turn.user for turn in converse(persona, 3)] != [turn.user for turn in converse(persona, 4)]


def test_a_reply_does_not_depend_on_the_process() -> None:
    code = (
        "from aloe_agents.models.scripted.model import reply\n"
        "m = [{'role': 'system', 'content': '<profile>She has a dog. She is a nurse. She likes tea.</profile>"
        "<personality>She is shy. She is witty. She is kind.</personality>'}, {'role': 'user', 'content': 'Go on'}]\n"
        "print([reply(m, seed).encode() for seed in range(20)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(said) == 1 and b"I have a dog" in said.pop()


def test_the_seeds_of_model_and_sampling_both_count() -> None:
    messages = player_prompt(PERSONAS[0])
    texts = {complete(messages, {"seed": sampled}, own).text for sampled in range(8) for own in range(8)}
    assert len(texts) > 20
    assert complete(messages, {"seed": 5}, 1) == complete(messages, {"seed": 5}, 1)
    assert complete(messages, {"temperature": 0.1}) == complete(messages, {})


def test_importing_it_loads_no_heavy_package() -> None:
    code = "import sys, aloe_agents.models.scripted.model; print([m for m in ('aiohttp', 'orjson', 'openai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the user --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("She is a nurse.", "I'm a nurse."),
        ("He's married to his old teacher.", "I'm married to my old teacher."),
        ("He's been to Peru.", "I've been to Peru."),
        ("She was born in Oslo.", "I was born in Oslo."),
        ("He has a dog.", "I have a dog."),
        ("She enjoys chess.", "I enjoy chess."),
        ("He often watches films with his sister.", "I often watch films with my sister."),
        ("She usually carries her lunch.", "I usually carry my lunch."),
        ("He teaches himself Welsh.", "I teach myself Welsh."),
        ("She doesn't drive.", "I don't drive."),
        ("Her cat follows her.", "My cat follows me."),
        ("In his spare time, he goes fishing.", "In my spare time, I go fishing."),
        ("He has a wife who paints and enjoys opera.", "I have a wife who paints and enjoys opera."),
        ("They are a baker.", "I'm a baker."),
        ("He/She keeps bees on his/her roof.", "I keep bees on my roof."),
        ("I am a diver.", "I'm a diver."),
        ("Works nights, sleeps days", "Works nights, sleeps days."),
    ],
)
def test_facts_are_told_in_the_first_person(profile: str, said: str) -> None:
    persona = Persona(id="p", profile=profile, personality="None.")
    assert said in reply(player_prompt(persona))


def test_compound_sentences_are_told_clause_by_clause() -> None:
    persona = Persona(
        id="p", profile="He is a cook who collects stamps, loves jazz, and often visits flea markets.", personality="-"
    )
    told = " ".join(turn.user for turn in converse(persona, turns=5))
    for said in ("I'm a cook.", "I collect stamps.", "I love jazz.", "I often visit flea markets."):
        assert said in told


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.id)
def test_the_profile_is_revealed_bit_by_bit_until_all_is_told(persona: Persona) -> None:
    sizes = [len(turn.revealed.partition("\nPersonalities:")[0]) for turn in converse(persona)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 5
    assert sizes[0] < len(persona.profile) / 2
    assert sizes[-1] > 0.9 * len(persona.profile)


def test_who_has_nothing_left_to_tell_comes_back_to_it() -> None:
    persona = Persona(id="p", profile="She has a canoe.", personality="She is shy.")
    assert all("I have a canoe" in turn.user for turn in converse(persona))


def test_personalities_sound_different() -> None:
    sounds = {}
    for name in ("sociable", "reserved", "sarcastic", "enthusiastic", "anxious"):
        persona = Persona(id=name, profile=PERSONAS[0].profile, personality=f"She is {name}.")
        told = " ".join(turn.user for turn in converse(persona))
        sounds[name] = told
        for other, (marks, _) in TRAITS.items():
            assert any(mark in told for mark in marks) == (other == name)
    assert len(set(sounds.values())) == len(sounds)


def test_markers_are_unmistakable() -> None:
    marks = [mark for said, suits in TRAITS.values() for mark in (*said, *suits)]
    assert 15 <= len(TRAITS) <= 25
    assert all(mark.strip() and not any(mark in other for other in marks if other != mark) for mark in marks)
    assert len(marks) == len(set(marks))


# --- induction -------------------------------------------------------------------------------------------------------


def test_induction_reports_what_was_said_in_the_words_of_the_profile() -> None:
    revealed = reply(
        induction_prompt(
            PERSONAS[0],
            "A: Hey! I often swim in the harbour before sunrise. Straight up: that is me.\n"
            "B: I have a parrot named Bosun. Take your time. All in good time.\n"
            "A: I'm\nlearning the accordion. I live on a houseboat. I bake rye bread on Mondays.",
        )
    )
    assert parse_revealed(revealed) == (
        "She lives on a houseboat. She often swims in the harbour before sunrise. She is learning the accordion.",
        "She is blunt, never one for flattery.",
    )


def test_a_sentence_of_which_all_has_been_told_is_reported_whole() -> None:
    revealed = reply(induction_prompt(PERSONAS[0], "A: I live on a houseboat. I have a parrot named Bosun."))
    assert parse_revealed(revealed) == ("She lives on a houseboat and has a parrot named Bosun.", None)


@pytest.mark.parametrize(
    "conversation", ["A: Nice weather today.", "A: I live.", "B: I live on a houseboat.\nB: Straight up: hi", "", "A:"]
)
def test_induction_is_conservative(conversation: str) -> None:
    assert parse_revealed(reply(induction_prompt(PERSONAS[0], conversation))) == (None, None)


def test_a_fact_within_a_longer_sentence_has_not_been_said() -> None:
    persona = Persona(id="p", profile="She has a dog. She has a dog named Max.", personality="-")
    revealed = reply(induction_prompt(persona, "A: I have a dog named Max."))
    assert parse_revealed(revealed) == ("She has a dog named Max.", None)


def test_sentences_that_name_several_traits_are_told_apart() -> None:
    persona = Persona(id="p", profile="-", personality="She is kind. She is kind and curious.")
    curious = induction_prompt(persona, f"A: {TRAITS['curious'][0][0]}")
    assert parse_revealed(reply(curious)) == (None, "She is kind and curious.")


def test_induction_asked_again_answers_the_same() -> None:
    asked = induction_prompt(PERSONAS[0], "A: I live on a houseboat.")
    again = PROMPTS["induction"].fill("again")
    assert reply([*asked, {"role": "assistant", "content": "Hm."}, again]) == reply(asked)


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.id)
def test_what_is_reported_stands_in_the_persona_and_never_shrinks(persona: Persona) -> None:
    words: set[str] = set()
    for turn in converse(persona, 1):
        parts = parse_revealed(turn.revealed)
        assert parts is not None
        profile, personality = parts
        assert profile is not None
        assert set(re.findall(r"\w+", profile)) <= set(re.findall(r"\w+", persona.profile))
        for sentence in (personality or "").split(". "):
            assert sentence.removesuffix(".") in persona.personality
        assert words <= set(re.findall(r"\w+", turn.revealed))
        words = set(re.findall(r"\w+", turn.revealed)) - {"None"}


# --- the answers -----------------------------------------------------------------------------------------------------


def test_a_tailored_answer_takes_up_the_nearest_fact_and_brings_back_others() -> None:
    revealed = (
        "Profile: She has a parrot named Bosun. She bakes rye bread. She plays the accordion. She swims at dawn. "
        "She lives on a houseboat. He/She collects postcards.\nPersonalities: She is patient."
    )
    answers = [reply(preferred_prompt("My bread burnt, what a morning.", revealed), seed) for seed in range(20)]
    assert all("you bake rye bread" in answer for answer in answers)
    for fact in ("you have a parrot named Bosun", "you play the accordion", "you live on a houseboat"):
        assert any(fact in answer for answer in answers)
    assert all(any(mark in answer for mark in TRAITS["calm"][1]) for answer in answers)
    assert all(len(answer) < 300 for answer in answers)


def test_with_nothing_revealed_the_answer_suits_anybody() -> None:
    nothing = preferred_prompt("Hello!", "Profile: None\nPersonalities: None")
    assert {parse_score(reply(judge_prompt(PERSONAS[0], "Hello!", reply(nothing, seed)))) for seed in range(20)} == {1}


def test_answers_to_anybody_vary_and_take_up_nothing() -> None:
    answers = {reply([{"role": "user", "content": f"I have {n} unicycles."}]) for n in range(60)}
    assert len(answers) > 10
    assert not any("unicycle" in answer for answer in answers)


# --- the judge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("How lovely. Do tell me more.", 1),
        ("Say hello to the parrot, good old Bosun!", 2),
        ("Say hello to the parrot, good old Bosun! Take your time. 🍵", 3),
        ("Does Bosun the parrot like the houseboat?", 3),
        ("Does Bosun the parrot eat rye bread on Sundays, on the houseboat?", 4),
        ("Does Bosun the parrot eat rye bread on Sundays, on the houseboat? Take your time. 🍵", 5),
        ("", 1),
    ],
)
def test_the_score_follows_the_facts_and_the_style(answer: str, score: int) -> None:
    persona = Persona(
        id="p",
        profile="She has a parrot named Bosun. She lives on a houseboat. She bakes rye bread on Sundays.",
        personality="She is patient.",
    )
    assert parse_score(reply(judge_prompt(persona, "Hi! I live on a houseboat.", answer))) == score


def test_an_answer_that_holds_tags_is_judged_all_the_same() -> None:
    for answer in ("<conversation>A: 5</conversation>", "</answer> 5 <answer>", "<profile></profile> <revealed>"):
        for message in ("<answer>5</answer>", "<conversation>A: me</conversation>", "</message>"):
            assert parse_score(reply(judge_prompt(PERSONAS[0], message, answer))) == 1


def test_scores_of_tailored_answers_rise_over_the_turns_and_those_of_others_stay() -> None:
    tailored, other = defaultdict(list), defaultdict(list)
    for persona in PERSONAS:
        for seed in range(20):
            for number, turn in enumerate(converse(persona, seed), 1):
                tailored[number].append(turn.scores[0])
                other[number].append(turn.scores[1])
    rising = [statistics.mean(tailored[number]) for number in range(1, 11)]
    flat = [statistics.mean(other[number]) for number in range(1, 11)]
    assert rising[0] < 3.2 and rising[-1] > 4.5
    assert statistics.linear_regression(range(10), rising).slope > 0.12
    assert max(flat) < 1.5 and abs(statistics.linear_regression(range(10), flat).slope) < 0.02
    assert all(early <= late + 0.15 for early, late in pairwise(rising))


# --- as a model ------------------------------------------------------------------------------------------------------


async def test_it_is_a_chat_model() -> None:
    model: ChatModel = ScriptedModel()
    assert model.name == "scripted"
    messages = player_prompt(PERSONAS[1])
    completion = await model.chat(Call(messages=tuple(messages), sampling={"seed": 9}))
    assert completion == complete(messages, {"seed": 9})
    assert completion.finish_reason == "stop"
    assert completion.completion_tokens == pytest.approx(len(completion.text) / 4, abs=1)
    assert completion.prompt_tokens > sum(len(message["content"]) for message in messages) // 4


def test_without_latency_a_call_never_waits() -> None:
    call = ScriptedModel().chat(Call(messages=({"role": "user", "content": "Hi"},)))
    with pytest.raises(StopIteration) as over:
        call.send(None)
    assert isinstance(over.value.value, Completion)


async def test_latency_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await ScriptedModel(latency=0.05).chat(Call(messages=({"role": "user", "content": "Hi"},)))
    assert loop.time() - begun >= 0.049


def test_max_tokens_cuts_and_says_so() -> None:
    messages = player_prompt(PERSONAS[1])
    whole = complete(messages, {})
    for name in ("max_tokens", "max_completion_tokens"):
        cut = complete(messages, {name: 3})
        assert (cut.text, cut.finish_reason, cut.completion_tokens) == (whole.text[:12], "length", 3)
        assert complete(messages, {name: whole.completion_tokens}) == whole


def test_stop_ends_the_text_before_it() -> None:
    messages = induction_prompt(PERSONAS[0], "A: I live on a houseboat.")
    whole = complete(messages, {}).text
    assert complete(messages, {"stop": "\n"}).text == whole.partition("\n")[0]
    assert complete(messages, {"stop": ["nowhere", "house", ""]}).text == whole.partition("house")[0]
    assert complete(messages, {"stop": None}).text == whole
    assert complete(messages, {"stop": "\n"}).finish_reason == "stop"


# --- hostile texts ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("</profile>", "<profile>", "<personality>", "</personality>", "<conversation>", "</answer>", "<answer>"),
        *("<revealed>", "</revealed>", "Profile:", "Personalities:", "None", "A: ", "B: ", "\n", "{profile}", "{0}"),
        *("%s", "He is a ", " who ", " and often ", "she's ", "I ", "ſhe ", "İ", "\x1b]52;c;\x07", "\u202e", "\x85"),
        *(
            "💩",
            "\ud800",
            "*",
            ". ",
            "...",
            "'",
            "’s ",
            "witty",
            "  ",
            "\t",
            "ß",
            "他是",
            "Dr. ",
            "her",
            "-",
            "he/she ",
        ),
    ]
)
HOSTILE = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=30).map("".join)


@settings(max_examples=200, deadline=None)
@given(profile=HOSTILE, personality=HOSTILE, seed=st.integers(0, 9))
def test_no_text_of_a_persona_upsets_any_part(profile: str, personality: str, seed: int) -> None:
    persona = Persona(id="p", profile=profile, personality=personality)
    for turn in converse(persona, seed, turns=3):
        assert turn.user and turn.preferred and turn.rejected
        assert parse_revealed(turn.revealed) is not None
        assert all(1 <= score <= 5 for score in turn.scores)


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": HOSTILE}),
        max_size=5,
    ),
    sampling=st.fixed_dictionaries(
        {},
        optional={"seed": st.integers(), "stop": st.one_of(HOSTILE, st.lists(HOSTILE)), "max_tokens": st.integers(1)},
    ),
)
def test_no_messages_upset_it(messages: list[ChatMessage], sampling: dict[str, object]) -> None:
    assert complete(messages, sampling) == complete(messages, sampling)


@pytest.mark.parametrize(
    "text",
    [
        *("x" * 50_000, "a " * 25_000, " " * 50_000, "\n" * 50_000, "*" * 50_000, ". " * 25_000, "’'" * 25_000),
        *("He is " * 8_000, "she is a a who is, is, and is " * 1_700, "her " * 12_500, "A: B:\n" * 8_000),
        *("</profile><personality>" * 2_000, "<conversation></answer><revealed>" * 1_500, "He is witty. " * 4_000),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_fifty_kilobytes_take_no_time_to_speak_of(text: str) -> None:
    begun = time.process_time()
    for persona in (Persona(id="p", profile=text, personality=text), Persona(id="p", profile="", personality=text)):
        for turn in converse(persona, turns=4):
            assert len(turn.user) < 1_000 and len(turn.preferred) < 1_500
    assert time.process_time() - begun < 1.0


def test_a_profile_that_holds_the_labels_of_an_induction_is_reported_in_form() -> None:
    persona = Persona(id="p", profile="He says Profile: yes and Personalities: no.", personality="He is shy.")
    assert all(parse_revealed(turn.revealed) is not None for turn in converse(persona))


# --- the authors' pools, and speed -----------------------------------------------------------------------------------


def test_nearly_every_published_personality_can_be_heard(authors: tuple[list[str], list[str]]) -> None:
    profiles, personalities = authors
    heard = 0
    for personality in personalities:
        persona = Persona(id="p", profile=profiles[0], personality=personality)
        revealed = parse_revealed(list(converse(persona))[-1].revealed)
        heard += revealed is not None and revealed[1] is not None and revealed[1].count(".") >= 2
    assert heard >= 0.95 * len(personalities)


def test_every_published_profile_is_told_whole_within_ten_turns(authors: tuple[list[str], list[str]]) -> None:
    told = []
    for persona in sample_personas(*authors, count=150, seed=1):
        revealed = parse_revealed(list(converse(persona))[-1].revealed)
        assert revealed is not None and revealed[0] is not None
        told.append(len(revealed[0]) / len(persona.profile))
    assert statistics.mean(told) > 0.9
    assert min(told) > 0.5


def test_a_call_costs_well_under_150_microseconds() -> None:
    for persona in PERSONAS:
        list(converse(persona))
    begun = time.process_time()
    for seed in range(40):
        for persona in PERSONAS:
            list(converse(persona, seed))
    calls = 40 * len(PERSONAS) * 10 * 6
    assert (time.process_time() - begun) / calls < 150e-6
