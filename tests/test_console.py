"""What models write reaches the terminal as inert text; the picture fits its terminal and costs no run."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.messages import NodePath
from aloe_agents.personas import Persona
from aloe_agents.runs.console import follow, render, status_line, summary
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.progress import Dialogue, EndpointLine, Node, Progress, Snapshot
from aloe_agents.runs.reading import Reading, write_trees
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.records import FailureRecord
from aloe_agents.tree import read_trees
from tests.casts import Digest, full_cast, people

HOSTILE = (
    "[bold red]markup[/bold red] [/nested] [link=http://x]l[/link] \x1b[2J\x1b[31mESC \x1b]52;c;aGVsbG8=\x07 "
    "\x9b31m \x9d52;c;x\x9c \u202eRTL\u2066\u2069 \x00nul\r\n\t{braces} 🧑‍🚀 ✌️ 日本語 " + "x" * 50_000
)
OWN = re.compile(r"\x1b\[[0-9;]*m")
"""What Rich itself may send in a picture: colours."""


def snapshot(text: str) -> Snapshot:
    persona = Persona(id=text, profile=text, personality=text)
    nodes: dict[NodePath, Node] = {
        (): Node(text, {"preferred": text, "rejected": text, text: text}, ("preferred",), [text])
    }
    nodes[("preferred",)] = Node(text)
    shown = Dialogue(text, persona, nodes, text, text)
    line = EndpointLine(text, text, 8, retries=3, cost=1.0, paused=3.0)
    failure = FailureRecord(reason="unparsed", count=1, error=text, agent=text, turn=1, conversation=text)
    return Snapshot(
        text,
        1,
        10,
        7,
        2,
        {"unparsed": 1},
        [failure],
        2,
        endpoints=[line],
        dialogues=[shown, shown],
        seconds_left=9.0,
    )


def picture(now: Snapshot, width: int = 80, height: int = 24) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(render(now, width, height), height=height)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def assert_inert(shown: str) -> None:
    text = OWN.sub("", shown)
    bad = {char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char != "\n"}
    assert not bad and not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f") & set(text)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (40, 12), (20, 6)])
def test_a_hostile_persona_and_answer_are_shown_inert_and_in_place(width: int, height: int) -> None:
    shown = picture(snapshot(HOSTILE), width, height)
    assert_inert(shown)
    lines = OWN.sub("", shown).rstrip("\n").split("\n")
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    if width >= 80:
        assert "[bold red]" in shown and "[/nested]" in OWN.sub("", shown).replace("\n", "")


@given(st.text(max_size=300))
def test_no_text_reaches_the_terminal_but_as_text(text: str) -> None:
    assert_inert(picture(snapshot(text)))
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(status_line(snapshot(text)))
    assert isinstance(console.file, io.StringIO)
    assert_inert(console.file.getvalue())


def test_the_choice_is_marked_and_the_other_answer_dimmed() -> None:
    dialogue = Dialogue(
        "c", people(1)[0], {(): Node("hello", {"preferred": "p-text", "rejected": "r-text"}, ("rejected",))}
    )
    now = Snapshot("run", 1, 10, 1, live=1, dialogues=[dialogue])
    shown = picture(now)
    assert re.search(r"\x1b\[2;32m○ preferred", shown) and "● rejected" in OWN.sub("", shown)
    assert re.search(r"\x1b\[2mp-text", shown) and not re.search(r"\x1b\[2mr-text", shown)


def test_an_endpoint_that_answers_nobody_says_so() -> None:
    line = EndpointLine("big", "m", None, in_flight=1, trouble="\x1b[2J10.0.0.1:8000 cannot be reached", paused=12.4)
    shown = picture(Snapshot("run", 1, 10, 1, endpoints=[line]), 160)
    assert_inert(shown)
    assert "1 in flight" in shown and "answers nobody, tried again in 12 s: " in OWN.sub("", shown)


async def test_a_run_and_its_journal_tell_the_same_story(tmp_path: Path) -> None:
    personas = people(6)
    progress = Progress("run", 1, 3, 6)
    with Journal(tmp_path) as journal:
        simulation = Simulation(
            full_cast(Digest()), RandomPath(), turns=3, seed=1, recorder=Recorder(journal), observers=[progress.observe]
        )
        await journal.claim(seed=1, turns=3, requested=6, settings={}, endpoints={})
        trees = sorted([tree async for tree in simulation.trees(personas)], key=lambda tree: tree.id)
        await journal.finish()
        reading = Reading(tmp_path)
        live, read = progress.snapshot(finished=True), reading.snapshot()
        accounting = reading.accounting()
        assert write_trees(tmp_path).count == 6
        reading.close()
    for name in ("requested", "completed", "failed", "live", "turns_done", "calls", "pending"):
        assert getattr(live, name) == getattr(read, name), name
    assert [tree.to_json() for tree in read_trees(tmp_path / "trees.jsonl")] == [tree.to_json() for tree in trees]
    assert accounting.completed + sum(accounting.failed.values()) + accounting.pending == 6
    shown = {d.conversation: d for d in read.dialogues}
    assert len(shown) == 2
    for dialogue in live.dialogues:
        if dialogue.conversation in shown:
            assert dialogue.nodes == shown[dialogue.conversation].nodes
    assert "6 completed" in picture_of(summary(accounting, None, tmp_path))


def picture_of(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_plain_lines_where_there_is_no_terminal() -> None:
    over = asyncio.Event()
    drawn = 0

    def thrice() -> Snapshot:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            over.set()
        return snapshot("x")

    console = Console(file=io.StringIO(), force_terminal=False)
    await follow(console, thrice, over, every=0.01)
    assert isinstance(console.file, io.StringIO) and drawn == 3
    assert set(console.file.getvalue().splitlines()) == {"3/7 conversations · 2 live · 1 failed · 0 turns · 0 calls/s · 0 tokens · cost 1.00 · 0:09 left · 1 unparsed: x (agent x, turn 1 of x)"}  # fmt: skip


async def test_a_picture_that_cannot_be_drawn_costs_no_run() -> None:
    def broken() -> Snapshot:
        raise ValueError("no picture")

    over = asyncio.Event()
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.warns(UserWarning, match="the picture of the run broke"):
        await asyncio.wait_for(follow(console, broken, over), 5)


async def test_a_reader_who_leaves_costs_no_run() -> None:
    code = """
import asyncio, sys
from aloe_agents.runs.console import Terminal, follow
from aloe_agents.runs.progress import Snapshot
async def main():
    over, drawn = asyncio.Event(), 0
    def snapshot():
        nonlocal drawn
        drawn += 1
        if drawn == 50:
            over.set()
        return Snapshot("run", 1, 10, 1)
    await follow(Terminal(), snapshot, over, every=0.001)
    print("went on", drawn, file=sys.stderr)
asyncio.run(main())
"""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | true"
    process = await asyncio.create_subprocess_shell(command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert errors == b"went on 50\n"
