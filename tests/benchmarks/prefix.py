"""How much of the prompts an engine with prefix caching serves from its cache, beside what the dialogues make possible.

The prompts are those of real runs: the scripted model speaks, and every call is sent to vLLM as well, whose own words
are thrown away (a tiny random model has nothing to say). So what the engine could have kept of its own answers is not
in the figure. Possible is the longest prefix of each prompt, in tokens, that some earlier prompt began with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.runners.terminal import loop_runner
from aloe_agents.runs.journal import Journal
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.recorder import Recorder
from tests.benchmarks.client import people
from tests.casts import paper_cast
from tests.tiny_models import make_tiny_qwen2
from tests.vllm_server import vllm_server

CONVERSATIONS, TURNS, CAPACITY = 24, 10, 16
FLAGS = ("--enable-prefix-caching", "--enable-prompt-tokens-details")


class Through:
    """The scripted model's words, with what vLLM counts of the prompt."""

    name = "tiny"

    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/chat/completions"
        self.session = aiohttp.ClientSession()
        self.prompts: list[tuple[Any, ...]] = []
        self.scripted = ScriptedModel()

    async def chat(self, call: Call) -> Completion:
        self.prompts.append(call.messages)
        body = {"model": "tiny", "messages": call.messages, "max_tokens": 1}
        async with self.session.post(self.url, json=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise Transient(FailureReason.SERVER_ERROR, str(answer))
        details = answer["usage"].get("prompt_tokens_details") or {}
        return dataclasses.replace(
            await self.scripted.chat(call),
            prompt_tokens=answer["usage"]["prompt_tokens"],
            cached_tokens=details.get("cached_tokens") or 0,
        )

    async def close(self) -> None:
        await self.session.close()


async def run(url: str, out: Path) -> list[tuple[Any, ...]]:
    """Hold the conversations; returns the prompts in the order of their sending."""
    model = Through(url)
    endpoint = Endpoint("tiny", [model], Limits(capacity=CAPACITY))
    with Journal(out) as journal:
        simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=TURNS, seed=1, recorder=Recorder(journal))
        await journal.claim(seed=1, turns=TURNS, requested=CONVERSATIONS, settings={}, endpoints={})
        outcome = await simulation.run(people(CONVERSATIONS))
    await endpoint.close()
    assert outcome.completed == CONVERSATIONS, outcome
    return model.prompts


def possible(prompts: list[tuple[Any, ...]], model: Path, block: int) -> float:
    """The share of tokens that lie in blocks with which an earlier prompt began as well."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    met: set[int] = set()
    shared = total = 0
    for prompt in prompts:
        tokens = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
        total += len(tokens)
        before, still = 0, True
        for start in range(0, len(tokens) - block, block):  # the last token is always computed
            before = hash((before, *tokens[start : start + block]))
            still = still and before in met
            shared += block * still
            met.add(before)
    return shared / total


def main() -> None:
    """Print the table."""
    if find_spec("vllm") is None:
        print("prefix: not measured, vLLM is not installed (CONTRIBUTING.md)")
        return
    print(f"prompt tokens from vLLM's prefix cache, {CONVERSATIONS} conversations x {TURNS} turns, {CAPACITY} at once")
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model", Path(folder) / "run"
        corpus = [text for person in people(1) for text in (person.profile, person.personality)]
        make_tiny_qwen2(model, corpus)
        with vllm_server(model, "tiny", Path(folder) / "log", max_model_len=8192, flags=FLAGS) as url:
            with loop_runner() as runner:
                prompts = runner.run(run(url, out))
            metrics = httpx.get(url.removesuffix("/v1") + "/metrics", trust_env=False).text
        with contextlib.closing(Reading(out)) as reading:
            roles = reading.accounting().roles
        block = int(re.findall(r'block_size="(\d+)"', metrics)[0])
        prompt, cached = (
            sum(getattr(role, name) for role in roles.values()) for name in ("prompt_tokens", "cached_tokens")
        )
        print(f"  served from cache {cached / prompt:.1%} of {prompt} tokens; possible token by token "
              f"{possible(prompts, model, 1):.1%}, in blocks of {block} {possible(prompts, model, block):.1%}")  # fmt: skip
        for name, role in roles.items():
            print(f"    {name:<12} {role.cached_tokens / role.prompt_tokens:.1%} of {role.prompt_tokens}")
