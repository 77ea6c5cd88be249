"""Embedders and the store that keeps their vectors: nothing is embedded twice, nothing unlike is compared."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.models.scripted.server import serve
from aloe_agents.pools.embedding import EndpointEmbedder, LexicalEmbedder, SentenceEmbedder, VectorStore
from aloe_agents.pools.similarity import Vectors, normalised


class Counting:
    """Lexical, and remembers what it was asked for; of a dimension that can be chosen."""

    name = "counting"

    def __init__(self, dimension: int = 1024) -> None:
        self.asked: list[str] = []
        self.dimension = dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return (await LexicalEmbedder().embed(texts))[:, : self.dimension]


async def test_what_the_store_holds_is_never_embedded_again(tmp_path: Path) -> None:
    file, texts = tmp_path / "new/vectors.sqlite", ["She keeps bees.", "He sings.", "She keeps bees."]
    first = Counting()
    store = VectorStore(file, first)
    rows = await store.vectors(texts)
    assert first.asked == ["She keeps bees.", "He sings."] and rows.shape == (3, 1024)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1) and (rows[0] == rows[2]).all()
    store.close()
    second = Counting()
    again = VectorStore(file, second)
    assert (await again.vectors([*texts, "They paint."]))[:3].tolist() == rows.tolist()
    assert second.asked == ["They paint."]
    assert (await again.vectors([])).shape == (0, 1024)
    again.close()
    assert VectorStore.made_with(file) == "counting" and VectorStore.made_with(tmp_path / "none") is None


async def test_another_embedder_or_dimension_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "vectors.sqlite"
    store = VectorStore(file, Counting())
    await store.vectors(["She keeps bees."])
    store.close()
    with pytest.raises(
        ConfigError,
        match="holds vectors of 'counting', which cannot be compared with those of 'lexical': use the embedder counting",
    ):
        VectorStore(file, LexicalEmbedder())
    shorter = VectorStore(file, Counting(256))
    with pytest.raises(ConfigError, match="holds vectors of 1024 dimensions, but the embedder 'counting' gives 256"):
        await shorter.vectors(["He sings."])
    shorter.close()


async def test_a_file_that_is_no_store_and_vectors_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ConfigError, match="cannot use the vectors in"):
        VectorStore(tmp_path / "text", Counting())

    class Broken(Counting):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            return np.full((len(texts), 4), np.nan, np.float32)

    store = VectorStore(tmp_path / "vectors.sqlite", Broken())
    with pytest.raises(ConfigError, match="did not give one finite vector for each text"):
        await store.vectors(["one"])
    store.close()


async def test_the_lexical_embedder_sees_words_and_no_meaning() -> None:
    rows = normalised(
        await LexicalEmbedder().embed(
            [
                "She keeps bees in Turin.",
                "In Turin she keeps a bee.",
                "He repairs radios.",
                "Apiculture in Piedmont.",
                "is",
            ]
        )
    )
    similar = rows @ rows.T
    assert similar[0, 1] > 0.6 and abs(similar[0, 2]) < 0.1 and abs(similar[0, 3]) < 0.1
    assert not rows[4].any(), "a text without a telling word has no direction"


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'aloe-agents\[embed\]'") as refused:
        SentenceEmbedder()
    assert "\n" not in str(refused.value)


async def test_vectors_come_from_a_server_in_order_and_faults_pass(tmp_path: Path) -> None:
    requests: list[int] = []

    async def embeddings(request: web.Request) -> web.Response:
        body = await request.json()
        requests.append(len(body["input"]))
        if len(requests) == 1:
            return web.json_response({"error": {"message": "busy"}}, status=503)
        rows = [{"index": n, "embedding": [float(text), 1.0]} for n, text in enumerate(body["input"])]
        return web.json_response({"data": rows[::-1]})

    app = web.Application()
    app.router.add_post("/v1/embeddings", embeddings)
    async with serve(app) as url:
        rows = await EndpointEmbedder(url, "m").embed([str(n) for n in range(100)])
        assert rows[:, 0].tolist() == list(range(100)) and requests == [64, 64, 36]


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (401, {"error": "no"}, Fatal, "refused"),
        (404, {"error": {"message": "no such model"}}, Fatal, "no such model"),
        (200, {"data": []}, Fatal, "did not give a vector for each text"),
        (200, {"data": [{"index": 0, "embedding": "x"}]}, Fatal, "did not give a vector for each text"),
    ],
)
async def test_a_server_without_vectors_ends_it_in_one_line(
    status: int, body: object, error: type[Exception], said: str
) -> None:
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app.router.add_post("/v1/embeddings", answer)
    async with serve(app) as url:
        with pytest.raises(error, match=said):
            await EndpointEmbedder(url, "m", attempts=1).embed(["one"])
