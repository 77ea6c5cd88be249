"""What commands share: signals, the event loop, the picture of a run, and what to say when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from aloe_agents.errors import ConfigError
from aloe_agents.runs.console import Terminal, follow
from aloe_agents.runs.progress import Snapshot
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.run import OtherSettings
from aloe_agents.text import one_line

GRACE = 30.0
"""Seconds for what is in flight to land after the first interrupt."""

SETTLED = "aloe_agents.settled"
"""Where a command notes, in ``click.Context.meta``, the options that it chose itself: for ``resume_line``."""


class Live(Protocol):
    """A run while it goes on, here (``runs.run.Run``) or on a cluster (``runners.ray.Cluster``)."""

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped."""

    def stop(self) -> None:
        """Ask nothing more; what is in flight lands."""

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run now."""


async def watched(
    work: Callable[[Callable[[Live], None]], Awaitable[Any]],
    console: Terminal,
    *,
    plain: bool = False,
    opened: Callable[[Live], None] = lambda live: None,
) -> tuple[Live, BaseException | None]:
    """Do ``work``, showing the run and stopping it at an interrupt. ``work`` calls what it is given with the run once that
    is open; ``opened`` is called then, too. Returns the run, and what ended it before its time.

    Raises whatever ``work`` raises before the run is open.
    """
    over = asyncio.Event()
    runs: list[Live] = []
    pictures: list[asyncio.Task[float]] = []

    def on_open(live: Live) -> None:
        runs.append(live)
        opened(live)
        screen = Terminal(force_terminal=False, quiet=console.quiet) if plain or console.quiet else console
        pictures.append(asyncio.create_task(follow(screen, live.snapshot, over)))

    task = asyncio.ensure_future(work(on_open))

    def stop() -> None:
        for live in runs:
            live.stop()

    with interrupts(stop, task):
        await asyncio.wait([task])
    over.set()
    if pictures:
        await asyncio.wait(pictures)
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if not runs:
        raise error or RuntimeError("the work ended before its run was open")
    return runs[0], None if isinstance(error, asyncio.CancelledError) else error


@contextlib.contextmanager
def interrupts(stop: Callable[[], object], task: asyncio.Future[Any]) -> Iterator[None]:
    """SIGINT and SIGTERM call ``stop``, and cancel ``task`` if it is not over after GRACE seconds; twice: at once."""
    loop = asyncio.get_running_loop()
    met = 0

    def interrupt() -> None:
        nonlocal met
        met += 1
        if met > 1:  # all that was committed is on disk
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?1049l\x1b[?25h")  # leave the picture's screen, show the cursor
            os._exit(130)
        stop()
        loop.call_later(GRACE, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def loop_runner() -> asyncio.Runner:
    """An asyncio runner, on uvloop where that is installed.

    Garbage is looked for less often than usual: thousands of live conversations are many objects and no garbage, and
    looking took a tenth of a run's CPU time.
    """
    gc.set_threshold(10_000, 10, 10)
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def resume_line() -> str:
    """The command that was given, with the options that it chose itself."""
    context = click.get_current_context(silent=True)
    return shlex.join(["aloe", *sys.argv[1:], *(context.meta.get(SETTLED, []) if context else [])])


@contextlib.contextmanager
def told_in_options(what: str = "another run") -> Iterator[None]:
    """Say it in the command line's words that a directory holds a run with other settings."""
    try:
        yield
    except OtherSettings as error:
        raise ConfigError(
            f"{error.directory} holds {what}: {'; '.join(error.differing)}. Choose another --out, or --force to go on "
            "in it (answers to unchanged questions are kept)"
        ) from None


def unread(judges: Sequence[str], out: Path) -> None:
    """Say that no score of these judges could be read, and what one of them answered."""
    with contextlib.closing(Reading(out)) as reading:
        for judge in judges:
            answer = reading.first_answer(judge) or reading.first_answer(judge.rpartition(".")[0])
            said = f": its first answer was {one_line(answer, 100)!r}" if answer else ""
            click.echo(f"aloe: could not read one score by {judge}{said}", err=True)
