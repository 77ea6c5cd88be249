"""What the commands of ``aloe personas`` share: options, a pool's embedder and vectors, errors that name options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click

from aloe_agents import building
from aloe_agents.config import Config, load_config
from aloe_agents.errors import ConfigError
from aloe_agents.pools.embedding import DEFAULT, Embedder, VectorStore
from aloe_agents.pools.items import VECTORS, Item, folder_of, read_items
from aloe_agents.pools.similarity import Similarity
from aloe_agents.runs.run import Run

Command = TypeVar("Command", bound=Callable[..., object])


def options(*given: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options in one decorator."""

    def apply(function: Command) -> Command:
        for option in reversed(given):
            function = option(function)
        return function

    return apply


embedding = options(
    click.option("--config", type=click.Path(path_type=Path), help="A TOML file with endpoints, roles and [pool]."),
    click.option(
        "--embedder",
        help="A model of sentence-transformers, lexical, endpoint:NAME or module:thing (pool.embedder). Default: the one "
        f"that made the pool's vectors, or else {DEFAULT}.",
    ),
)
skip_bad = click.option("--skip-bad", is_flag=True, help="Leave out broken lines, and name each.")
two_pools = options(
    click.option("--profiles", type=click.Path(path_type=Path), required=True, help="A pool of profiles."),
    click.option("--personalities", type=click.Path(path_type=Path), required=True, help="A pool of personalities."),
    skip_bad,
)


def configured(config: Path | None, needed: Sequence[str] = (), **pool: object) -> Config:
    """The configuration, with the given settings of ``[pool]`` on top; None leaves a setting alone."""
    given = {f"pool.{name}": value for name, value in pool.items() if value is not None}
    return load_config(config, given, needed)


def folder_with(config: Path | None) -> Path | None:
    """Where the classes that a configuration names are looked for first."""
    return config.parent.absolute() if config else None


def compared_by(config: Config) -> Similarity:
    """How two texts are compared, by a command that always compares."""
    return "raw" if config.pool.similarity == "raw" else "centred"


def items_of(path: Path, *, field: str | None = None, skip_bad: bool = False) -> list[Item]:
    """The items of a pool; remarks go to standard error."""
    with naming_options(**{"skip_bad": "--skip-bad", "name its field": "name its field (--field NAME)"}):
        items, remarks = read_items(path, field=field, skip_bad=skip_bad)
    for remark in remarks:
        click.echo(f"aloe: {remark}", err=True)
    return items


def embedder_of(pool: Path, config: Config, file: Path | None = None) -> Embedder:
    """The embedder that was asked for, or that made the pool's vectors. ``file`` is the configuration's."""
    spec = config.pool.embedder or VectorStore.made_with(folder_of(pool) / VECTORS) or DEFAULT
    return building.build_embedder(spec, config, folder_with(file))


@contextlib.contextmanager
def vectors_of(pool: Path, config: Config, file: Path | None = None) -> Iterator[VectorStore]:
    """The vectors of a pool, which is compared in any case. ``file`` is the configuration's."""
    embedder = embedder_of(pool, config, file)
    with contextlib.closing(VectorStore.beside(pool, embedder, config.pool.similarity)) as store:
        yield store


@contextlib.contextmanager
def naming_options(**words: str) -> Iterator[None]:
    """Let a ConfigError from the library speak of the command's options: ``words`` maps its words to theirs."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_replaced(str(error), words)) from error


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def stopping(runs: Sequence[Run]) -> Callable[[], None]:
    """What stops the runs that are open when it is called."""

    def stop() -> None:
        for run in runs:
            run.stop()

    return stop
