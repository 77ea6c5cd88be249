"""``aloe simulate``: personas to trees. The same command, given again, resumes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click

from aloe_agents import building
from aloe_agents.config import Config, load_config, parse_override
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.personas import Persona, read_personas, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.runners.local import Local
from aloe_agents.runs.console import Terminal, follow, status_line, summary
from aloe_agents.runs.journal import differences
from aloe_agents.runs.progress import Snapshot
from aloe_agents.runs.reading import TREES, Reading, write_trees

GRACE = 30.0
"""Seconds for what is in flight to land after the first interrupt."""

SETTLED = "aloe_agents.settled"
"""Where a command notes, in ``click.Context.meta``, the options that it chose itself: for ``resume_line``."""


class Engine(Protocol):
    """What holds the conversations and their journal: ``local.Local`` here, ``ray.Cluster`` on many machines."""

    @property
    def damaged(self) -> int:
        """Answers of the journal that had to be asked for again."""

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped."""

    @property
    def idle(self) -> bool:
        """Whether the run had come to its end before, and nothing was left to do."""

    async def open(self, claim: dict[str, Any]) -> None:
        """Open the journal. Raises ConfigError where that cannot be."""

    async def run(self) -> None:
        """Hold all conversations, until all is on the disk. Raises Fatal if one ended the run, after what was in
        flight had landed.
        """

    def stop(self) -> None:
        """Ask nothing more; what is in flight lands."""

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run now."""

    async def finish(self) -> None:
        """Note that the run came to its end."""

    async def close(self) -> None:
        """Let go of journal, connections, cluster."""


@dataclass(frozen=True)
class OnRay:
    """Which cluster (None: one of this machine alone), and how many workers (None: one a processor)."""

    address: str | None = None
    workers: int | None = None


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--personas", type=click.Path(path_type=Path), help="JSONL with profile, personality and perhaps id.")
@click.option("--profiles", type=click.Path(path_type=Path), help="A pool of profiles: JSONL, or one a line.")
@click.option("--personalities", type=click.Path(path_type=Path), help="A pool of personalities.")
@click.option("--count", type=click.IntRange(1), help="How many pairs to draw from the pools.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's directory.")
@click.option("--seed", type=int, help="Of the run: coins, draws, pairs (run.seed).")
@click.option("--turns", type=int, help="Turns of a conversation (run.turns).")
@click.option("--live", type=int, help="Conversations at once (run.live).")
@click.option("--expansion", type=click.Choice(["random-path", "full", "beam"]), help="run.expansion")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, such as run.depth=3.")
@click.option("--on", type=click.Choice(["here", "ray"]), default="here", help="Where conversations are held.")
@click.option("--address", help="Of a Ray cluster; without it one is started on this machine.")
@click.option("--workers", type=click.IntRange(1), help="Processes on Ray; one a processor if not given.")
@click.option("--force", is_flag=True, help="Go on in a directory that holds a run with other settings.")
@click.option("--plain", is_flag=True, help="Lines instead of the live picture.")
@click.option("--debug", is_flag=True, hidden=True)
def command(
    config: Path | None,
    personas: Path | None,
    profiles: Path | None,
    personalities: Path | None,
    count: int | None,
    out: Path,
    overrides: Sequence[str],
    on: str,
    address: str | None,
    workers: int | None,
    force: bool,
    plain: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Simulate users and emit preference trees.

    \b
    aloe simulate --personas personas.jsonl --out runs/first
    aloe simulate aloe.toml --profiles p.jsonl --personalities q.jsonl --count 300 --out runs/second
    aloe simulate aloe.toml --personas personas.jsonl --out runs/third --on ray --workers 8
    """
    if on != "ray" and (address or workers):
        raise click.UsageError("--address and --workers go with --on ray")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="aloe: %(message)s")
    changed = dict(parse_override(text) for text in overrides)
    changed |= {f"run.{name}": value for name, value in flags.items() if value is not None}
    resolved = load_config(config, changed)
    people = _people(personas, profiles, personalities, count, resolved.run.seed)
    folder = config.parent.absolute() if config else None
    cluster = OnRay(address, workers) if on == "ray" else None
    return simulate(resolved, people, out, folder=folder, force=force, plain=plain, cluster=cluster)


def simulate(
    config: Config,
    personas: Sequence[Persona],
    out: Path,
    *,
    folder: Path | None = None,
    force: bool = False,
    plain: bool = False,
    latency: float = 0.0,
    cluster: OnRay | None = None,
    quiet: bool = False,
) -> int:
    """Run ``config`` with ``personas`` in the directory ``out``, showing it unless ``quiet``. Returns the exit code.

    Raises ConfigError before anything is written or asked.
    """
    parts = building.build(config, folder, latency)
    settings = check_settings(config, personas, out, force)
    claim = {
        "seed": config.run.seed,
        "turns": config.run.turns,
        "requested": len(personas),
        "settings": settings,
        "endpoints": {
            name: {"model": endpoint.name, "capacity": endpoint.limits.capacity, "price": endpoint.price}
            for name, endpoint in parts.endpoints.items()
        },
    }
    engine = _cluster(config, personas, out, folder, cluster) if cluster else Local(config, parts, personas, out)
    with loop_runner() as runner:
        return runner.run(_run(engine, claim, out, config.to_toml(), plain, quiet))


def check_settings(config: Config, personas: Sequence[Persona], out: Path, force: bool = False) -> dict[str, str]:
    """What a run's answers depend on. Raises ConfigError if ``out`` cannot be its directory, or holds a run of other
    settings and ``force`` is not given.
    """
    settings = building.settings(config, personas)
    if (differing := differences(out, settings)) and not force:
        raise ConfigError(
            f"{out} holds another run: {'; '.join(differing)}. Choose another --out, or --force to go on in it "
            "(answers to unchanged questions are kept)"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, not a directory")
    return settings


async def _run(engine: Engine, claim: dict[str, Any], out: Path, resolved: str, plain: bool, quiet: bool) -> int:
    console, over = Terminal(quiet=quiet), asyncio.Event()
    try:
        await engine.open(claim)
        (out / "run.toml").write_text(resolved, encoding="utf-8")
        screen = Terminal(force_terminal=False, quiet=quiet) if plain or quiet else console
        picture = asyncio.create_task(follow(screen, engine.snapshot, over))
        task = asyncio.create_task(engine.run())
        with interrupts(engine.stop, task):
            await asyncio.wait([task])
        over.set()
        await asyncio.wait([picture])
        fatal = None if task.cancelled() else task.exception()
        interrupted = fatal is None and engine.stopped
        with contextlib.suppress(*[ConfigError] if fatal else []):  # what ended the run comes first: a full disk, say
            if not engine.idle or not (out / TREES).exists():
                write_trees(out)
            if not interrupted and not fatal:  # said last, so that a run that is over has its trees
                await engine.finish()
            console.print(status_line(engine.snapshot(finished=True)), soft_wrap=True, highlight=False)
            with contextlib.closing(Reading(out)) as reading:
                accounting = reading.accounting()
                console.print(summary(accounting, reading.efficiency(), out, engine.damaged))
    finally:
        await engine.close()
    if interrupted or isinstance(fatal, Fatal):
        console.print(f"Resume with:  {resume_line()}", soft_wrap=True, highlight=False, markup=False)
    if fatal:
        raise fatal
    if interrupted:
        return 130
    return 1 if accounting["failed"] else 0


def _cluster(config: Config, personas: Sequence[Persona], out: Path, folder: Path | None, cluster: OnRay) -> Engine:
    try:
        from aloe_agents.runners.ray import Cluster
    except ImportError as error:
        raise ConfigError(f"--on ray needs Ray ({error}); install it with: pip install 'aloe-agents[ray]'") from None
    host, _, port = (cluster.address or "").removeprefix("ray://").rpartition(":")
    try:  # Ray itself would try for minutes
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {cluster.address!r}: {error}") from None
    return Cluster(config, personas, out, folder, cluster.address, cluster.workers or 0)


@contextlib.contextmanager
def interrupts(stop: Callable[[], None], task: asyncio.Task[Any]) -> Iterator[None]:
    """SIGINT and SIGTERM call ``stop``, and cancel ``task`` if it is not over after GRACE seconds; twice: at once."""
    loop = asyncio.get_running_loop()
    met = 0

    def interrupt() -> None:
        nonlocal met
        met += 1
        if met > 1:  # all that was committed is on disk
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?1049l\x1b[?25h")  # leave the picture's screen, follow the cursor
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


def _people(
    personas: Path | None, profiles: Path | None, personalities: Path | None, count: int | None, seed: int
) -> list[Persona]:
    if personas:
        if profiles or personalities or count:
            raise ConfigError("--personas comes alone: not with --profiles, --personalities or --count")
        return read_personas(personas)
    if not profiles or not personalities or not count:
        raise ConfigError("give --personas FILE, or --profiles FILE --personalities FILE --count N")
    pools = []
    for path in (profiles, personalities):
        items, remarks = read_pool(path)
        for remark in remarks:
            click.echo(f"aloe: {remark}", err=True)
        pools.append(items)
    return sample_personas(pools[0], pools[1], count, seed)
