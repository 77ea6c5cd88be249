"""vLLM's CPU build serves a model made here, and goes away again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from aloe_agents.models.http import HttpModel
from tests.tiny_models import make_tiny_qwen2
from tests.vllm_server import require_vllm, vllm_processes, vllm_server

CORPUS = ["I moved to Lisbon in spring and I still miss the snow.", "What would you cook for six people on a Sunday?"]


async def _waiting(base_url: str) -> int | None:
    """How many requests wait in the engine, as an endpoint of unknown capacity reads it."""
    model = HttpModel(base_url, "tiny")
    try:
        return await model.waiting()
    finally:
        await model.close()


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    require_vllm()
    make_tiny_qwen2(tmp_path / "model", CORPUS)
    with vllm_server(tmp_path / "model", "tiny", tmp_path / "vllm.log") as base_url:
        assert vllm_processes()
        reply = httpx.post(
            f"{base_url}/chat/completions",
            json={
                "model": "tiny",
                "messages": [{"role": "user", "content": "Where did I move?"}],
                "max_tokens": 16,
                "seed": 7,
            },
            timeout=60,
            trust_env=False,
        )
        assert reply.status_code == 200, reply.text
        body = reply.json()
        assert body["model"] == "tiny"
        assert body["choices"][0]["message"]["role"] == "assistant"
        assert 0 < body["usage"]["completion_tokens"] <= 16
        assert asyncio.run(_waiting(base_url)) == 0
    assert not vllm_processes()
