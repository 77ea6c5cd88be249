"""Why something failed is in plain sight: on the screen, in status, in the trees, in the log; never only in a database."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from aloe_agents.personas import write_personas
from aloe_agents.runs.progress import Snapshot, expected_turns, seconds_left
from aloe_agents.tree import read_trees
from tests.casts import people
from tests.commands import aloe

ROLES = "".join(
    f'[roles.{name}]\nendpoint = "scripted"\n' for name in ("role_player", "induction", "preferred", "rejected")
)
MINE = textwrap.dedent("""
    from aloe_agents import Answered, Call, Completion

    class Critic:
        name, hears = "critic", (Answered,)

        async def respond(self, heard, scene):
            return None + 1

    class Mumbling:
        def __init__(self, name, words="hm"):
            self.name, self.words = name, words

        async def chat(self, call: Call) -> Completion:
            return Completion(text=self.words)
    """)
BROKEN = ROLES + '[roles.critic]\nclass = "{module}:Critic"\n'
MUMBLING = """
[endpoints.mumbling]
client = "{module}:Mumbling"
options = {{ words = "It is hard to say." }}
[roles.judge]
endpoint = "mumbling"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with three personas and a module of one's own, of a name that no other test uses."""
    write_personas(tmp_path / "personas.jsonl", people(3))
    (tmp_path / f"mine_{abs(hash(str(tmp_path)))}.py").write_text(MINE)
    return tmp_path


def configured(place: Path, text: str) -> None:
    (module,) = place.glob("mine_*.py")
    (place / "aloe.toml").write_text(text.format(module=module.stem))


LINE = "simulate aloe.toml --personas personas.jsonl --out run --turns 2 --plain"
SAID = "TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'"


def test_a_roles_own_error_is_said_everywhere(place: Path) -> None:
    configured(place, BROKEN)
    done = aloe(LINE, place)
    assert done.returncode == 1
    output = " ".join(done.stdout.split())
    assert f"failed: 3 role-error: {SAID} (agent critic, turn 1 of p0000" in output
    status = aloe("status run", place).stdout
    assert f"3 role-error: {SAID}" in status
    (failure,) = json.loads(aloe("status run --json", place).stdout)["failures"]
    assert failure == {
        "reason": "role-error", "count": 3, "error": SAID, "agent": "critic", "turn": 1,
        "conversation": failure["conversation"],
    }  # fmt: skip
    assert failure["conversation"] in {"p00000", "p00001", "p00002"}
    assert SAID in " ".join(aloe("watch run --once", place).stdout.split())
    for tree in read_trees(place / "run" / "trees.jsonl"):
        assert tree.failure is not None and (tree.failure.error, tree.failure.agent) == (SAID, "critic")


def test_debug_logs_the_first_traceback_of_each_kind_on_the_screen_and_in_the_run(place: Path) -> None:
    configured(place, BROKEN)
    done = aloe(f"{LINE} --debug --log-file all.log", place)
    for text in (done.stderr, (place / "run" / "run.log").read_text(), (place / "all.log").read_text()):
        assert text.count("Traceback (most recent call last)") == 1 and "return None + 1" in text
    assert "Traceback" not in aloe(LINE.replace("--out run", "--out other"), place).stderr
    assert not (place / "other" / "run.log").exists()


def test_a_judge_whose_scores_cannot_be_read_is_no_success(place: Path) -> None:
    configured(place, ROLES + MUMBLING)
    done = aloe(LINE, place)
    assert done.returncode == 1
    assert "could not read one score by judge: its first answer was 'It is hard to say.'" in done.stderr
    assert "3 completed, 0 failed" in done.stdout


def test_quiet_prints_nothing_but_errors(place: Path) -> None:
    configured(place, ROLES)
    done = aloe(f"{LINE} --quiet --limit 2", place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(read_trees(place / "run" / "trees.jsonl"))) == 2, "of the first two only"
    wrong = aloe("status nowhere --quiet", place)
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.startswith("aloe: nowhere holds no run")


@pytest.mark.parametrize("command", ["status run", "watch run --once", "export run --to sft --out rows.jsonl"])
def test_every_command_takes_debug_quiet_and_a_log_file(place: Path, command: str) -> None:
    configured(place, ROLES)
    assert aloe(LINE, place).returncode == 0
    assert aloe(f"{command} --debug --log-file log.txt", place).returncode == 0
    page = aloe(f"{command.split()[0]} --help", place).stdout
    assert all(option in page for option in ("--debug", "--quiet", "--log-file"))


def test_several_runs_in_a_folder_are_named(place: Path) -> None:
    configured(place, ROLES)
    for name in ("one", "two"):
        assert aloe(LINE.replace("--out run", f"--out runs/{name}"), place).returncode == 0
    done = aloe("watch runs", place)
    assert done.returncode == 2 and "name one of them: runs/one, runs/two" in done.stderr


def test_the_time_left_counts_turns() -> None:
    assert expected_turns(10, 4, 0, 0) == 40
    assert expected_turns(10, 4, 5, 40) == 80, "branching conversations have more turns"
    now = Snapshot("x", 0, 4, 10, turns_done=20, turns_expected=40)
    assert seconds_left(now, 2.0) == 10.0
    assert seconds_left(now, 0.0) is None
    now.finished = True
    assert seconds_left(now, 2.0) is None
