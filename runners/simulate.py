"""``aloe simulate``: personas to trees. The same command, given again, resumes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from aloe_agents import building, library
from aloe_agents.config import Config, load_config, parse_override
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.personas import Persona, check_ids, read_personas, sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.runners.terminal import Live, loop_runner, resume_line, told_in_options, unread, watched
from aloe_agents.runs.console import Terminal, status_line, summary
from aloe_agents.runs.run import Run, check_settings
from aloe_agents.runs.settings import settings_of


@dataclass(frozen=True)
class OnRay:
    """Which cluster (None: one of this machine alone), and how many workers (None: one a processor)."""

    address: str | None = None
    workers: int | None = None


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--personas", type=click.Path(path_type=Path), help="Personas: JSONL with profile, personality, perhaps id."
)
@click.option("--profiles", type=click.Path(path_type=Path), help="A pool of profiles: JSONL, or one per line.")
@click.option("--personalities", type=click.Path(path_type=Path), help="A pool of personalities.")
@click.option("--count", type=click.IntRange(1), help="Draw N personas from the two pools.", metavar="N")
@click.option("--limit", type=click.IntRange(1), help="Use only the first N personas.", metavar="N")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's directory.")
@click.option("--seed", type=int, help="Random seed (run.seed).")
@click.option("--turns", type=int, help="Turns per conversation (run.turns).")
@click.option("--live", type=int, help="Conversations held at once (run.live).")
@click.option("--expansion", help="random-path, full, beam or module:Class (run.expansion).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any key, such as run.depth=3.")
@click.option("--on", type=click.Choice(["here", "ray"]), default="here", help="Where to hold the conversations.")
@click.option("--address", help="Address of a Ray cluster; without it, one starts on this machine.")
@click.option("--workers", type=click.IntRange(1), help="Processes on Ray; default: one per processor.")
@click.option("--force", is_flag=True, help="Go on in a directory whose run had other settings.")
@click.option("--plain", is_flag=True, help="Print plain lines instead of the live display.")
def command(
    config: Path | None,
    personas: Path | None,
    profiles: Path | None,
    personalities: Path | None,
    count: int | None,
    limit: int | None,
    out: Path,
    overrides: Sequence[str],
    on: str,
    address: str | None,
    workers: int | None,
    force: bool,
    plain: bool,
    **flags: Any,
) -> int:
    """Simulate users and write preference trees.

    \b
    aloe simulate --personas personas.jsonl --out runs/first
    aloe simulate aloe.toml --profiles p.jsonl --personalities q.jsonl --count 300 --out runs/second
    aloe simulate aloe.toml --personas personas.jsonl --out runs/third --on ray --workers 8
    """
    if on != "ray" and (address or workers):
        raise click.UsageError("--address and --workers go with --on ray")
    changed = dict(parse_override(text) for text in overrides)
    changed |= {f"run.{name}": value for name, value in flags.items() if value is not None}
    resolved = load_config(config, changed)
    people = _people(resolved, personas, profiles, personalities, count)[:limit]
    cluster = OnRay(address, workers) if on == "ray" else None
    return simulate(resolved, people, out, force=force, plain=plain, cluster=cluster)


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
    check_ids(personas)
    parts = building.build(config, folder, latency)
    settings = settings_of(parts.cast, parts.expansion, personas, turns=config.run.turns, seed=config.run.seed)
    with told_in_options():
        check_settings(out, settings, force)

    async def here(on_open: Callable[[Live], None]) -> None:
        await library.simulate(
            parts.cast,
            personas,
            out,
            expansion=parts.expansion,
            turns=config.run.turns,
            seed=config.run.seed,
            live=building.live(config, parts.endpoints),
            force=force,
            keep_open=False,
            on_open=on_open,
        )

    async def on_ray(on_open: Callable[[Live], None]) -> None:
        assert cluster is not None
        from aloe_agents.runners import ray

        workers = ray.Cluster(config, personas, out, folder, cluster.address, cluster.workers or 0)
        await ray.simulate(workers, settings, parts.endpoints, on_open)

    if cluster:
        check_cluster(cluster.address)
    with loop_runner() as runner, told_in_options():
        return runner.run(shown(on_ray if cluster else here, config, out, plain, quiet))


def check_cluster(address: str | None) -> None:
    """Raise ConfigError where Ray is not installed, or nothing listens at ``address``. Ray itself would try for minutes."""
    import socket

    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--on ray needs Ray ({error}); install it with: pip install 'aloe-agents[ray]'") from None
    del ray
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {error}") from None


async def shown(
    work: Callable[[Callable[[Live], None]], Awaitable[None]], config: Config, out: Path, plain: bool, quiet: bool
) -> int:
    """Do ``work`` on the run in ``out``, show it, and say what came of it. Returns the exit code."""
    console = Terminal(quiet=quiet)

    def opened(live: Live) -> None:
        (out / "run.toml").write_text(config.to_toml(), encoding="utf-8")

    live, error = await watched(work, console, plain=plain, opened=opened)
    console.print(status_line(live.snapshot(finished=True)), soft_wrap=True, highlight=False)
    run = Run(out)
    try:
        accounting, efficiency = run.accounting, run.efficiency
    except ConfigError:  # what ended the run comes first
        raise error or ConfigError(f"cannot read {out}") from None
    console.print(summary(accounting, efficiency, out, getattr(live, "damaged", 0)))
    if live.stopped or isinstance(error, Fatal):
        console.print(f"Resume with:  {resume_line()}", soft_wrap=True, highlight=False, markup=False)
    if error:
        raise error
    if live.stopped:
        return 130
    lost = getattr(live, "unread_judges", [])
    unread(lost, out)
    return 1 if accounting.failed or lost else 0


def _people(
    config: Config, personas: Path | None, profiles: Path | None, personalities: Path | None, count: int | None
) -> list[Persona]:
    """The personas that were named: a file, pairs of two pools, or those of the configuration."""
    pools = bool(profiles or personalities or count)
    if personas:
        if pools:
            raise ConfigError("--personas comes alone: not with --profiles, --personalities or --count")
        return read_personas(personas)
    if not pools and (own := building.configured_personas(config)) is not None:
        return own
    if not profiles or not personalities or not count:
        raise ConfigError(
            "give --personas FILE, or --profiles FILE --personalities FILE --count N, or run.personas in the configuration"
        )
    texts = []
    for path in (profiles, personalities):
        items, remarks = read_pool(path)
        for remark in remarks:
            click.echo(f"aloe: {remark}", err=True)
        texts.append(items)
    return sample_personas(texts[0], texts[1], count, config.run.seed)
