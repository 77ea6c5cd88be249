"""What the commands of ``aloe personas`` share: options, the embedder of a pool, its vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from aloe_agents import building
from aloe_agents.config import Config, load_config
from aloe_agents.errors import ConfigError
from aloe_agents.pools.embedding import DEFAULT, VectorStore
from aloe_agents.pools.items import VECTORS, Item, folder_of, read_items
from aloe_agents.text import impersonal, storable

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*given: Decorator) -> Decorator:
    """Several options in one."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(given):
            function = option(function)
        return function

    return apply


embedding = options(
    click.option("--config", type=click.Path(path_type=Path), help="A TOML file with endpoints, roles and [pool]."),
    click.option(
        "--embedder",
        help="A model of sentence-transformers, lexical, endpoint:NAME or module:thing (pool.embedder). By itself the "
        f"one that the pool's vectors were made with, else {DEFAULT}.",
    ),
)
skip_bad = click.option("--skip-bad", is_flag=True, help="Leave out lines that hold no item, naming each.")
two_pools = options(
    click.option("--profiles", type=click.Path(path_type=Path), required=True, help="A pool of profiles."),
    click.option("--personalities", type=click.Path(path_type=Path), required=True, help="A pool of personalities."),
    skip_bad,
)


def configured(config: Path | None, needed: Sequence[str] = (), **pool: Any) -> Config:
    """The configuration with what was given for ``[pool]`` on top."""
    given = {f"pool.{name}": value for name, value in pool.items() if value is not None}
    return load_config(config, given, needed)


def items_of(path: Path, *, field: str | None = None, skip_bad: bool = False) -> list[Item]:
    """The items of a pool; remarks go to standard error."""
    items, remarks = read_items(path, field=field, skip_bad=skip_bad)
    for remark in remarks:
        click.echo(f"aloe: {remark}", err=True)
    return items


@contextlib.contextmanager
def vectors_of(pool: Path, config: Config, beside: Path | None = None) -> Iterator[VectorStore]:
    """The vectors of a pool, with the embedder that is wanted or that they were made with.

    For centred similarity texts are made impersonal first; raw similarity is the paper's, of texts as they stand.
    """
    place = folder_of(pool) / VECTORS
    spec = config.pool.embedder or VectorStore.made_with(place) or DEFAULT
    as_it_stands = config.pool.similarity == "raw"
    store = VectorStore(place, building.build_embedder(spec, config, beside), storable if as_it_stands else impersonal)
    with contextlib.closing(store):
        yield store


def the_file(path: Path) -> Path:
    """``path``, where a pool is to be written. Raises ConfigError for what cannot be one."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; a pool is a file, such as {path / 'profiles.jsonl'}")
    if path.suffix.lower() not in ("", ".jsonl", ".json"):
        raise ConfigError(f"a pool is written as JSONL; call it {path.with_suffix('.jsonl')}")
    return path
