"""CPU of the client, per call: the whole of this program beside a plain loop over the openai SDK and bare aiohttp.

Each client holds the same conversations, with the same prompts, against a load server without latency, and is a
process of its own, whose CPU time is taken with all its threads. The plain loops do no more than ask: no journal,
no retries, no picture. This program runs as its users run it, with all of that.
"""

from __future__ import annotations

import asyncio
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import orjson

from aloe_agents import prompts
from aloe_agents.config import Config, EndpointTable, RoleTable, RunTable
from aloe_agents.engine.expansion import coin
from aloe_agents.model import ChatMessage
from aloe_agents.personas import Persona
from aloe_agents.runners.simulate import simulate
from aloe_agents.runners.terminal import loop_runner
from tests.benchmarks.server import TEXT, load_server

CONVERSATIONS, TURNS, CAPACITY = 50, 10, 64
CALLS = CONVERSATIONS * TURNS * 4

FIELDS = {"profile", "personality", "conversation", "message", "revealed"}
PROMPTS = {name: prompts.load(name, FIELDS) for name in ("role_player", "induction", "preferred")}

Ask = Callable[[list[ChatMessage]], Awaitable[str]]


def people(count: int) -> list[Persona]:
    """Personas of a real length: ten facts, ten traits."""
    profile = " ".join(["She is a 58-year-old locksmith who mends old radios at night and sings in a choir."] * 10)
    personality = " ".join(["She is blunt but warm, and slow to trust people whom she has just met."] * 8)
    return [
        Persona(
            id=f"p{n:06d}", profile=f"She lives at number {n}. {profile}", personality=f"She is no {n}. {personality}"
        )
        for n in range(count)
    ]


async def converse(ask: Ask, persona: Persona) -> None:
    """One conversation as anybody would write it first: the user; induction and rejected; preferred; the coin."""
    known = {"profile": persona.profile, "personality": persona.personality}
    user_side = [PROMPTS["role_player"].fill(part, **known) for part in ("system", "user")]
    other_side: list[ChatMessage] = []
    lines: list[str] = []
    path: tuple[str, ...] = ()
    for _ in range(TURNS):
        message = await ask(user_side)
        lines.append(f"A: {message}")
        fields = {**known, "conversation": "\n".join(lines)}
        revealed, rejected = await asyncio.gather(
            ask([PROMPTS["induction"].fill(part, **fields) for part in ("system", "user")]),
            ask([*other_side, {"role": "user", "content": message}]),
        )
        asked = PROMPTS["preferred"].fill("user", message=message, revealed=revealed)
        preferred = await ask([*other_side, asked])
        chosen = coin(1, persona.id, path)
        path = (*path, ("preferred", "rejected")[chosen])
        answer = (preferred, rejected)[chosen]
        lines.append(f"B: {answer}")
        user_side += [{"role": "assistant", "content": message}, {"role": "user", "content": answer}]
        other_side += [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]


async def _hold(ask: Ask, conversations: int = CONVERSATIONS, capacity: int = CAPACITY) -> None:
    places = asyncio.Semaphore(capacity)

    async def within(messages: list[ChatMessage]) -> str:
        async with places:
            return await ask(messages)

    async with asyncio.TaskGroup() as group:
        for persona in people(conversations):
            group.create_task(converse(within, persona))


async def by_sdk(url: str) -> None:
    """A plain loop over the openai SDK, as it comes."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def ask(messages: list[ChatMessage]) -> str:
            answer = await client.chat.completions.create(model="load", messages=messages)  # type: ignore[arg-type]
            return answer.choices[0].message.content or ""

        await _hold(ask)


async def bare(
    url: str,
    conversations: int = CONVERSATIONS,
    capacity: int = CAPACITY,
    count: Callable[[int], None] = lambda by: None,
) -> None:
    """aiohttp, orjson and uvloop, and nothing else: what no client in Python goes below."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=capacity)) as session:
        headers = {"Content-Type": "application/json"}

        async def ask(messages: list[ChatMessage]) -> str:
            body = orjson.dumps({"model": "load", "messages": messages})
            count(1)
            async with session.post(f"{url}/chat/completions", data=body, headers=headers) as response:
                answer = orjson.loads(await response.read())
                count(-1)
                return str(answer["choices"][0]["message"]["content"])

        await _hold(ask, conversations, capacity)


def configured(url: str, capacity: int) -> Config:
    """The paper's four roles at one endpoint."""
    return Config(
        run=RunTable(seed=1, turns=TURNS),
        endpoints={"load": EndpointTable(base_url=url, model="load", capacity=capacity)},
        roles={name: RoleTable(endpoint="load") for name in ("role_player", "induction", "preferred", "rejected")},
    )


def ours(url: str) -> None:
    """``aloe simulate`` with its journal and, on a terminal that somebody reads, its picture."""
    with tempfile.TemporaryDirectory() as folder:
        code = simulate(configured(url, CAPACITY), people(CONVERSATIONS), Path(folder) / "run")
    assert code == 0, code


def _one(client: str, url: str) -> None:
    """Be one client; print its CPU seconds."""
    import aiohttp  # noqa: F401 imports are no part of a call
    import openai  # noqa: F401
    import rich.live  # noqa: F401

    began = time.process_time()
    if client == "ours":
        ours(url)
    elif client == "bare":
        with loop_runner() as runner:
            runner.run(bare(url))
    else:
        asyncio.run(by_sdk(url))
    print(f"\nCPU {time.process_time() - began}", file=sys.stderr, flush=True)


def cpu_seconds(client: str, url: str) -> float:
    """CPU seconds of one client in a process of its own, its output on a pseudo-terminal of 160 x 50."""
    theirs, ours_ = pty.openpty()
    environment = {**os.environ, "COLUMNS": "160", "LINES": "50", "TERM": "xterm-256color"}

    def drain() -> None:
        with suppress(OSError):
            while os.read(theirs, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    command = [sys.executable, "-m", "tests.benchmarks.client", client, url]
    done = subprocess.run(command, stdout=ours_, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(ours_)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stderr.rsplit("CPU ", 1)[1])


def main(rounds: int = 3) -> None:
    """Print the table."""
    taken: dict[str, list[float]] = {"bare": [], "ours": [], "sdk": []}
    with load_server() as url:
        for _ in range(rounds):  # in turns, so that a busy moment of the machine meets them all
            for client, seconds in taken.items():
                seconds.append(cpu_seconds(client, url))
    calls = {name: statistics.median(seconds) / CALLS * 1e3 for name, seconds in taken.items()}
    print(f"client CPU, {CONVERSATIONS} conversations x {TURNS} turns = {CALLS} calls of {len(TEXT)} characters each")
    print(f"  bare aiohttp + orjson + uvloop    {calls['bare']:.3f} ms a call")
    print(f"  this program, journal and picture {calls['ours']:.3f} ms a call = {calls['ours'] / calls['bare']:.2f} x")
    print(
        f"  plain loop over the openai SDK    {calls['sdk']:.3f} ms a call = {calls['sdk'] / calls['ours']:.1f} x ours"
    )


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2])
