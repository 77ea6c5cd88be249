"""``aloe simulate``: personas to trees. The same command, given again, resumes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aloe_agents.config import Config, load_config, parse_override
from aloe_agents.console import Terminal, show, status_line, summary
from aloe_agents.endpoint import Endpoint
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.journal import Journal, differences
from aloe_agents.personas import Persona, read_personas, read_pool, sample_personas
from aloe_agents.progress import EndpointLine, Progress, Snapshot
from aloe_agents.reading import Reading, write_trees
from aloe_agents.recorder import Recorder
from aloe_agents.runners import build
from aloe_agents.simulation import Simulation

GRACE = 30.0
"""Seconds for what is in flight to land after the first interrupt."""


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
    force: bool,
    plain: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Simulate users and emit preference trees.

    \b
    aloe simulate --personas personas.jsonl --out runs/first
    aloe simulate aloe.toml --profiles p.jsonl --personalities q.jsonl --count 300 --out runs/second
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="aloe: %(message)s")
    changed = dict(parse_override(text) for text in overrides)
    changed |= {f"run.{name}": value for name, value in flags.items() if value is not None}
    resolved = load_config(config, changed)
    people = _people(personas, profiles, personalities, count, resolved.run.seed)
    folder = config.parent.absolute() if config else None
    return simulate(resolved, people, out, folder=folder, force=force, plain=plain)


def simulate(
    config: Config,
    personas: Sequence[Persona],
    out: Path,
    *,
    folder: Path | None = None,
    force: bool = False,
    plain: bool = False,
    latency: float = 0.0,
) -> int:
    """Run ``config`` with ``personas`` in the directory ``out``, showing it. Returns the exit code.

    Raises ConfigError before anything is written or asked.
    """
    parts = build.build(config, folder, latency)
    settings = build.settings(config, personas)
    if (differing := differences(out, settings)) and not force:
        raise ConfigError(
            f"{out} holds another run: {'; '.join(differing)}. Choose another --out, or --force to go on in it "
            "(answers to unchanged questions are kept)"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, not a directory")
    with loop_runner() as runner:
        return runner.run(_run(config, parts, personas, settings, out, plain))


async def _run(
    config: Config, parts: build.Parts, personas: Sequence[Persona], settings: dict[str, str], out: Path, plain: bool
) -> int:
    run, console, over = config.run, Terminal(), asyncio.Event()
    journal = Journal(out)
    try:
        (out / "run.toml").write_text(config.to_toml(), encoding="utf-8")
        recorder = Recorder(journal)
        progress = Progress(str(out), run.seed, run.turns, len(personas), lambda: endpoint_lines(parts.endpoints))
        simulation = Simulation(
            parts.cast,
            parts.expansion,
            turns=run.turns,
            seed=run.seed,
            live=build.live(config, parts.endpoints),
            recorder=recorder,
            observers=[progress.observe],
        )
        await journal.claim(
            seed=run.seed,
            turns=run.turns,
            requested=len(personas),
            settings=settings,
            endpoints=described(parts.endpoints),
        )

        def snapshot(finished: bool = False) -> Snapshot:
            progress.skipped = simulation.skipped
            return progress.snapshot(finished)

        screen = Terminal(force_terminal=False) if plain else console
        picture = asyncio.create_task(show(screen, snapshot, over))
        task = asyncio.create_task(simulation.run(personas))
        with interrupts(simulation.stop, task):
            await asyncio.wait([task])
        over.set()
        await asyncio.wait([picture])
        fatal = None if task.cancelled() else task.exception()
        interrupted = fatal is None and simulation.stopped
        with contextlib.suppress(Fatal):  # a journal that is broken has said so in ``fatal``
            await (journal.commit() if interrupted or fatal else journal.finish(described(parts.endpoints)))
        count = write_trees(out)
        with contextlib.closing(Reading(out)) as reading:
            accounting, efficiency = reading.accounting(), reading.efficiency()
    finally:
        journal.close()
        for endpoint in parts.endpoints.values():
            await endpoint.close()
    console.print(status_line(snapshot(finished=True)), soft_wrap=True, highlight=False)
    console.print(summary(accounting, efficiency, out, count, recorder.damaged))
    if interrupted or isinstance(fatal, Fatal):
        console.print(f"Resume with:  {resume_line()}", soft_wrap=True, highlight=False, markup=False)
    if fatal:
        raise fatal
    if interrupted:
        return 130
    return 1 if accounting["failed"] else 0


def described(endpoints: Mapping[str, Endpoint]) -> dict[str, dict[str, Any]]:
    """The endpoints as the journal keeps them; ``slots`` are as many as there were."""
    return {
        name: {
            "model": endpoint.name,
            "capacity": endpoint.limits.capacity,
            "slots": endpoint.limits.capacity or endpoint.slots.peak,
            "price": endpoint.price,
        }
        for name, endpoint in endpoints.items()
    }


def endpoint_lines(endpoints: Mapping[str, Endpoint]) -> list[EndpointLine]:
    """The endpoints as they are now. Needs the running loop's clock."""
    now = asyncio.get_running_loop().time()
    return [
        EndpointLine(
            name,
            e.name,
            e.slots.capacity,
            in_flight=e.slots.taken,
            waiting=e.slots.waiting,
            calls=e.tally.calls,
            retries=sum(e.tally.retries.values()),
            prompt_tokens=e.tally.prompt_tokens,
            completion_tokens=e.tally.completion_tokens,
            cost=e.tally.cost,
            paused=max(0.0, e.pause.until - now),
            trouble=e.breaker.why if e.breaker.open else "",
        )
        for name, e in endpoints.items()
    ]


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
    """An asyncio runner, on uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def resume_line() -> str:
    """The command that was given."""
    return shlex.join(["aloe", *sys.argv[1:]])


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
