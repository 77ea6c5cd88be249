"""A cast that cannot play is refused before anything is asked; message kinds are known by name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.expansion import Beam, RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.engine.wiring import check
from aloe_agents.errors import ConfigError, WiringError
from aloe_agents.messages import Answered, Message, PersonaRevealed, Scored, UserSaid
from aloe_agents.roles import Judge, Preferred, Speaker
from tests.casts import Digest, paper_cast, people

LABELS = ("preferred", "rejected")


class Says:
    """An agent that declares what it is told to declare."""

    def __init__(
        self, name: str, hears: tuple[type[Message], ...], says: tuple[object, ...], needs: tuple[object, ...] = ()
    ):
        self.name, self.hears, self.says, self.needs = name, hears, says, needs

    async def respond(self, heard: Message, scene: Scene) -> None:
        return None


def refused(*more: object, expansion: RandomPath | Beam | None = None) -> str:
    """Why the paper's cast with ``more`` is refused."""
    expansion = expansion or RandomPath()
    with pytest.raises(WiringError) as error:
        check([*paper_cast(Digest()), *more, expansion], LABELS)  # type: ignore[list-item]  # some are no agents
    return str(error.value)


def test_a_role_that_hears_what_it_says_is_refused() -> None:
    said = refused(Says("echo", (Answered,), ((Answered, "echo"),)))
    assert said.startswith("agent 'echo' hears Answered, which it says itself")


def test_a_class_in_place_of_an_object_is_refused() -> None:
    assert refused(Judge) == "Judge is a class: put an object into the cast, Judge(...)"
    assert refused(Digest()) == "Digest is not an agent: it has no 'hears'"


def test_what_is_needed_is_needed_under_its_label() -> None:
    assert "needs Answered, which nobody says" in refused(Says("x", (UserSaid,), (), ((Answered, "neutral"),)))
    assert "needs Answered, which nobody says" in refused(Says("x", (UserSaid,), (), (Answered,))), (
        "as Scene.need has it"
    )
    check([*paper_cast(Digest()), Says("x", (UserSaid,), (), ((Answered, "rejected"), UserSaid)), RandomPath()], LABELS)


def test_a_score_that_nobody_expects_is_refused() -> None:
    said = refused(Says("j", (Answered,), ((Scored, "prefered/j"),)))
    assert "says Scored under 'prefered/j', which nobody expects" in said
    assert "'preferred', which nobody expects" in refused(Says("j", (Answered,), ((Scored, "preferred"),)))


def test_a_beam_needs_a_judge_of_its_name() -> None:
    model = Digest()
    assert "needs Scored, which nobody says under the label 'preferred/judge'" in refused(
        Judge(model, name="critic"), expansion=Beam(2)
    )
    check([*paper_cast(model), Judge(model), Beam(2)], LABELS)
    check([*paper_cast(model), Judge(model, name="critic"), Beam(2, judge="critic")], LABELS)


async def test_a_score_of_an_answer_that_was_not_given_is_the_roles_failure() -> None:
    class Stray:
        name, hears, essential = "stray", (Answered,), False

        async def respond(self, heard: Answered, scene: Scene) -> Scored:
            return Scored(label="prefered/stray", score=3)

    (tree,) = [
        tree async for tree in Simulation([*paper_cast(Digest()), Stray()], RandomPath(), turns=1).trees(people(1))
    ]
    assert tree.status == "completed"
    assert any("nobody answered under 'prefered'" in failure["error"] for failure in tree.turns[0].failures)


def test_a_cast_without_a_user_and_without_an_answer_is_refused() -> None:
    with pytest.raises(WiringError, match="has no user"):
        check([Says("a", (), ((Answered, "preferred"), (Answered, "rejected"))), RandomPath()], LABELS)
    with pytest.raises(WiringError, match="nobody gives the answer labelled 'neutral'"):
        check([*paper_cast(Digest()), RandomPath(("preferred", "neutral"))], ("preferred", "neutral"))


# --- kinds -----------------------------------------------------------------------------------------------------------


def test_a_second_kind_of_a_name_is_refused_when_it_is_defined() -> None:
    with pytest.raises(
        ConfigError, match=r"the message kind Failed of tests\.test_wiring .* one in aloe_agents\.messages"
    ):

        @dataclass(frozen=True, kw_only=True)
        class Failed(Message):
            why: str


def test_a_cell_that_is_run_twice_and_a_script_that_is_imported_are_no_second_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from aloe_agents import Message

        @dataclass(frozen=True, kw_only=True, slots=True)
        class Noted(Message):
            text: str

        if __name__ == "__main__":
            import mine
            print(mine.Noted.__module__)
        """)
    )
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("mine", "")

    def cell() -> type[Message]:
        @dataclass(frozen=True, kw_only=True)
        class Remarked(Message):
            text: str

        return Remarked

    assert cell() is not cell()


def test_a_message_stands_where_its_role_heard_unless_it_says_otherwise() -> None:
    heard = Answered(conversation="c", path=("preferred",), label="rejected", text="x")
    assert Scored.of(heard, judge="j", score=4).at(heard).address == ("Scored", ("preferred",), "rejected/j")
    assert UserSaid(text="y").at(heard).address == ("UserSaid", ("preferred",), "rejected")
    root = PersonaRevealed(path=(), label="", profile=None, personality=None).at(heard)
    assert root.address == ("PersonaRevealed", (), "") and root.conversation == "c"
    assert type(root.path) is tuple and type(UserSaid(text="y").at(heard).label) is str


def test_sampling_cannot_hold_what_the_framework_sets() -> None:
    class Greedy:
        name, hears, essential = "greedy", (UserSaid,), False

        def __init__(self) -> None:
            self.errors: list[str] = []

        async def respond(self, heard: UserSaid, scene: Scene) -> None:
            try:
                await scene.ask(Digest(), [{"role": "user", "content": "x"}], n=2)  # type: ignore[call-arg]
            except TypeError as error:
                self.errors.append(str(error))

    import asyncio

    greedy: Agent = Greedy()
    asyncio.run(Simulation([*paper_cast(Digest()), greedy], RandomPath(), turns=1).run(people(1)))
    assert greedy.errors == ["sampling cannot hold 'n': the framework sets it itself"]  # type: ignore[attr-defined]


# --- roles from a prompt file ------------------------------------------------------------------------------------------


def test_a_speaker_says_what_it_is_told_to_say(tmp_path: Path) -> None:
    prompt = tmp_path / "p.md"
    prompt.write_text("## system\nYou are {label}.\n")
    assert Speaker(Digest(), str(prompt), labels=["a", "b"]).says == ((Answered, "a"), (Answered, "b"))
    with pytest.raises(ConfigError, match="'## user' is missing"):
        Speaker(Digest(), str(prompt), says="UserSaid")
    with pytest.raises(ConfigError, match="says 'Answered' or 'UserSaid', not 'Scored'"):
        Speaker(Digest(), str(prompt), says="Scored")  # type: ignore[arg-type]
    prompt.write_text("")
    with pytest.raises(ConfigError, match="needs a section"):
        Speaker(Digest(), str(prompt))
    with pytest.raises(ConfigError, match="unknown field"):
        Preferred(Digest(), str(_with(tmp_path, "## user\n{secret}")))


def _with(place: Path, text: str) -> Path:
    path = place / "q.md"
    path.write_text(text)
    return path
