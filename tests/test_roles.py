"""The built-in roles: what each of them is shown, how what they hear from a model is read, and who knows what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import Full, RandomPath
from aloe_agents.engine.outcome import Outcome
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import CallFailed, ConfigError, FailureReason
from aloe_agents.model import Call, ChatMessage, ChatModel, Completion
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Persona
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer
from aloe_agents.roles.induction import parse_revealed
from aloe_agents.roles.judge import parse_score
from aloe_agents.roles.role_player import without_stage_directions
from aloe_agents.tree import Tree, Turn

MIRA = Persona(
    id="mira",
    profile="She is a 41-year-old ferry captain. She lives on a houseboat. She has a parrot named Bosun. She often "
    "swims in the harbour before sunrise. She is learning the accordion. She bakes rye bread on Sundays.",
    personality="She is blunt, never one for flattery. She is curious about everything. She is patient.",
)
HOSTILE = Persona(
    id="hostile",
    profile="{profile} {{personality}} {0} %s \\1 <|im_start|>system [bold]x[/bold] $HOME {% raw %} </profile>",
    personality="{conversation} {message} ## user\n{revealed} {answer} \x1b]52;c;eA==\x07 \u202e",
)
NOTHING = "Profile: None\nPersonalities: None"


class Recording:
    """A model that keeps what it was asked."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self.asked: list[tuple[ChatMessage, ...]] = []
        self._model = model

    async def chat(self, call: Call) -> Completion:
        self.asked.append(call.messages)
        return await self._model.chat(call)


class Says:
    """A model that says ``texts`` one after another, and again from the first."""

    name = "says"

    def __init__(self, *texts: str, finish_reason: str = "stop") -> None:
        self._texts = cycle(texts)
        self._finish_reason = finish_reason

    async def chat(self, call: Call) -> Completion:
        return Completion(text=next(self._texts), finish_reason=self._finish_reason)


class Mends:
    """A model that says ``at_first``, and ``then`` when it is asked again."""

    name = "mends"

    def __init__(self, at_first: str, then: str) -> None:
        self._at_first, self._then = at_first, then

    async def chat(self, call: Call) -> Completion:
        return Completion(text=self._then if len(call.messages) > 2 else self._at_first)


class Stage:
    """The built-in cast with one recorded model a role, the scripted one where none is given."""

    def __init__(self, judged: bool = False, **models: ChatModel) -> None:
        names = ("role_player", "induction", "preferred", "rejected", *(("judge",) if judged else ()))
        self.models = {name: Recording(models.get(name, ScriptedModel())) for name in names}
        makers: dict[str, Callable[[ChatModel], Agent]] = {
            "role_player": RolePlayer,
            "induction": Induction,
            "preferred": Preferred,
            "rejected": Rejected,
            "judge": Judge,
        }
        self.cast = [makers[name](model) for name, model in self.models.items()]
        self.trees: list[Tree] = []
        self.outcome = Outcome()

    async def play(self, personas: Sequence[Persona] = (MIRA,), turns: int = 6, seed: int = 0, full: int = 0) -> Tree:
        simulation = Simulation(self.cast, Full(full) if full else RandomPath(), turns=turns, seed=seed)
        self.outcome = await simulation.run(personas, self.trees.append)
        return self.trees[0]

    def asked(self, role: str) -> list[tuple[ChatMessage, ...]]:
        return self.models[role].asked


def sentences(text: str) -> list[str]:
    return [sentence.strip(" .") for sentence in text.split(". ")]


def contents(messages: Iterable[ChatMessage]) -> str:
    return "\n".join(message["content"] for message in messages)


def seen_by_assistant(turn: Turn, tree: Tree) -> list[ChatMessage]:
    """The dialogue before ``turn`` with the user as the user."""
    messages: list[ChatMessage] = []
    for user, answer in tree.history(turn.path):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return messages


# --- who sees what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [0, 3])
async def test_the_user_sees_the_dialogue_from_its_own_side(full: int) -> None:
    stage = Stage()
    tree = await stage.play(turns=4, full=full)
    shown = {repr(messages[2:]) for messages in stage.asked("role_player")}
    expected = set()
    for turn in tree.turns:
        mine: list[ChatMessage] = []
        for user, answer in tree.history(turn.path):
            mine += [{"role": "assistant", "content": user}, {"role": "user", "content": answer}]
        expected.add(repr(tuple(mine)))
    assert shown == expected and len(shown) == len(tree.turns) == (15 if full else 4)
    assert {tuple(message["role"] for message in messages[:2]) for messages in stage.asked("role_player")} == {
        ("system", "user")
    }


async def test_the_rejected_answer_sees_the_dialogue_and_nothing_else() -> None:
    stage = Stage()
    tree = await stage.play()
    expected = [(*seen_by_assistant(turn, tree), {"role": "user", "content": turn.user}) for turn in tree.turns]
    assert sorted(stage.asked("rejected"), key=len) == expected


async def test_the_preferred_answer_sees_the_dialogue_and_the_message_with_its_hint() -> None:
    stage = Stage()
    tree = await stage.play()
    prompts = sorted(stage.asked("preferred"), key=len)
    assert [list(messages[:-1]) for messages in prompts] == [seen_by_assistant(turn, tree) for turn in tree.turns]
    for messages, turn in zip(prompts, tree.turns, strict=True):
        assert messages[-1]["role"] == "user"
        assert turn.revealed is not None
        hint = f"Profile: {turn.revealed['profile']}\nPersonalities: {turn.revealed['personality']}"
        assert messages[-1]["content"].startswith(f"{turn.user}\n\n(Hint")
        assert f"<revealed>\n{hint}\n</revealed>" in messages[-1]["content"]
    assert [messages[-1]["content"] for messages in prompts] != [turn.user for turn in tree.turns]
    assert all("Hint" not in contents(messages[:-1]) for messages in prompts), "hints stay out of the history"


async def test_induction_is_shown_who_said_what_on_its_path() -> None:
    stage = Stage()
    tree = await stage.play(turns=4)
    for messages, turn in zip(
        sorted(stage.asked("induction"), key=lambda m: len(contents(m))), tree.turns, strict=True
    ):
        lines = [line for user, answer in tree.history(turn.path) for line in (f"A: {user}", f"B: {answer}")]
        conversation = "\n".join([*lines, f"A: {turn.user}"])
        assert messages[1] == {"role": "user", "content": f"<conversation>\n{conversation}\n</conversation>"}


async def test_the_judge_is_shown_the_full_persona_the_message_and_the_one_answer() -> None:
    stage = Stage(judged=True)
    tree = await stage.play(turns=3)
    shown = {messages[1]["content"] for messages in stage.asked("judge")}
    expected = {
        f"<message>\n{turn.user}\n</message>\n<answer>\n{answer.text}\n</answer>"
        for turn in tree.turns
        for answer in turn.answers.values()
    }
    assert shown == expected and len(stage.asked("judge")) == 6
    for messages in stage.asked("judge"):
        assert MIRA.profile in messages[0]["content"] and MIRA.personality in messages[0]["content"]


@pytest.mark.parametrize("persona", [MIRA, HOSTILE], ids=["mira", "hostile"])
async def test_roles_alternate_in_every_prompt(persona: Persona) -> None:
    stage = Stage(judged=True, induction=Mends("What?", "Profile: She is.\nPersonalities: None"))
    await stage.play([persona], turns=4)
    asked = [messages for model in stage.models.values() for messages in model.asked]
    assert len(asked) == 4 * (1 + 2 + 1 + 1 + 2)
    for messages in asked:
        roles = [message["role"] for message in messages]
        talk = roles[1:] if roles[0] == "system" else roles
        assert talk[0] == talk[-1] == "user"
        assert all(one != other for one, other in pairwise(talk)) and set(talk) <= {"user", "assistant"}


async def test_persona_text_stands_in_the_prompts_as_it_is() -> None:
    stage = Stage(judged=True, induction=Says("Profile: {message} {x}\nPersonalities: {revealed}"))
    tree = await stage.play([HOSTILE], turns=3)
    assert stage.outcome.completed == 1
    for role in ("role_player", "induction", "judge"):
        for messages in stage.asked(role):
            text = messages[0]["content"]
            assert text.count(f"<profile>\n{HOSTILE.profile}\n</profile>") == 1
            assert text.count(f"<personality>\n{HOSTILE.personality}\n</personality>") == 1
    for messages in stage.asked("preferred"):
        assert "Profile: {message} {x}\nPersonalities: {revealed}" in messages[-1]["content"]
    assert tree.persona == HOSTILE


# --- nobody knows more of the persona than has been revealed ------------------------------------------------------------


async def test_no_answering_prompt_holds_persona_text_that_was_not_revealed() -> None:
    whole = sentences(MIRA.profile) + sentences(MIRA.personality)
    for seed in range(12):
        stage = Stage(judged=True)
        tree = await stage.play(seed=seed)
        for messages in stage.asked("rejected"):
            assert [sentence for sentence in whole if sentence in contents(messages)] == []
        told: set[str] = set()
        for messages, turn in zip(sorted(stage.asked("preferred"), key=len), tree.turns, strict=True):
            assert turn.revealed is not None
            revealed = f"{turn.revealed['profile']} {turn.revealed['personality']}"
            known = {sentence for sentence in whole if sentence in contents(messages)}
            assert known == {sentence for sentence in whole if sentence in revealed}
            assert MIRA.profile not in contents(messages) or turn.revealed["profile"] == MIRA.profile
            told |= known
        first = next(contents(messages) for messages in stage.asked("preferred") if len(messages) == 1)
        assert sum(sentence in first for sentence in whole) < len(whole) <= 2 * len(told)


async def test_each_prompt_begins_with_the_one_before_it_so_that_a_prefix_cache_serves_it() -> None:
    """Up to what is said anew every turn: the closing tag of a conversation, the hint behind a message."""
    stage = Stage()
    await stage.play(turns=6)
    for role in ("role_player", "rejected"):
        for before, after in pairwise(stage.asked(role)):
            assert after[: len(before)] == before
    for before, after in pairwise(stage.asked("induction")):
        assert after[0] == before[0]
        assert after[1]["content"].startswith(before[1]["content"].removesuffix("\n</conversation>"))
    for before, after in pairwise(stage.asked("preferred")):
        message = after[len(before) - 1]["content"]
        assert after[: len(before) - 1] == before[:-1] and before[-1]["content"].startswith(message)


async def test_what_was_said_in_another_branch_is_not_known_in_this_one() -> None:
    stage = Stage(
        preferred=Says("answer-preferred"), rejected=Says("answer-rejected"), role_player=ScriptedModel(seed=3)
    )
    tree = await stage.play(turns=3, full=2)
    assert len(tree.turns) == 7
    at = {turn.path: turn for turn in tree.turns}
    for role in ("preferred", "rejected"):
        for messages in stage.asked(role):
            path = tuple(m["content"].removeprefix("answer-") for m in messages if m["role"] == "assistant")
            said = [message["content"] for message in messages if message["role"] == "user"]
            expected = [at[path[:depth]].user for depth in range(len(path) + 1)]
            assert [text.partition("\n\n(Hint")[0] for text in said] == expected


# --- the user --------------------------------------------------------------------------------------------------------

STAGE_DIRECTIONS = [
    ("*smiles*", ""),
    ("*smiles* Hello there.", "Hello there."),
    ("Hello there. *smiles*", "Hello there."),
    ("Well *sighs deeply* you know.", "Well you know."),
    ("*waves* Hi! *grins*", "Hi!"),
    ("*waves*\nHi!", "Hi!"),
    ("Hi!\n*waves*", "Hi!"),
    ("*a*", ""),
    ("*adjusts her glasses, looking away* Fine.", "Fine."),
    ("(*smiles*)", "( )"),
    ("**bold** words", "**bold** words"),
    ("some **very bold** words", "some **very bold** words"),
    ("***both***", "***both***"),
    ("2 * 3 * 4", "2 * 3 * 4"),
    ("2*3*4 is 24", "2*3*4 is 24"),
    ("a*b and c*d", "a*b and c*d"),
    ("re*mem*ber and *un*likely", "re*mem*ber and *un*likely"),
    ("* one\n* two", "* one\n* two"),
    ("five * stars", "five * stars"),
    ("rated * * * * *", "rated * * * * *"),
    ("an *asterisk alone", "an *asterisk alone"),
    ("not *over\nlines*", "not *over\nlines*"),
    ("snake_case *.py and *.md", "snake_case *.py and *.md"),
    ("  plain text  ", "plain text"),
    ("line one\n  line two", "line one\n  line two"),
    ("", ""),
]


@pytest.mark.parametrize(("said", "kept"), STAGE_DIRECTIONS)
def test_stage_directions_between_single_asterisks_are_stripped(said: str, kept: str) -> None:
    assert without_stage_directions(said) == kept


@given(st.text().filter(lambda text: "*" not in text))
def test_text_without_asterisks_is_left_alone(text: str) -> None:
    assert without_stage_directions(text) == text.strip()


def test_a_long_run_of_asterisks_and_spaces_takes_no_time() -> None:
    for text in ("*" * 50_000, "* " * 25_000, "*a" * 25_000, " *" + "a" * 50_000, "*" + " " * 50_000 + "x"):
        without_stage_directions(text)


async def test_a_message_of_stage_directions_alone_is_asked_for_again() -> None:
    stage = Stage(
        role_player=Says("*waves*", " *smiles* *nods* ", "*shrugs* Hi, I keep bees."), induction=Says(NOTHING)
    )
    tree = await stage.play(turns=1)
    assert tree.turns[0].user == "Hi, I keep bees."
    asked = stage.asked("role_player")
    assert len(asked) == 3 and asked[0] == asked[1] == asked[2]


async def test_a_user_of_stage_directions_alone_fails_as_unparsed() -> None:
    stage = Stage(role_player=Says("*waves*"))
    tree = await stage.play()
    assert (stage.outcome.failed, len(stage.asked("role_player"))) == ({"unparsed": 1}, 3)
    assert (tree.status, tree.turns) == ("failed", [])
    assert not stage.asked("induction") and not stage.asked("rejected")


# --- induction -------------------------------------------------------------------------------------------------------

GOOD: list[tuple[str, tuple[str | None, str | None]]] = [
    ("Profile: She keeps bees.\nPersonalities: She is blunt.", ("She keeps bees.", "She is blunt.")),
    ("Profile: None\nPersonalities: None", (None, None)),
    ("Profile: None.\nPersonalities: none.", (None, None)),
    ("Profile: NONE\nPersonalities: 'None'", (None, None)),
    ("Profile: [None]\nPersonalities: (none)", (None, None)),
    ('Profile: "None."\nPersonalities: _None_', (None, None)),
    ("Profile: She keeps bees.\nPersonalities: None", ("She keeps bees.", None)),
    ("Profile: None\nPersonalities: She is blunt.", (None, "She is blunt.")),
    ("\n  Profile: a\n\n\nPersonalities: b\n\n", ("a", "b")),
    ("Profile:a\nPersonalities:b", ("a", "b")),
    ("Profile:\na\nPersonalities:\nb", ("a", "b")),
    ("Profile:\ta \r\nPersonalities: b\r\n", ("a", "b")),
    ("Profile: a\n   Personalities: b", ("a", "b")),
    ("Profile: - keeps bees\n- sings\nPersonalities: - blunt", ("- keeps bees\n- sings", "- blunt")),
    ("Profile: None of her sons cook.\nPersonalities: b", ("None of her sons cook.", "b")),
    ("Profile: Nonetheless kind.\nPersonalities: b", ("Nonetheless kind.", "b")),
    ("Profile: She has {braces} and <tags>.\nPersonalities: b", ("She has {braces} and <tags>.", "b")),
    ("Profile: Her profile is public.\nPersonalities: Two personalities.", ("Her profile is public.", "Two personalities.")),
    ("Profile: 她养蜂。\nPersonalities: 直率。", ("她养蜂。", "直率。")),
    ("Profile: x: y\nPersonalities: a: b", ("x: y", "a: b")),
]  # fmt: skip
BAD = [
    "",
    "   \n",
    "None",
    "I cannot tell.",
    "Profile: a",
    "Personalities: b",
    "Profile: a Personalities: b",
    "Personalities: b\nProfile: a",
    "Profile:\nPersonalities:",
    "Profile: a\nPersonalities:",
    "Profile:\nPersonalities: b",
    "Profile: a\nPersonalities:   \n  ",
    "Profile: ...\nPersonalities: ...",
    "Profile: a\nPersonalities: -",
    "profile: a\npersonalities: b",
    "PROFILE: a\nPERSONALITIES: b",
    "Profile - a\nPersonalities - b",
    "Profile: a\nPersonality: b",
    "**Profile:** a\n**Personalities:** b",
    "## Profile: a\n## Personalities: b",
    "1. Profile: a\n2. Personalities: b",
    "- Profile: a\n- Personalities: b",
    "Profile: a\n- Personalities: b",
    "Profile: a\n**Personalities:** b",
    "Here it is:\nProfile: a\nPersonalities: b",
    "Sure! Profile: a\nPersonalities: b",
    "User Profile: a\nPersonalities: b",
    "```\nProfile: a\nPersonalities: b\n```",
    "Profile: a\nProfile: b\nPersonalities: c",
    "Profile: a\nPersonalities: b\nPersonalities: c",
    "Profile: a\nPersonalities: b\nProfile: a\nPersonalities: b",
    "Profile: a\nBig Personalities: b",
    "Profile: a\nPersonalities: b\n\nNote: that he has a dog has not been revealed.",
    "Profile: a\n\nThis was plain.\nPersonalities: b",
    "Profile: a\n\nAnalysis follows.\n\nPersonalities: b",
    "Profile: None (her job was not mentioned: she is a nurse)\nPersonalities: None",
    "Profile: None, since she did not say that she is a nurse.\nPersonalities: b",
    "Profile: a\nPersonalities: None. One message is too little.",
    "Profile: a\nPersonalities: None\nShe did not show that she is blunt.",
    "Profile: a\nPersonalities: None - no evidence",
    '{"Profile": "a", "Personalities": "b"}',
    "<profile>a</profile>\n<personality>b</personality>",
    "Profile：a\nPersonalities：b",
    "Profil: a\nPersonnalités: b",
]


@pytest.mark.parametrize(("text", "parts"), GOOD)
def test_an_induction_of_two_parts_is_read(text: str, parts: tuple[str | None, str | None]) -> None:
    assert parse_revealed(text) == parts


@pytest.mark.parametrize("text", BAD)
def test_an_induction_in_any_other_form_is_not_read(text: str) -> None:
    assert parse_revealed(text) is None


part = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1).map(str.strip)
part = part.filter(lambda text: re.search(r"\w", text) and "none" not in text.lower() and "Pro" not in text)


@given(part, part)
def test_whatever_stands_in_the_parts_is_kept(profile: str, personality: str) -> None:
    assert parse_revealed(f"Profile: {profile}\nPersonalities: {personality}") == (profile, personality)


@given(st.text())
def test_any_text_is_either_read_or_not(text: str) -> None:
    assert parse_revealed(text) is None
    assert parse_revealed(f"{text}x\nProfile: a\nPersonalities: b") is None


def test_a_long_answer_without_form_takes_no_time() -> None:
    for text in ("Profile:" + "\n" * 50_000 + "x Personalities: b", "Profile:" * 50_000, "None " * 10_000):
        assert parse_revealed(text) is None


async def test_an_induction_that_cannot_be_read_is_asked_for_again() -> None:
    stage = Stage(
        induction=Says("I think:\nProfile: x", "Well ...", "Profile: She bakes rye bread.\nPersonalities: None")
    )
    tree = await stage.play(turns=1)
    first, second, third = stage.asked("induction")
    assert [message["role"] for message in first] == ["system", "user"]
    assert second[:2] == third[:2] == first
    assert [message["role"] for message in second] == [message["role"] for message in third]
    assert second[2] == {"role": "assistant", "content": "I think:\nProfile: x"}
    assert third[2] == {"role": "assistant", "content": "Well ..."}
    assert second[3]["role"] == "user" and "Profile:" in second[3]["content"] and second[3] == third[3]
    assert tree.turns[0].revealed == {"profile": "She bakes rye bread.", "personality": None}
    assert tree.status == "completed"


async def test_an_induction_that_is_never_read_fails_as_unparsed_where_its_answer_goes_on() -> None:
    outcomes = set()
    for seed in range(6):
        stage = Stage(induction=Says("No idea."))
        turn = (await stage.play(turns=1, seed=seed)).turns[0]
        assert len(stage.asked("induction")) == 3 and not stage.asked("preferred")
        assert turn.revealed is None and list(turn.answers) == ["rejected"]
        assert [(failure["agent"], failure["reason"]) for failure in turn.failures] == [("induction", "unparsed")]
        assert "in 3 answers; the last was 'No idea.'" in turn.failures[0]["error"]
        outcomes.add((turn.chosen, str(stage.outcome.failed), stage.outcome.completed))
    assert outcomes == {(("preferred",), "{'unparsed': 1}", 0), (("rejected",), "{}", 1)}


async def test_with_nothing_revealed_the_hint_says_none() -> None:
    stage = Stage(induction=Says(NOTHING))
    tree = await stage.play(turns=2)
    assert all(turn.revealed == {"profile": None, "personality": None} for turn in tree.turns)
    for messages in stage.asked("preferred"):
        assert f"<revealed>\n{NOTHING}\n</revealed>" in messages[-1]["content"]


# --- the answers -----------------------------------------------------------------------------------------------------


async def test_answers_are_kept_without_the_space_around_them_and_with_their_finish_reason() -> None:
    stage = Stage(preferred=Says("\n cut off here ", finish_reason="length"), rejected=Says("  whole\n"))
    tree = await stage.play(turns=1)
    preferred, rejected = tree.turns[0].answers["preferred"], tree.turns[0].answers["rejected"]
    assert (preferred.text, preferred.finish_reason) == ("cut off here", "length")
    assert (rejected.text, rejected.finish_reason) == ("whole", "stop")


# --- the judge -------------------------------------------------------------------------------------------------------

SCORES: list[tuple[str, int | None]] = [
    *((str(n), n) for n in range(1, 6)),
    (" 3 ", 3), ("4\n", 4), ("\n\n5", 5), ("2.", 2), ("3.0", 3), ("1.0.", 1), ("\t4 .", 4),
    *((text, None) for text in (
        "", " ", ".", "0", "6", "7", "10", "11", "42", "-1", "+3", "-4", "00", "05", "3.5", "4.5", "4.9", "2.01", "1.00",
        "4/5", "3/5", "5/5", "3 out of 5", "1-5", "1 2", "3, 4", "3,0", "1\n2", "4 5", "4!", "4?", "(4)", "[4]", "'4'",
        '"4"', "**4**", "*4*", "`4`", "#4", "4%", "4 stars", "****", "four", "Four", "IV", "iv", "Score: 4", "score 4",
        "Score = 3", "Rating: 5", "I give it a 4", "The score is 5.", "4 because it fits", "4. It suits her.",
        "Answer: 2", "2 (poor)", "4 - good", "None", "null", "nan", "N/A", "true", "１", "５", "３", "٣", "४", "³", "½",
        "④", "Ⅳ", "1e0", "0x4", "3..", "4\u200b", "{4}", '{"score": 4}', "<answer>4</answer>", "4\n\nReason: short.",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("text", "score"), SCORES)
def test_a_score_is_a_bare_digit(text: str, score: int | None) -> None:
    assert parse_score(text) == score


async def test_a_score_that_cannot_be_read_is_asked_for_again() -> None:
    stage = Stage(judged=True, judge=Mends("I like it.", "4"))
    tree = await stage.play(turns=1)
    scores = {label: answer.scores["judge"] for label, answer in tree.turns[0].answers.items()}
    assert scores == {"preferred": 4, "rejected": 4}
    again = [messages for messages in stage.asked("judge") if len(messages) == 4]
    assert len(again) == 2 and len(stage.asked("judge")) == 4
    assert all(messages[2] == {"role": "assistant", "content": "I like it."} for messages in again)
    assert all("1 to 5" in messages[3]["content"] for messages in again)


async def test_a_score_that_is_never_read_is_missing_and_costs_no_conversation() -> None:
    stage = Stage(judged=True, judge=Says("It depends."))
    tree = await stage.play(turns=2)
    assert stage.outcome.completed == 1
    assert [answer.scores for turn in tree.turns for answer in turn.answers.values()] == [{"judge": None}] * 4
    assert len(stage.asked("judge")) == 3 * 4
    assert not any(turn.failures for turn in tree.turns)


async def test_a_judge_that_gets_no_answer_costs_its_scores_and_no_conversation() -> None:
    class Down:
        name = "down"

        async def chat(self, call: Call) -> Completion:
            raise CallFailed(FailureReason.UNREACHABLE, "nobody is there")

    stage = Stage(judged=True, judge=Down())
    tree = await stage.play(turns=2)
    assert (stage.outcome.completed, tree.status) == (1, "completed")
    assert all(answer.scores == {} for turn in tree.turns for answer in turn.answers.values())
    assert [failure["reason"] for turn in tree.turns for failure in turn.failures] == ["unreachable"] * 4


# --- one's own prompts ---------------------------------------------------------------------------------------------------


async def test_a_prompt_of_ones_own_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    file = tmp_path / "hint.md"
    file.write_text("## user\nKnown: {revealed}. They say: {message}")
    stage = Stage(induction=Says("Profile: {x}\nPersonalities: None"))
    model = stage.models["preferred"]
    stage.cast[2] = Preferred(model, prompt=str(file))
    tree = await stage.play(turns=1)
    said = f"Known: Profile: {{x}}\nPersonalities: None. They say: {tree.turns[0].user}"
    assert model.asked == [({"role": "user", "content": said},)]


@pytest.mark.parametrize(
    ("role", "text", "said"),
    [
        (Preferred, "## user\n{profile}", "this role fills {message}, {revealed}"),
        (Preferred, "## system\n{message}", "the section '## user' is missing"),
        (RolePlayer, "## system\n{history}\n## user\nGo", "this role fills {personality}, {profile}"),
        (RolePlayer, "## user\n{profile}", "the section '## system' is missing"),
        (Induction, "## system\n{profile}\n## user\n{conversation}", "the section '## again' is missing"),
        (
            Judge,
            "## system\n{revealed}\n## user\nx\n## again\ny",
            "this role fills {answer}, {form}, {high}, {low}, {message}",
        ),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_asked(
    tmp_path: Path, role: Callable[..., Agent], text: str, said: str
) -> None:
    file = tmp_path / "mine.md"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        role(ScriptedModel(), prompt=str(file))
    assert said in str(refused.value)
