"""``aloe serve``: a local model behind vLLM, or the scripted model, which needs neither weights nor vLLM."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import threading
from pathlib import Path

import click

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.models.serving import last_lines, local_model, served
from aloe_agents.runners.terminal import loop_runner
from aloe_agents.text import inert

CHECKED = 5.0
"""Seconds between two checks that vLLM still answers."""


@click.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--latency", type=click.FloatRange(0), default=0.0, help="Seconds that each answer takes (scripted only)."
)
@click.option("--api-key-env", help="Require the key that this environment variable holds.")
@click.option("--max-model-len", type=click.IntRange(1), help="Refuse prompts of more tokens than this.")
@click.option("--seed", type=int, default=0, help="Random seed (scripted only).")
@click.option("--vllm", "vllm_options", default="", metavar="OPTIONS", help="Options to add to vLLM's command line.")
@click.option(
    "--log", type=click.Path(path_type=Path), default="vllm.log", show_default=True, help="File for vLLM's output."
)
def command(
    model: str,
    host: str,
    port: int,
    latency: float,
    api_key_env: str | None,
    max_model_len: int | None,
    seed: int,
    vllm_options: str,
    log: Path,
) -> None:
    """Serve MODEL until stopped: OpenAI-compatible, on this machine. MODEL is a directory with a transformers model or
    a LoRA adapter, which vLLM serves, or the word scripted.

    \b
    aloe serve ./my-model --port 8000
    aloe serve scripted --port 8000 --latency 0.2
    """
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise click.UsageError(f"${api_key_env} is not set")
    if model != "scripted":
        if not Path(model).is_dir():
            raise ConfigError(f"{model!r} is neither a directory nor scripted")
        if latency or seed:
            raise ConfigError("--latency and --seed apply only to the scripted model")
        length = ["--max-model-len", str(max_model_len)] if max_model_len else []
        _serve_local(Path(model), host, port, [*length, *shlex.split(vllm_options)], log, key)
        return
    with loop_runner() as runner:
        runner.run(_serve(host, port, latency, key, max_model_len, seed))


def _serve_local(path: Path, host: str, port: int, options: list[str], log: Path, key: str | None) -> None:
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    model = local_model(path)
    try:
        with served(
            model, log, host=host, port=port, options=options, key=key, waiting=lambda: not over.is_set()
        ) as url:
            click.echo(f"vLLM loads {path} (its log: {log})", err=True)
            place = url()
            if not over.is_set():
                click.echo(f"{model.name} at {place} (Ctrl-C stops it)")
                while not over.wait(CHECKED):
                    url()
    except Fatal:
        for line in last_lines(log):
            click.echo(f"  {inert(line)}", err=True)
        raise


async def _serve(host: str, port: int, latency: float, key: str | None, max_model_len: int | None, seed: int) -> None:
    from aloe_agents.models.scripted.server import make_app, serve

    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    app = make_app(latency=latency, api_key=key, max_model_len=max_model_len, seed=seed)
    async with serve(app, host, port) as base_url:
        click.echo(f"scripted model at {base_url} (Ctrl-C stops it)")
        await over.wait()
