"""A model behind an OpenAI-compatible server: chat completions straight over aiohttp and orjson.

One request, one answer; ``answers`` says what the answer means. Nothing is tried again here. Redirects are not
followed, since they would carry the key elsewhere; proxies are not used for loopback addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from urllib.parse import urlsplit

import aiohttp
import orjson

from aloe_agents.errors import CallFailed, FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.answers import KEPT_IDLE, Server, completion_of, failure_of, place_of
from aloe_agents.text import one_line

LARGEST_BODY = 16 * 2**20
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class HttpModel:
    """``model`` at ``base_url`` (which ends in ``/v1`` as a rule).

    ``key`` is sent as a bearer token; ``key_from`` says in error messages where it came from. As many connections are
    kept open as there were calls in flight: whoever calls limits those, a pool of its own could only disagree.
    """

    def __init__(self, base_url: str, model: str, *, key: str = "", key_from: str = "") -> None:
        self.base_url = base_url.rstrip("/")
        self.name = model
        self._url = f"{self.base_url}/chat/completions"
        self._key = key
        self._server = Server(place_of(base_url), model, key, key_from)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def chat(self, call: Call) -> Completion:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if call.key:
            headers["Idempotency-Key"] = call.key
        # copied, because orjson leaves its buffers several times too long, and this one lives as long as the call
        body = bytes(memoryview(orjson.dumps({"model": self.name, "messages": call.messages, **call.sampling})))
        try:
            async with self._connected().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                raw = await self._read(response)
                if response.status == 200:
                    return completion_of(raw, self._server)
                raise failure_of(response.status, response.headers, raw, self._server)
        except aiohttp.ClientConnectorError as error:  # nothing was sent
            text = f"{self._server.place} cannot be reached: {one_line(str(error.os_error))}"
            raise Transient(FailureReason.UNREACHABLE, text) from None
        except aiohttp.ClientPayloadError:
            text = f"{self._server.place} broke off in the middle of its answer"
            raise Transient(FailureReason.BAD_RESPONSE, text, uncertain=True) from None
        except aiohttp.ClientError as error:
            text = f"{self._server.place} dropped the connection: {one_line(str(error) or type(error).__name__)}"
            raise Transient(FailureReason.UNREACHABLE, text, uncertain=True) from None

    async def waiting(self) -> int | None:
        """How many requests wait in the engine, as vLLM's ``/metrics`` counts them; None where nobody says so.

        Servers that want a key are not asked: they are no engines of one's own.
        """
        if self._key:
            return None
        url = self.base_url.removesuffix("/v1") + "/metrics"
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with self._connected().get(url, allow_redirects=False, timeout=timeout) as response:
                counts = _WAITING.findall(await self._read(response)) if response.status == 200 else []
        except (aiohttp.ClientError, TimeoutError, CallFailed):
            return None
        return int(sum(map(float, counts))) if counts else None

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_IDLE, ttl_dns_cache=300),
                timeout=aiohttp.ClientTimeout(total=None),  # the attempt's deadline is the endpoint's
                trust_env=not is_loopback(self.base_url),
                auto_decompress=True,
            )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces = bytearray()
        async for piece in response.content.iter_any():
            pieces += piece
            if len(pieces) > LARGEST_BODY:
                response.close()
                raise CallFailed(
                    FailureReason.BAD_RESPONSE, f"{self._server.place} answered more than {LARGEST_BODY} bytes"
                )
        return bytes(pieces)


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
