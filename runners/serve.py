"""``aloe serve scripted``: the scripted model behind HTTP, so that the whole path to a server runs without one."""

from __future__ import annotations

import asyncio
import signal

import click

from aloe_agents.runners.simulate import loop_runner


@click.command()
@click.argument("model", type=click.Choice(["scripted"]))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--latency", type=click.FloatRange(0), default=0.0, help="Seconds that an answer takes.")
@click.option("--api-key-env", help="Demand the key in this environment variable.")
@click.option("--max-model-len", type=click.IntRange(1), help="Refuse prompts of more (estimated) tokens.")
@click.option("--seed", type=int, default=0, help="Of the model's choices of words.")
def command(
    model: str, host: str, port: int, latency: float, api_key_env: str | None, max_model_len: int | None, seed: int
) -> None:
    """Serve a model until stopped: OpenAI-compatible, on this machine.

    \b
    aloe serve scripted --port 8000 --latency 0.2
    """
    import os

    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise click.UsageError(f"${api_key_env} is not set")
    with loop_runner() as runner:
        runner.run(_serve(host, port, latency, key, max_model_len, seed))


async def _serve(host: str, port: int, latency: float, key: str | None, max_model_len: int | None, seed: int) -> None:
    from aloe_agents.scripted_server import make_app, serve

    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    app = make_app(latency=latency, api_key=key, max_model_len=max_model_len, seed=seed)
    async with serve(app, host, port) as base_url:
        click.echo(f"scripted model at {base_url} (Ctrl-C stops it)")
        await over.wait()
