"""The verb that lets a pool grow, recorded: the pool's file, its folder, and one :class:`~aloe_agents.runs.run.Run`.

A new pool grows from seeds, an existing one from its own items. What it grew from is kept in the folder beside it, so a
resumed growth starts from the same items, and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Observer
from aloe_agents.errors import ConfigError
from aloe_agents.pools.embedding import DEFAULT, Embedder, VectorStore, embedder_named, preparation
from aloe_agents.pools.growth import Growth, GrowthPlan, Round, State, check_generator
from aloe_agents.pools.items import BASE, DROPPED, REVIEW, Drop, Item, check_place, folder_of, read_items, write_items
from aloe_agents.pools.proposals import Kind
from aloe_agents.pools.review import Review, reviewed
from aloe_agents.pools.rounds import Spent
from aloe_agents.pools.similarity import THRESHOLD, Novelty, Similarity
from aloe_agents.runs.journal import differences
from aloe_agents.runs.run import Run
from aloe_agents.runs.settings import cast_settings, endpoints_of

TARGETS: dict[Kind, int] = {"profiles": 330, "personalities": 71}
"""The sizes of the paper's pools."""

Seeds = Path | str | Iterable[str | Item]
"""What a pool grows from: a file, or the texts themselves."""

log = logging.getLogger(__name__)


class GrowthRules(TypedDict, total=False):
    """Fields of :class:`GrowthPlan`, for :func:`grow`."""

    seed: int
    examples: int
    wanted: int
    ahead: int
    bottleneck: float
    window: int
    calls: int | None
    tokens: int | None
    money: float | None
    price: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool that grew."""

    path: Path | None
    """Its file; None if it lives in memory only."""
    items: tuple[Item, ...]
    """Its members, as a review left them."""
    drops: tuple[Drop, ...]
    """The candidates that did not join."""
    rounds: tuple[Round, ...]
    ended: str
    """``target``, ``bottleneck``, ``budget`` or ``failures``; empty if growth was stopped."""
    spent: Spent
    """Calls and tokens of the whole growth, resumed or not."""

    @property
    def texts(self) -> list[str]:
        """The members' texts."""
        return [item.text for item in self.items]


async def grow(
    of: Kind,
    generator: Agent,
    out: Path | str | None = None,
    *,
    seeds: Seeds | None = None,
    target: int | None = None,
    embedder: Embedder | None = None,
    similarity: Similarity | Literal["off"] = "centred",
    threshold: float = THRESHOLD,
    observers: Sequence[Observer] = (),
    force: bool = False,
    keep_open: bool = True,
    on_open: Callable[[Run], None] | None = None,
    on_round: Callable[[State], None] | None = None,
    **rules: Unpack[GrowthRules],
) -> Pool:
    """Let a pool grow (paper, section 2.1) until it has ``target`` members (330 profiles or 71 personalities).

    ``generator`` hears RoundOpened and says Proposed. ``out`` is the pool's file: the growth is recorded beside it, and
    the same call resumes; without ``out`` it lives in memory only. A new pool grows from ``seeds``, a file or texts
    (default: twenty of the package). A file that exists grows on from its own items. ``embedder`` defaults to the one
    that made the pool's vectors, or else to all-MiniLM-L6-v2; ``similarity="off"`` drops equal texts only. ``rules`` are
    fields of GrowthPlan; ``price`` is that of the generator's endpoint, unless given. ``force`` goes on with a pool that
    was grown with different settings. Endpoints stay open unless ``keep_open`` is False. ``on_open`` gets the run, whose
    ``stop`` ends growth; ``on_round`` gets the state at the start and after each round.

    Raises ConfigError before anything is asked, and Fatal if the growth cannot go on; all answers are kept.
    """
    endpoints = endpoints_of([generator])
    price = next((endpoint.price for endpoint in endpoints.values()), (0.0, 0.0))
    fields: GrowthRules = {"price": price, **rules}
    plan = GrowthPlan(of=of, target=TARGETS[of] if target is None else target, **fields)
    check_generator(generator)
    out = None if out is None else check_place(out)
    base = _base(of, out, seeds)
    with _store(out, embedder, similarity) as store:
        compared = f"{similarity} {threshold:g}" if store else "off"
        settings = _settings(plan, generator, base, store, compared)
        run = Run(
            None if out is None else folder_of(out),
            settings=settings,
            endpoints=endpoints,
            seed=plan.seed,
            observers=observers,
            force=force,
            keep_open=keep_open,
        )
        anew = run.directory is not None and force and bool(differences(run.directory, settings))
        async with run:
            novelty = Novelty(threshold, similarity) if similarity != "off" else None
            embed = store.vectors if store else None
            growth = Growth(
                generator, base, plan, embed, novelty,
                recorder=run.recorder, observers=run.observers, anew=anew, on_round=on_round,
            )  # fmt: skip
            run.drive(growth)
            if on_open:
                on_open(run)
            return await _grown(run, growth, out, base)


async def _grown(run: Run, growth: Growth, out: Path | None, base: Sequence[Item]) -> Pool:
    """Grow, and write what there is, however growth ends."""
    state = growth.state
    if out is not None:
        _keep_base(folder_of(out) / BASE, base)
    try:
        await growth.run()
    except BaseException:
        with contextlib.suppress(ConfigError):  # what ended growth comes first: a full disk, say
            _write(out, state)
        raise
    members = _write(out, state)
    if state.ended:
        await run.finish()
    return Pool(
        path=out,
        items=tuple(members),
        drops=tuple(state.drops),
        rounds=tuple(state.rounds),
        ended=state.ended,
        spent=replace(state.spent),
    )


def _write(out: Path | None, state: State) -> list[Item]:
    """Write the pool, unless fewer rounds were recalled than an earlier process had taken. Returns its members."""
    if out is None:
        return state.items
    members = reviewed(state.items, folder_of(out))
    if state.ended or len(members) >= _lines_in(out):
        write_items(out, members)
        write_items(folder_of(out) / DROPPED, state.drops)
    return members


def _lines_in(pool: Path) -> int:
    if not pool.exists():
        return 0
    with pool.open("rb") as file:
        return sum(1 for _ in file)


@contextlib.contextmanager
def _store(out: Path | None, embedder: Embedder | None, similarity: str) -> Iterator[VectorStore | None]:
    """The vectors of a pool; none if texts are not compared by vectors."""
    if similarity == "off":
        yield None
        return
    if out is None:
        store = VectorStore(None, embedder or embedder_named(DEFAULT), preparation(similarity))
    else:
        store = VectorStore.beside(out, embedder, similarity)
    with contextlib.closing(store):
        yield store


def _base(of: Kind, out: Path | None, seeds: Seeds | None) -> list[Item]:
    """What the pool grows from: what it grew from before, else its own items, else the seeds."""
    if out is not None and (kept := folder_of(out) / BASE).exists():
        known = _read(kept)
        given = known if seeds is None else _seeded(of, seeds)
        return known if [item.text for item in given] == [item.text for item in known] else given
    if out is not None and out.exists():
        if seeds is not None:
            raise ConfigError(f"{out} exists and grows on from what it holds: give no seeds, or choose another file")
        return _members(out)
    return _seeded(of, seeds)


def _members(pool: Path) -> list[Item]:
    """The items of a pool. Those that a review dropped count as well, so that nothing like them comes back."""
    return Review(pool).items if (folder_of(pool) / REVIEW).exists() else _read(pool)


def _seeded(of: Kind, seeds: Seeds | None) -> list[Item]:
    if isinstance(seeds, Path | str):
        source, items = f"seed of {Path(seeds).name}", _read(seeds)
    elif seeds is None:
        source, items = "seed", _read(str(files("aloe_agents.pools") / f"{of}.txt"))
    else:
        source, items = "seed", [item if isinstance(item, Item) else Item(text=item, id="") for item in seeds]
    return [Item(text=item.text, id=f"{n:05d}", source=item.source or source) for n, item in enumerate(items, 1)]


def _read(path: Path | str) -> list[Item]:
    items, remarks = read_items(path)
    for remark in remarks:
        log.warning("%s", remark)
    return items


def _keep_base(path: Path, base: Sequence[Item]) -> None:
    if not path.exists() or _read(path) != list(base):
        write_items(path, base)


def _settings(
    plan: GrowthPlan, generator: Agent, base: Sequence[Item], store: VectorStore | None, compared: str
) -> dict[str, str]:
    """What the pool depends on. How far it grows is not among it, since that may change."""
    texts = hashlib.sha256()
    for item in base:
        texts.update(repr(item.text).encode())
    return {
        **cast_settings([generator]),
        "pool of": plan.of,
        "seed": str(plan.seed),
        "grows from": f"{len(base)} items (digest {texts.hexdigest()[:12]})",
        "embedder": store.embedder.name if store else "none",
        "similarity": compared,
        "examples, wanted, ahead": f"{plan.examples}, {plan.wanted}, {plan.ahead}",
    }
