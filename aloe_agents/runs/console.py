"""The picture of a run in a terminal: what is done, what it costs, two dialogues as they grow.

1. :func:`render` turns a snapshot into a Rich renderable of a given size; it is a pure function.
2. :func:`follow` draws again and again, and measures what a frame costs: frames come as often as keeps drawing under
   ``SHARE`` of the time, four a second at most. Where the output is no terminal it writes plain lines.

Whatever a model or a persona file wrote goes through ``inert`` and reaches Rich only as Text: no markup is read
from it, and no control character, escape sequence or bidirectional override leaves it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aloe_agents.runs.efficiency import Efficiency
from aloe_agents.runs.progress import Dialogue, EndpointLine, Node, Snapshot
from aloe_agents.runs.records import Accounting
from aloe_agents.text import inert, one_line

SHARE = 0.012
"""Of one processor, for drawing."""
FASTEST = 0.25
PLAIN_EVERY = 5.0
"""Seconds between lines where there is no terminal."""
LONGEST = 1200
"""Characters of one message that are shown."""

_RULES = Console(width=80)  # wrapping wants one for its rules; nothing is printed on it
STYLES = {"user": "bold cyan", "preferred": "green", "rejected": "yellow"}


class Terminal(Console):
    """A console whose reader may leave (``aloe simulate ... | head``): it falls silent, and the run goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def follow(
    console: Console, snapshot: Callable[[], Snapshot], over: asyncio.Event, every: float = PLAIN_EVERY
) -> float:
    """Show a run until ``over`` is set; where there is no terminal, by a line ``every`` so many seconds.

    Returns the CPU seconds that it took. Drawing that fails is given up with a warning: a picture costs no run.
    """
    spent = [0.0]
    try:
        if console.is_terminal:
            await _picture(console, snapshot, over, spent)
        else:
            await _lines(console, snapshot, over, every)
    except Exception as error:  # noqa: BLE001 whatever it is, the run matters more
        warnings.warn(f"the picture of the run broke and is gone: {error!r}; the run goes on", stacklevel=2)
    return sum(spent)


async def _picture(console: Console, snapshot: Callable[[], Snapshot], over: asyncio.Event, spent: list[float]) -> None:
    with Live(console=console, auto_refresh=False, screen=True, redirect_stderr=False) as live:
        while not over.is_set():
            began = time.thread_time()
            width, height = console.size
            live.update(render(snapshot(), width, height), refresh=True)
            spent.append(time.thread_time() - began)
            await _pause(over, max(FASTEST, spent[-1] / SHARE))


async def _lines(console: Console, snapshot: Callable[[], Snapshot], over: asyncio.Event, every: float) -> None:
    while not over.is_set():
        await _pause(over, every)
        if not over.is_set():
            console.print(status_line(snapshot()), soft_wrap=True, highlight=False)


async def _pause(over: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        pass


def status_line(now: Snapshot) -> Text:
    """A run in one plain line."""
    done = now.completed + sum(now.failed.values())
    parts = [
        f"{done}/{now.requested} conversations",
        f"{now.live} live",
        f"{sum(now.failed.values())} failed",
        f"{now.turns_done} turns",
        f"{now.calls_per_second:.0f} calls/s",
        f"{_count(sum(now.tokens))} tokens",
    ]
    if now.cost:
        parts.append(f"cost {now.cost:.2f}")
    if now.seconds_left is not None:
        parts.append(f"{_time(now.seconds_left)} left")
    parts += [one_line(f"{failure}", 300) for failure in now.failures[:1]]
    return Text(" · ".join(parts))


def render(now: Snapshot, width: int, height: int) -> RenderableType:
    """The whole picture, ``width`` x ``height`` cells."""
    head = _head(now, width)
    lines = [_endpoint(line, width) for line in now.endpoints[: max(1, height // 8)]]
    top = Group(*head, *lines)
    rest = height - len(head) - len(lines)
    layout = Layout()
    layout.split_column(Layout(top, size=len(head) + len(lines)), Layout(name="dialogues"))
    if now.dialogues and rest >= 4:
        left = width // len(now.dialogues)
        layout["dialogues"].split_row(*(Layout(_dialogue(d, now.turns, left, rest)) for d in now.dialogues))
    else:
        layout["dialogues"].update(Text("no conversation to follow yet", style="dim"))
    return layout


def _head(now: Snapshot, width: int) -> list[RenderableType]:
    failed = sum(now.failed.values())
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append("aloe ", "bold magenta")
    title.append(one_line(now.name, width), "bold")
    title.append(f"  seed {now.seed}  {now.turns} turns  ", "dim")
    title.append("finished" if now.finished else f"{_time(now.seconds)}", "dim")
    if now.seconds_left is not None:
        title.append(f", {_time(now.seconds_left)} left", "dim")
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    counts = Text()
    counts.append(f"{now.completed}", "bold green").append(f"/{now.requested} done  ")
    counts.append(f"{now.live} live  ", "cyan")
    counts.append(f"{failed} failed", "bold red" if failed else "dim")
    bar.add_row(ProgressBar(total=max(now.turns_expected, 1), completed=now.turns_done), counts)
    prompt, answered = now.tokens
    work = Text(no_wrap=True, overflow="ellipsis")
    work.append(f"{now.turns_done} turns  {now.calls} calls", "bold").append(f"  {now.calls_per_second:.0f}/s")
    if now.replayed:
        work.append(f"  {now.replayed} from the journal")
    work.append(f"  {_count(prompt)} + {_count(answered)} tokens")
    if now.cost:
        work.append(f"  cost {now.cost:.2f}", "bold")
    causes = [
        Text(one_line(f"{failure}", 4 * width), "red", no_wrap=True, overflow="ellipsis")
        for failure in now.failures[:3]
    ]
    return [title, bar, work, *causes]


def _endpoint(line: EndpointLine, width: int) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{one_line(line.name, 16):<10} ", "bold blue").append(one_line(line.model, width // 4))
    most = "" if line.capacity is None else f"/{line.capacity}"
    text.append(f"  {line.in_flight}{most} in flight, {line.waiting} wait  {line.calls} calls")
    if line.retries:
        text.append(f"  {line.retries} again", "yellow")
    if line.cost:
        text.append(f"  cost {line.cost:.2f}")
    if line.trouble:
        text.append(f"  answers nobody, tried again in {line.paused:.0f} s: {one_line(line.trouble, 200)}", "bold red")
    elif line.paused > 0:
        text.append(f"  paused {line.paused:.0f} s", "bold yellow")
    return text


def _dialogue(dialogue: Dialogue, turns: int, width: int, height: int) -> Panel:
    """One conversation, its last lines first to be kept."""
    inner = width - 4
    room = height - 2
    known = _revealed(dialogue, inner, max(1, room // 5))
    room -= len(known)
    lines: list[Text] = []
    for path in sorted(dialogue.nodes, key=lambda path: (len(path), path), reverse=True):
        if len(lines) >= room:
            break
        lines[:0] = _node(dialogue.nodes[path], inner)
    deepest = max((len(path) + 1 for path in dialogue.nodes), default=0)
    style = {"running": "cyan", "completed": "green", "failed": "red"}.get(dialogue.status, "dim")
    title = Text(f"{one_line(dialogue.conversation, 24)}  turn {deepest}/{turns}  {dialogue.status}")
    return Panel(Group(*known, *lines[-room:]), title=title, border_style=style, height=height, padding=(0, 1))


def _revealed(dialogue: Dialogue, width: int, most: int) -> list[Text]:
    told = [part for part in (dialogue.profile, dialogue.personality) if part]
    text = Text()
    text.append("known: ", "bold magenta")
    text.append(inert(" ".join(told))[:LONGEST] if told else "nothing yet", "magenta" if told else "dim")
    lines = _wrap(text, width)
    if len(lines) > most:
        lines = [*lines[: most - 1], _wrap(Text(f"{lines[most - 1].plain[: width - 1]}…", style="magenta"), width)[0]]
    return lines


def _node(node: Node, width: int) -> list[Text]:
    lines = _speech("user", "", node.user, STYLES["user"], "", width) if node.user else []
    for label in sorted(node.answers):
        taken = label in node.chosen
        style = STYLES.get(label, "blue")
        lines += _speech(
            label,
            "● " if taken else "○ ",
            node.answers[label],
            style if taken else f"dim {style}",
            "" if taken else "dim",
            width,
        )
    for failure in node.failures:
        lines += _wrap(Text(inert(f"✗ {failure}"[:LONGEST]), style="red"), width)
    return lines


def _speech(who: str, mark: str, said: str, style: str, text_style: str, width: int) -> list[Text]:
    text = Text(style=text_style)
    text.append(f"{mark}{one_line(who, 20)} ", style)
    text.append(" ".join(inert(said[: 2 * LONGEST]).split())[:LONGEST])
    return _wrap(text, width)


def _wrap(text: Text, width: int) -> list[Text]:
    return list(text.wrap(_RULES, max(width, 1)))


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.0f}{unit}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}T"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def summary(accounting: Accounting, efficiency: Efficiency | None, directory: Path, damaged: int = 0) -> Group:
    """A run's accounting, in a few lines: counts, the cause of every kind of failure, what it took."""
    failed = sum(accounting.failed.values())
    first = Text()
    first.append(f"{accounting.completed} completed", "bold green").append(", ")
    first.append(f"{failed} failed", "bold red" if failed else "").append(", ")
    first.append(f"{accounting.pending} pending", "bold yellow" if accounting.pending else "")
    first.append(f" of {accounting.requested} conversations")
    lines: list[RenderableType] = [first]
    lines += [Text(inert(f"  failed: {failure}"), "red") for failure in accounting.failures]
    lines += [Text(inert(f"  gaps: {gap}"), "yellow") for gap in accounting.gaps]
    cost = f", cost {accounting.cost:.2f}" if accounting.cost else ""
    lines.append(Text(f"{accounting.calls} calls in the journal, {_tokens(accounting)}{cost}"))
    if accounting.retries:
        lines.append(Text("retried: " + ", ".join(f"{n} {reason}" for reason, n in accounting.retries.items())))
    if accounting.uncertain:
        lines.append(Text(f"{accounting.uncertain} attempts were cut off: the server may have charged for them"))
    if damaged:
        lines.append(Text(f"{damaged} answers in the journal were damaged and have been asked for again"))
    if efficiency is not None:
        lines.append(Text(inert(f"{efficiency}")))
    lines.append(Text(f"{accounting.completed + failed} trees in {inert(str(directory / 'trees.jsonl'))}"))
    return Group(*lines)


def _tokens(accounting: Accounting) -> str:
    tokens = f"{_count(accounting.prompt_tokens)} + {_count(accounting.completion_tokens)} tokens"
    if not accounting.cached_tokens:
        return tokens
    by_role = (
        f"{name} {role.cached_tokens / role.prompt_tokens:.0%}"
        for name, role in accounting.roles.items()
        if role.prompt_tokens
    )
    return f"{tokens}, {_count(accounting.cached_tokens)} of the prompt tokens from the server's cache ({', '.join(by_role)})"
