"""``aloe personas grow``: a pool grows by self-generation and filtering. The same command, given again, resumes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aloe_agents import building
from aloe_agents.config import POOL_ROLES, Config
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.pools.embedding import VectorStore
from aloe_agents.pools.growth import Growth, GrowthPlan
from aloe_agents.pools.items import BASE, DROPPED, REVIEW, Item, folder_of, write_items
from aloe_agents.pools.proposals import KINDS, Kind
from aloe_agents.pools.review import Review, reviewed
from aloe_agents.pools.similarity import Novelty
from aloe_agents.runners.personas.common import configured, embedding, items_of, options, the_file, vectors_of
from aloe_agents.runners.terminal import interrupts, loop_runner, resume_line
from aloe_agents.runs.console import Terminal
from aloe_agents.runs.journal import Journal, differences
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.run import describe
from aloe_agents.text import one_line

TARGETS: dict[str, int] = {"profiles": 330, "personalities": 71}
"""What the paper's pools came to."""
ENDS = {
    "target": "the pool has its target size",
    "bottleneck": "a bottleneck: hardly anything that is proposed is new",
    "budget": "the budget is spent",
    "failures": "the generator failed in every one of the last rounds",
}

rules = options(
    click.option("--target", type=click.IntRange(1), help="Members at which growth ends (the paper's 330 or 71)."),
    click.option("--threshold", type=click.FloatRange(-1, 1), help="Similarity above which an item is not new: 0.6."),
    click.option("--similarity", type=click.Choice(["centred", "raw", "off"]), help="Of vectors (default: centred)."),
    click.option("--examples", type=click.IntRange(1), help="Members that a round shows: 5."),
    click.option("--wanted", type=click.IntRange(1), help="Items that a round asks for: 20."),
    click.option("--ahead", type=click.IntRange(1), help="Rounds under way at once: 4."),
    click.option("--bottleneck", type=click.FloatRange(0, 1), help="Growth ends when a smaller share is new: 0.05."),
    click.option("--window", type=click.IntRange(1), help="... of the last so many rounds: 5."),
    click.option("--calls", type=click.IntRange(1), help="Budget in calls (pool.calls)."),
    click.option("--tokens", type=click.IntRange(1), help="Budget in tokens."),
    click.option("--money", type=float, help="Budget in money, by the endpoint's price."),
)


@click.command()
@click.argument("of", type=click.Choice(KINDS))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The pool; one that is there grows on.")
@click.option("--seeds", type=click.Path(path_type=Path), help="What it grows from (default: twenty of the package).")
@click.option("--seed", type=int, help="Of the examples' draws (run.seed).")
@embedding
@rules
@click.option("--force", is_flag=True, help="Go on although settings were changed; unchanged answers are kept.")
@click.option("--plain", is_flag=True, help="Lines instead of the live picture.")
@click.option("--debug", is_flag=True, hidden=True)
def command(
    of: Kind,
    out: Path,
    seeds: Path | None,
    seed: int | None,
    config: Path | None,
    force: bool,
    plain: bool,
    debug: bool,
    **pool: Any,
) -> int:
    """Let a pool grow: shows a few of its members to a model, asks for new ones, keeps what is unlike all before.

    \b
    aloe personas grow profiles --out pools/profiles.jsonl
    aloe personas grow personalities --config aloe.toml --target 71 --out pools/personalities.jsonl
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="aloe: %(message)s")
    resolved = configured(config, POOL_ROLES, **pool)
    if seed is not None:
        resolved = resolved.model_copy(update={"run": resolved.run.model_copy(update={"seed": seed})})
    folder = config.parent.absolute() if config else None
    return grow(resolved, of, out, seeds, folder=folder, force=force, plain=plain)


def grow(
    config: Config,
    of: Kind,
    out: Path,
    seeds: Path | None = None,
    *,
    folder: Path | None = None,
    force: bool = False,
    plain: bool = False,
    quiet: bool = False,
) -> int:
    """Let the pool ``out`` grow, showing it unless ``quiet``. Returns the exit code. Raises ConfigError before anything is asked."""
    place = folder_of(the_file(out))
    base, known = _base(of, out, place, seeds)
    endpoints = building.build_endpoints(config)
    (generator,) = building.build_cast(config, endpoints, folder)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(vectors_of(out, config, folder)) if config.pool.similarity != "off" else None
        settings = {**building.role_settings(config), **_settings(of, config, base, store)}
        differing = differences(place, settings)
        if differing and not force:
            raise ConfigError(
                f"{out} was grown otherwise: {'; '.join(differing)}. Choose another --out, or --force to go on "
                "(answers to unchanged questions are kept)"
            )
        journal = stack.enter_context(Journal(place))
        if not known:
            write_items(place / BASE, base)
        return _grow(
            config, of, out, base, generator, endpoints, journal, store, settings, bool(differing), plain, quiet
        )


def _grow(
    config: Config,
    of: Kind,
    out: Path,
    base: Sequence[Item],
    generator: Any,
    endpoints: dict[str, Endpoint],
    journal: Journal,
    store: VectorStore | None,
    settings: dict[str, str],
    anew: bool,
    plain: bool,
    quiet: bool,
) -> int:
    pool = config.pool
    plan = GrowthPlan(
        of=of,
        target=pool.target or TARGETS[of],
        seed=config.run.seed,
        price=next((endpoint.price for endpoint in endpoints.values()), (0.0, 0.0)),
        **{name: getattr(pool, name) for name in _PLANNED},
    )
    novelty = None if pool.similarity == "off" else Novelty(pool.threshold, pool.similarity)
    growth = Growth(
        generator, base, plan, store.vectors if store else None, novelty, recorder=Recorder(journal), anew=anew
    )
    described = {name: describe(endpoint) for name, endpoint in endpoints.items()}

    async def run() -> int:
        console, over = Terminal(quiet=quiet), asyncio.Event()
        rounds = 0 if journal.fresh or not journal.run else journal.run.requested
        await journal.claim(
            seed=plan.seed, turns=1, requested=0 if anew else rounds, settings=settings, endpoints=described
        )
        (folder_of(out) / "run.toml").write_text(config.to_toml(), encoding="utf-8")
        picture = asyncio.create_task(
            _show(Terminal(force_terminal=False, quiet=quiet) if plain else console, growth, over)
        )
        task = asyncio.create_task(growth.run())
        try:
            with interrupts(growth.stop, task):
                await asyncio.wait([task])
            over.set()
            await asyncio.wait([picture])
            fatal = None if task.cancelled() else task.exception()
            state = growth.state
            members = reviewed(state.items, folder_of(out))
            if state.ended or len(members) >= _lines_in(
                out
            ):  # cut short while it recalls rounds, it has fewer than before
                write_items(out, members)
                write_items(folder_of(out) / DROPPED, state.drops)
            if state.ended and not fatal:
                await journal.finish({name: endpoint.slots.peak for name, endpoint in endpoints.items()})
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()
        console.print(_summary(growth, out), soft_wrap=True, highlight=False)
        if not state.ended or fatal:
            console.print(f"Resume with:  {resume_line()}", soft_wrap=True, highlight=False, markup=False)
        if fatal:
            raise fatal
        if state.ended == "failures":
            reason = state.rounds[-1].reason
            raise Fatal(f"{ENDS['failures']} ({reason}); what the model said: {folder_of(out) / 'journal.sqlite'}")
        return 0 if state.ended else 130

    with loop_runner() as runner:
        return runner.run(run())


_PLANNED = ("examples", "wanted", "ahead", "bottleneck", "window", "calls", "tokens", "money")


def _base(of: Kind, out: Path, place: Path, seeds: Path | None) -> tuple[list[Item], bool]:
    """What the pool grows from, and whether that was known before: what it grew from, else itself, else the seeds."""
    if (place / BASE).exists():
        return items_of(seeds or place / BASE), True
    if out.exists():
        if seeds:
            raise ConfigError(
                f"{out} is there and grows on from what it holds: leave --seeds out, or choose another --out"
            )
        # those that a review dropped count as members, so that none like them comes back
        return Review(out, place).items if (place / REVIEW).exists() else items_of(out), False
    path = seeds or Path(str(files("aloe_agents.pools") / f"{of}.txt"))
    source = "seed" if seeds is None else f"seed of {seeds.name}"
    items = [
        Item(text=item.text, id=f"{n:05d}", source=item.source or source) for n, item in enumerate(items_of(path), 1)
    ]
    return items, False


def _lines_in(pool: Path) -> int:
    if not pool.exists():
        return 0
    with pool.open("rb") as file:
        return sum(1 for _ in file)


def _settings(of: Kind, config: Config, base: Sequence[Item], store: VectorStore | None) -> dict[str, str]:
    """What the pool depends on besides the generator. How far it grows is not among it: that may change."""
    pool, texts = config.pool, hashlib.sha256()
    for item in base:
        texts.update(repr(item.text).encode())
    return {
        "pool of": of,
        "seed": str(config.run.seed),
        "grows from": f"{len(base)} items (digest {texts.hexdigest()[:12]})",
        "embedder": store.embedder.name if store else "none",
        "similarity": f"{pool.similarity} {pool.threshold:g}" if store else "off",
        "examples, wanted, ahead": f"{pool.examples}, {pool.wanted}, {pool.ahead}",
    }


async def _show(console: Terminal, growth: Growth, over: asyncio.Event) -> None:
    """Show how the pool grows until ``over`` is set: a few live lines, or a line for every round."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not over.is_set():
                live.update(_picture(growth, console.width), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.25)
        return
    shown = 0
    while not over.is_set() or shown < len(growth.state.rounds):
        for taken in growth.state.rounds[shown:]:
            shown += 1
            why = f"  failed: {taken.reason}" if taken.status == "failed" else ""
            console.print(
                f"round {taken.number}: {taken.accepted} of {taken.proposed} new{why}", soft_wrap=True, highlight=False
            )
        if not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 1.0)


def _picture(growth: Growth, width: int) -> Table:
    state, plan = growth.state, growth.plan
    table = Table.grid(padding=(0, 1), expand=True)
    head = Table.grid(padding=(0, 2))
    share = state.share(plan.window)
    head.add_row(
        Text(f"{len(state.items)} of {plan.target} {plan.of}", style="bold"),
        ProgressBar(total=plan.target, completed=len(state.items), width=max(10, min(40, width - 60))),
        Text(f"round {len(state.rounds)}, {state.opened - len(state.rounds)} under way"),
    )
    table.add_row(head)
    new = "" if share is None else f"{share:.0%} of the last proposals new   "
    table.add_row(Text(f"{new}{_used(growth)}", style="dim"))
    for item in state.items[-3:]:
        table.add_row(Text(f"+ {one_line(item.text, max(20, width - 4))}", style="green", no_wrap=True))
    for drop in state.drops[-2:]:
        table.add_row(
            Text(f"- {drop.reason}: {one_line(drop.text, max(20, width - 30))}", style="yellow", no_wrap=True)
        )
    return table


def _used(growth: Growth) -> str:
    spent = growth.state.spent
    cost = spent.cost(growth.plan.price)
    tokens = f"{spent.calls} calls, {spent.prompt_tokens + spent.completion_tokens:,} tokens"
    return f"{tokens}, cost {cost:.2f}" if cost else tokens


def _summary(growth: Growth, out: Path) -> Text:
    state, plan = growth.state, growth.plan
    proposed = sum(taken.proposed for taken in state.rounds)
    last = [taken for taken in state.rounds if taken.status == "completed"][-plan.window :]
    dropped = ", ".join(f"{count} {reason}" for reason, count in state.dropped().most_common()) or "none"
    failed = sum(taken.status == "failed" for taken in state.rounds)
    lines = [
        f"{out}: {len(state.items)} {plan.of}",
        f"ended      {ENDS.get(state.ended, 'interrupted')}"
        + (
            f" ({sum(taken.accepted for taken in last)} of {sum(taken.proposed for taken in last)} in the last "
            f"{len(last)} rounds)"
            if state.ended == "bottleneck"
            else ""
        ),
        f"rounds     {len(state.rounds)}, {failed} failed; {proposed} proposed",
        f"dropped    {dropped}",
        f"used       {_used(growth)}",
    ]
    return Text("\n".join(lines))
