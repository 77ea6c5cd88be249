"""``aloe personas grow``: a pool grows by self-generation and filtering. The same command, given again, resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import POOL_ROLES, Config
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.pools.growing import TARGETS, GrowthRules, Pool
from aloe_agents.pools.growing import grow as grow_pool
from aloe_agents.pools.items import Item, check_place, folder_of
from aloe_agents.pools.proposals import KINDS, Kind
from aloe_agents.runners.personas.common import (
    configured,
    embedder_of,
    embedding,
    folder_with,
    items_of,
    naming_options,
    options,
    stopping,
)
from aloe_agents.runners.personas.picture import ENDS, Picture
from aloe_agents.runners.terminal import interrupts, loop_runner, resume_line
from aloe_agents.runs.console import Terminal
from aloe_agents.runs.run import OtherSettings, Run

rules = options(
    click.option("--target", type=click.IntRange(1), help="Stop at N members (default: the paper's 330 or 71).",
                 metavar="N"),
    click.option("--threshold", type=click.FloatRange(-1, 1), help="Drop items more similar than this (default: 0.6)."),
    click.option("--similarity", type=click.Choice(["centred", "raw", "off"]),
                 help="How vectors are compared (default: centred)."),
    click.option("--examples", type=click.IntRange(1), help="Members shown in each round (default: 5)."),
    click.option("--wanted", type=click.IntRange(1), help="Items asked for in each round (default: 20)."),
    click.option("--ahead", type=click.IntRange(1), help="Rounds under way at once (default: 4)."),
    click.option("--bottleneck", type=click.FloatRange(0, 1), help="Stop when a smaller share is new (default: 0.05)."),
    click.option("--window", type=click.IntRange(1), help="Rounds over which that share is taken (default: 5)."),
    click.option("--calls", type=click.IntRange(1), help="Budget in calls (pool.calls)."),
    click.option("--tokens", type=click.IntRange(1), help="Budget in tokens (pool.tokens)."),
    click.option("--money", type=float, help="Budget in money, by the endpoint's price (pool.money)."),
)  # fmt: skip


@click.command()
@click.argument("of", type=click.Choice(KINDS))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The pool; an existing one grows on.")
@click.option("--seeds", type=click.Path(path_type=Path), help="What it grows from (default: twenty of the package).")
@click.option("--seed", type=int, help="Random seed (run.seed).")
@embedding
@rules
@click.option("--force", is_flag=True, help="Go on with a pool that was grown with different settings.")
@click.option("--plain", is_flag=True, help="Print plain lines instead of the live display.")
def command(
    of: Kind,
    out: Path,
    seeds: Path | None,
    seed: int | None,
    config: Path | None,
    force: bool,
    plain: bool,
    **pool: object,
) -> int:
    """Let a pool grow: show a few of its members to a model, ask for new ones, keep what is unlike all members.

    \b
    aloe personas grow profiles --out pools/profiles.jsonl
    aloe personas grow personalities --config aloe.toml --target 71 --out pools/personalities.jsonl
    """
    resolved = configured(config, POOL_ROLES, **pool)
    if seed is not None:
        resolved = resolved.model_copy(update={"run": resolved.run.model_copy(update={"seed": seed})})
    return grow(resolved, of, out, seeds, file=config, force=force, plain=plain)


def grow(
    config: Config,
    of: Kind,
    out: Path,
    seeds: Path | None = None,
    *,
    file: Path | None = None,
    force: bool = False,
    plain: bool = False,
    quiet: bool = False,
) -> int:
    """Let the pool ``out`` grow, and show it unless ``quiet``. ``file`` is the configuration's. Returns the exit code.

    Raises ConfigError before anything is asked.
    """
    check_place(out)
    given = _seeds(seeds)
    endpoints = building.build_endpoints(config)
    (generator,) = building.build_cast(config, endpoints, folder_with(file))
    embedder = embedder_of(out, config, file) if config.pool.similarity != "off" else None
    picture = Picture(Terminal(quiet=quiet), of, config.pool.target or TARGETS[of], config.pool.window, plain=plain)
    pool = config.pool
    fields: GrowthRules = {
        "seed": config.run.seed,
        "examples": pool.examples,
        "wanted": pool.wanted,
        "ahead": pool.ahead,
        "bottleneck": pool.bottleneck,
        "window": pool.window,
        "calls": pool.calls,
        "tokens": pool.tokens,
        "money": pool.money,
    }

    async def work(on_open: Callable[[Run], None]) -> Pool:
        return await grow_pool(
            of, generator, out, seeds=given, target=pool.target, embedder=embedder, similarity=pool.similarity,
            threshold=pool.threshold, force=force, keep_open=False, on_open=on_open, on_round=picture.begin, **fields,
        )  # fmt: skip

    def opened(run: Run) -> None:
        (folder_of(out) / "run.toml").write_text(config.to_toml(), encoding="utf-8")
        picture.price = next((endpoint.price for endpoint in run.endpoints.values()), (0.0, 0.0))

    with (
        loop_runner() as runner,
        naming_options(**{"give no seeds": "leave --seeds out", "another file": "another --out"}),
    ):
        try:
            ended, error = runner.run(_watched(work, opened, picture))
        except OtherSettings as other:
            raise ConfigError(
                f"{out} was grown with different settings: {'; '.join(other.differing)}. Choose another --out, or --force "
                "to go on (answers to unchanged questions are kept)"
            ) from None
    return _concluded(out, ended, error, picture)


def _seeds(file: Path | None) -> list[Item] | None:
    """The seeds of a file, each with its source."""
    if file is None:
        return None
    return [Item(text=item.text, id=item.id, source=item.source or f"seed of {file.name}") for item in items_of(file)]


async def _watched(
    work: Callable[[Callable[[Run], None]], Coroutine[None, None, Pool]],
    opened: Callable[[Run], None],
    picture: Picture,
) -> tuple[bool, BaseException | None]:
    """Do the work, show it, and stop it at an interrupt. Returns whether growth came to its end, and what cut it short.

    Raises whatever is raised before the run is open.
    """
    over = asyncio.Event()
    runs: list[Run] = []

    def on_open(run: Run) -> None:
        runs.append(run)
        opened(run)

    task = asyncio.create_task(work(on_open))
    following = asyncio.create_task(picture.follow(over))
    with interrupts(stopping(runs), task):
        await asyncio.wait([task])
    over.set()
    await following
    error = None if task.cancelled() else task.exception()
    if error and not runs:
        raise error
    return error is None and not task.cancelled() and bool(task.result().ended), error


def _concluded(out: Path, ended: bool, error: BaseException | None, picture: Picture) -> int:
    """Say what came of it; the exit code."""
    console = picture.console
    console.print(picture.summary(out), soft_wrap=True, highlight=False)
    if not ended:
        console.print(f"Resume with:  {resume_line()}", soft_wrap=True, highlight=False, markup=False)
    if error:
        raise error
    if picture.state and picture.state.ended == "failures":
        reason = picture.state.rounds[-1].reason
        raise Fatal(f"{ENDS['failures']} ({reason}); what the model said: {folder_of(out) / 'journal.sqlite'}")
    return 0 if ended else 130
